"""A GPU is the default of whatever takes a model by name, if there is one."""

from pathlib import Path

import pytest
import torch

from hardy.devices import device_of
from hardy.errors import InputError
from hardy.zoo import loading
from hardy.zoo.subject import Subject


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device_of(None) == device_of("auto") == torch.device(expected)
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("wrong", ["gpu", "cuda:77", "", "cpu:x"])
def test_devices_that_are_not_there_are_refused(wrong: str) -> None:
    with pytest.raises(InputError, match=f"device '{wrong}' is not there.*give cpu, cuda, cuda:1 or auto"):
        device_of(wrong)


@pytest.mark.parametrize(("given", "asked"), [(None, "auto"), ("cpu", "cpu")])
def test_a_model_by_name_goes_where_it_is_asked_for(
    micro_llama: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, asked: str
) -> None:
    seen = []

    def recorded(device: object) -> torch.device:
        seen.append(device)
        return torch.device("cpu")

    monkeypatch.setattr(loading, "device_of", recorded)
    assert Subject.of(micro_llama, device=given).device == torch.device("cpu")
    assert seen == [asked]
