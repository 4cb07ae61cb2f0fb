"""A run goes on from its file as if it had never stopped, and from no other run's file."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hardy.errors import InputError
from hardy.runs.checkpoint import Checkpoint, difference


def at(path: Path, **identity: Any) -> Checkpoint:
    return Checkpoint(path, kind="training", identity=identity)


def test_any_nesting_comes_back_as_it_was(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {
        "step": 3,
        "nested": {"a": [1, 0.1, None, True, "inf", math.inf, -math.inf], "empty": {}, "b": (1, (2, [3]))},
        "keys": {0: "int", "0": "text", (1, 2): {"$tensor": 1}, "non-finite": "nan"},
        "whole": whole,
        "again": whole,
        "part": whole[:, 1:3],
        "turned": whole.T,
        "a.b": torch.ones(2, dtype=torch.bfloat16),
        "a": {"b": torch.zeros(0, dtype=torch.int64)},
        "scalar": torch.tensor(5),
        "complex": torch.tensor([1 + 2j]).conj(),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    file = at(tmp_path / "run.safetensors", seed=0)
    assert file.load() is None
    file.save(state)
    loaded = file.load()
    assert loaded is not None
    assert list(loaded) == list(state)
    for name in ("step", "nested", "keys"):
        assert loaded[name] == state[name]
    for name in ("whole", "again", "part", "turned", "a.b", "scalar", "complex", "parameter"):
        assert loaded[name].dtype == state[name].dtype
        assert torch.equal(loaded[name], state[name])
    assert loaded["a"]["b"].dtype == torch.int64
    with safe_open(file.path, "pt") as stored:
        assert len(list(stored.keys())) == 8  # what is tied is there once


def test_a_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    file = at(tmp_path / "run.safetensors", rate=0.1)

    def run(stop: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        begin = 0
        if saved := file.load():
            begin = saved["step"]
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
        for step in range(begin, stop):
            model(torch.full((1, 3), float(step + 1))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        file.save({"step": stop, **states})
        return [parameter.detach() for parameter in model.parameters()]

    straight = run(6)
    file.path.unlink()
    run(2)
    assert all(map(torch.equal, run(6), straight))


def test_only_the_same_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    at(path, plan={"seed": 0, "rate": math.inf, "sizes": (1, 2)}, text="abc").save({"step": 1})
    assert at(path, text="abc", plan={"rate": math.inf, "sizes": [1, 2], "seed": 0}).load() == {"step": 1}
    with pytest.raises(InputError) as error:
        at(path, plan={"seed": 1, "rate": 2.0, "sizes": (1, 2)}, text="abc", more=True).load()
    assert str(error.value) == (
        f"{path} belongs to another training: plan.seed is 0 there, 1 here, plan.rate is inf there, 2.0 here, "
        "more is absent there, True here; choose another place, or remove it to begin anew"
    )
    with pytest.raises(InputError, match="is the checkpoint of a training, not of a fit"):
        Checkpoint(path, kind="fit", identity={}).load()
    assert difference({"a": {"b": 1}, "c": 1, "d": {}}, {"a": {"b": 2}, "c": 2, "d": {"e": 1}}, most=1) == (
        "a.b is 1 there, 2 here and 3 more"
    )


def test_what_needs_pickling_is_refused_and_nothing_written(tmp_path: Path) -> None:
    file = at(tmp_path / "run.safetensors")
    with pytest.raises(InputError, match=r"not a \w*Path \(here\.1\)"):
        file.save({"here": [1, tmp_path]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04N.", b"PK\x03\x04", b"\xff" * 99])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        at(path).load()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    at(path).save({"x": torch.ones(5), "step": 1})
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match="is damaged"):
            at(path).load()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "is not a checkpoint of hardy"),
        ({"format": "hardy-checkpoint", "version": "2", "hardy": "9.0"}, "of version 2, made by hardy 9.0"),
        ({"format": "hardy-checkpoint", "version": "1"}, "is damaged"),
        ({"format": "hardy-checkpoint", "version": "1", "record": "[1]"}, "is damaged"),
        (
            {"format": "hardy-checkpoint", "version": "1", "record": '{"kind":"training","identity":{},"state":[]}'},
            "is damaged: its state is no mapping",
        ),
        (
            {
                "format": "hardy-checkpoint",
                "version": "1",
                "record": '{"kind":"training","identity":{},"state":{"x":{"$tensor":"y"}}}',
            },
            "is damaged",
        ),
    ],
)
def test_foreign_and_newer_files_are_refused(tmp_path: Path, metadata: dict[str, str] | None, message: str) -> None:
    path = tmp_path / "run.safetensors"
    save_file({"x": torch.ones(1)}, path, metadata)
    with pytest.raises(InputError, match=message):
        at(path).load()


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    code = "import os, sys, hardy.files as f; f.write_atomic(sys.argv[1], lambda temporary: os._exit(0))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert len(list(tmp_path.iterdir())) == 1
    assert at(path).load() is None
    assert list(tmp_path.iterdir()) == []
