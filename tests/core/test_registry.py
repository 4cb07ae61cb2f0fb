"""Stored records find their classes again: hardy's by id, those of other packages where they say so."""

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import hardy
from hardy.artefacts import history
from hardy.core import InputError, Method, Site, WeightMethod, chain, register
from hardy.core.method import from_dict
from hardy.core.registry import Registered, Registry
from hardy.hardware import Chip, Device
from hardy.hardware.device import device_from_dict

OLD = Path(__file__).parents[1] / "data"


def kinds_below(base: type) -> set[type]:
    below = {kind for each in base.__subclasses__() for kind in {each} | kinds_below(each)}
    return {kind for kind in below if kind.__module__.startswith("hardy.") and not kind.__abstractmethods__}


@pytest.mark.parametrize("base", [Method, Device, hardy.artefacts.PackedLayer])
def test_every_class_of_hardy_is_found_by_its_id_and_by_its_old_path(base: type[Registered]) -> None:
    for room in ("quant", "hardware", "analog", "core"):
        getattr(hardy, room)
    kinds = kinds_below(base)
    assert len(kinds) > 1
    assert len({kind.id for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert base.registry.find(kind.id) is kind
        assert base.registry.find(f"{kind.__module__}.{kind.__qualname__}") is kind


def test_ids_are_names_that_last() -> None:
    assert hardy.quant.TritPlanes.id == "quant.trit_planes"
    assert hardy.quant.GPTQ.id == "quant.gptq"
    assert hardy.hardware.ReramCMO.id == "hardware.reram_cmo"
    assert hardy.quant.TritPlanes(planes=1).to_dict()["method"] == "quant.trit_planes"
    assert Chip.preset("pcm").to_dict()["device"]["device"] == "hardware.pcm"
    assert hardy.quant.TritLinear.id == "quant.trit_linear"


def test_a_record_imports_only_the_room_that_it_names() -> None:
    code = (
        "import sys\nfrom hardy.core.method import from_dict\n"
        "method = from_dict({'method': 'analog.redundancy', 'fields': {'copies': 2}})\n"
        "assert type(method).__name__ == 'Redundancy'\n"
        "assert 'hardy.fields' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["plain", "packed"])
def test_artefacts_of_the_version_before_still_load(name: str) -> None:
    """They name classes by module path and packed layers by their fields; made before there were ids."""
    from safetensors.torch import load_file

    expected = load_file(OLD / "logits.safetensors")[name]
    model = hardy.load(OLD / f"{name}-0.1")
    # Layers on a grid round activations to int8 since then; their weights are the same.
    tolerance = {"rtol": 0.0, "atol": 0.01 * expected.std().item()} if name == "packed" else {}
    with torch.inference_mode():
        torch.testing.assert_close(model(torch.arange(18).reshape(2, 9)).logits, expected, **tolerance)
    written = json.loads((OLD / f"{name}-0.1" / "hardy.json").read_text())["methods"]
    assert [type(method).__name__ for method in history(model)] == [
        record["method"].rpartition(".")[2] for record in written
    ]
    assert [from_dict(method.to_dict()) for method in history(model)] == list(history(model))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unregistered(WeightMethod):
    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        return weight * 0.5, {}


def test_what_could_not_be_found_again_is_not_stored(llama: nn.Module, tmp_path: Path) -> None:
    """Alone, in a chain, or in a field of another method."""
    method = Unregistered(select="mlp")
    assert Unregistered.id == f"{__name__.partition('.')[0]}.unregistered"
    for applied in (method, chain(method), chain(chain(method))):
        with applied.apply(llama), pytest.raises(InputError, match="decorate it with hardy.core.register, or name it"):
            hardy.save(llama, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_decorated_class_is_found_and_may_be_defined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Method.registry, "_classes", dict(Method.registry._classes))

    def define(factor: float, qualname: str = "Half") -> type[WeightMethod]:
        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Half(WeightMethod):
            id = "mylab.half"

            def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
                return weight * factor, {}

        Half.__qualname__ = qualname
        return Half

    first, again = register(define(0.5)), register(define(0.25))
    assert Method.registry.find("mylab.half") is again
    assert from_dict(again(select="mlp").to_dict()) == again(select="mlp")
    with pytest.raises(InputError, match="cannot be stored"):
        first().to_dict()
    with pytest.raises(InputError, match=r"have the same id, 'mylab.half'; give one another"):
        register(define(0.5, "Other"))
    with pytest.raises(InputError, match="only methods, devices and packed layers are registered"):
        register(int)
    with pytest.raises(InputError, match=r"'mylab.halve' is not a method of hardy.*did you mean mylab.half"):
        from_dict({"method": "mylab.halve", "fields": {}})


def test_devices_that_are_none_are_refused() -> None:
    for name in ("os.system", "hardware.nothing", "cli.main", "__main__.x", "quant.trit_planes", None, "hardy..x"):
        with pytest.raises(InputError, match="is not a device of hardy"):
            device_from_dict({"device": name, "fields": {}})


PACKAGE = """
import dataclasses
from hardy.core import WeightMethod
from hardy.hardware import Device
from hardy.quant.quantizer import Quantizer

@dataclasses.dataclass(frozen=True, kw_only=True)
class Shrink(WeightMethod):
    factor: float = 0.5

    def edit_weight(self, weight, site):
        return weight * self.factor, {}

@dataclasses.dataclass(frozen=True, kw_only=True)
class Perfect(Device):
    def conductance(self, target, normals, seconds):
        return target
"""

LOADED = """
import sys, torch, hardy
torch.set_num_threads(1)  # as the process that saved: the sums of more threads differ in the last bit
from hardy.artefacts import history
from hardy.runs import Cell, Study
from hardy.studies.measure import measure
assert "mylab" not in sys.modules
model = hardy.load(sys.argv[2])
torch.testing.assert_close(model(torch.arange(9)[None]).logits, torch.load(sys.argv[3]))  # threads may differ
shrink, deploy = history(model)
assert (shrink.id, shrink.factor) == ("mylab.shrink", 0.25)
assert deploy.chip.device.to_dict() == {"device": "mylab.perfect", "fields": {"g_max": 9.0, "g_min": 0.0}}

subject = hardy.Subject.of(sys.argv[1], tokens=128, window=64)
cells = [Cell(condition=str(factor), arguments={"part": "evaluation", "method": type(shrink)(factor=factor).to_dict()})
         for factor in (1.0, 0.25)]
results = Study(name="shrunk", run=measure, settings=subject.settings(), subject=subject).results(cells, workers=2)
assert not any(result.error for result in results), results
assert results[0].values["loss"] != results[1].values["loss"]

ranking = hardy.studies.locate(sys.argv[1], by=type(shrink)(factor=0.0), tokens=128, window=64, workers=1)
assert len(ranking) == 14 and ranking.by == "Shrink(factor=0.0)", ranking
"""


def install(package: Path, into: Path) -> None:
    """Make a wheel of `package`, with entry points, and install it."""
    wheel = package / "mylab-1.0-py3-none-any.whl"
    points = "[hardy.methods]\nmylab.shrink = mylab:Shrink\nmylab.wrong = mylab:Perfect\nmylab.gone = mylab:Nothing\n"
    points += "[hardy.devices]\nmylab.perfect = mylab:Perfect\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mylab.py", PACKAGE)
        archive.writestr("mylab-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
        archive.writestr("mylab-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("mylab-1.0.dist-info/entry_points.txt", points)
        archive.writestr("mylab-1.0.dist-info/RECORD", "")
    if not any(importlib.metadata.distributions(name="pip")):
        zipfile.ZipFile(wheel).extractall(into)
        return
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(into),
        str(wheel),
    ]
    subprocess.run(command, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the package is installed; this process has it for the test only."""
    install(tmp_path, tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for kind in (Method, Device):
        monkeypatch.setattr(kind.registry, "_classes", dict(kind.registry._classes))
    yield tmp_path / "site"
    sys.modules.pop("mylab", None)


def test_a_package_of_its_own_is_applied_saved_loaded_studied_and_located(
    mylab: Path, micro_llama: Path, tmp_path: Path
) -> None:
    from mylab import Perfect, Shrink

    model, tokenizer = hardy.zoo.load(str(micro_llama))
    Shrink(factor=0.25, select="mlp.down").apply(model)
    hardy.analog.Deploy(chip=Chip(device=Perfect(g_max=9.0), read_noise=0.0), select="mlp.up").apply(model)
    hardy.save(model, tmp_path / "saved", tokenizer=tokenizer)
    torch.save(model(torch.arange(9)[None]).logits, tmp_path / "logits.pt")
    path = os.pathsep.join([str(mylab), str(Path(hardy.__file__).parents[1])])
    arguments = [str(micro_llama), str(tmp_path / "saved"), str(tmp_path / "logits.pt")]
    command = [sys.executable, "-c", LOADED, *arguments]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})


def test_a_model_of_a_package_that_is_not_here_is_refused(llama: nn.Module, tmp_path: Path) -> None:
    hardy.save(llama, tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "hardy.json").read_text())
    record["methods"] = [{"method": "mylab.shrink", "fields": {}}]
    (tmp_path / "saved" / "hardy.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="'mylab.shrink' is not a method of hardy, nor of a package installed here"):
        hardy.load(tmp_path / "saved")


def test_entry_points_that_name_something_else_are_refused(mylab: Path) -> None:
    registry = Registry(Method, "hardy.methods")
    with pytest.raises(InputError, match="names mylab:Perfect, which is no method"):
        registry.find("mylab.wrong")
    with pytest.raises(InputError, match="the method 'mylab.gone' is mylab:Nothing, which fails"):
        registry.find("mylab.gone")
    assert registry.find("mylab.shrink").__name__ == "Shrink"
