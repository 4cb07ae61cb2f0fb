"""`hardy.load` opens whatever hardy wrote, and says clearly what it does not open."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import hardy
from hardy.core import InputError, Ranking, chain
from hardy.fields import Field, HadamardQuant, IntegerField, SharedField, sample_photo, save_field
from hardy.fields.container import packed
from hardy.files import write_json
from hardy.hardware import Chip
from hardy.opening import OPENERS, kind_of
from hardy.report import Report, Row
from hardy.splat import save_ply

RANKING = Ranking(scores={"a": 1.0, "b": 0.5}, meaning="what it costs", unit="nats/token", by="hand")
REPORT = Report(title="found", rows=(Row(metric="loss", condition="all", value=float("inf")),))
METHOD = chain(hardy.quant.TritPlanes(planes=1), hardy.analog.Deploy(chip=Chip.preset("pcm"), seed=4))
CHIP = Chip.preset("pcm")
FIELD = Field(2, 3, hidden_features=8, hidden_layers=1, seed=3)
ALBUM = SharedField(3, 2, 1, hidden_features=8, shared_layers=2, projections=2)
INTEGERS = HadamardQuant(weight_bits=6).quantize(FIELD, sample_photo("flower", (6, 7)))
_SHAPES = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (3, 3)}
GAUSSIANS = {
    name: torch.randn(5, *shape, generator=torch.Generator().manual_seed(1)) for name, shape in _SHAPES.items()
}


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_integers(found: Any) -> bool:
    return isinstance(found, IntegerField) and packed([found.model]) == packed([INTEGERS.model])


SAVED: dict[str, tuple[str, Callable[[Path], Any], Callable[[Any], bool]]] = {
    "chip.json": ("hardy-chip", CHIP.save, lambda found: found == CHIP),
    "study": ("hardy-report", REPORT.save, lambda found: found == REPORT),
    "report.json": ("hardy-report", lambda path: path.write_text(REPORT.to_json()), lambda found: found == REPORT),
    "ranking.json": ("hardy-ranking", RANKING.save, lambda found: found == RANKING),
    "old.json": ("hardy-ranking", lambda path: write_json(path, RANKING.to_dict()), lambda found: found == RANKING),
    "method.json": ("method", lambda path: write_json(path, METHOD.to_dict()), lambda found: found == METHOD),
    "scene.ply": ("Gaussians", lambda path: save_ply(GAUSSIANS, path), lambda found: same_tensors(found, GAUSSIANS)),
    "field": (
        "hardy-field",
        lambda path: save_field(FIELD, path),
        lambda found: same_tensors(found.state_dict(), FIELD.state_dict()),
    ),
    "album.safetensors": (
        "hardy-field",
        lambda path: save_field(ALBUM, path),
        lambda found: same_tensors(found.state_dict(), ALBUM.state_dict()),
    ),
    "integers.hardy": ("fields of integers", INTEGERS.save, same_integers),
    "several.hardy": (
        "fields of integers",
        lambda path: path.write_bytes(packed([INTEGERS.model] * 2)),
        lambda found: len(found) == 2 and all(map(same_integers, found)),
    ),
    "model": (
        "hardy-artefact",
        lambda path: hardy.save(hardy.zoo.load("tiny-reasoner")[0], path),
        lambda found: same_tensors(found.state_dict(), hardy.zoo.load("tiny-reasoner")[0].state_dict()),
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_hardy_wrote_is_opened(name: str, tmp_path: Path) -> None:
    kind, write, same = SAVED[name]
    write(tmp_path / name)
    assert kind_of(tmp_path / name) == kind
    assert same(hardy.load(tmp_path / name))
    assert same(hardy.load(str(tmp_path / name)))
    if kind != "hardy-artefact":
        with pytest.raises(InputError, match=f"into= takes the weights of a saved model; .*{kind}"):
            hardy.load(tmp_path / name, into=nn.Linear(1, 1))


def test_every_opener_is_tried_above() -> None:
    assert {kind for kind, _, _ in SAVED.values()} == set(OPENERS)


def test_only_the_room_that_is_needed_is_imported(tmp_path: Path) -> None:
    CHIP.save(tmp_path / "chip.json")
    code = "import sys, hardy; hardy.load(sys.argv[1]); rooms = ['quant', 'analog', 'fields', 'splat', 'studies']; "
    code += "print([room for room in rooms if f'hardy.{room}' in sys.modules])"
    command = [sys.executable, "-c", code, str(tmp_path / "chip.json")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "is not there"),
        ("empty", b"", "is empty, damaged, or of no kind that hardy.load opens"),
        ("text.txt", b"hello", "of no kind that hardy.load opens: hardy-artefact, hardy-chip"),
        ("list.json", b"[1, 2]", "of no kind that hardy.load opens"),
        ("other.json", b'{"a": 1}', "of no kind that hardy.load opens"),
        ("study.json", b'{"format": "hardy-study"}', "holds a hardy-study, which hardy.load does not open; it opens"),
        ("number.json", b'{"format": 3}', "of no kind that hardy.load opens"),
        ("broken.json", b'{"format": ', "broken.json is damaged"),
        ("broken.hardy", b"\x93hrd\1", "the file is truncated"),
        ("model.gguf", b"GGUF\3", "is a model in GGUF; hardy.zoo.load takes models of others"),
        ("chip.json", b'{"format": "hardy-chip", "version": 9}', "not a chip of hardy, version 1"),
    ],
)
def test_what_is_not_hardys_is_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        hardy.load(tmp_path / name)


def test_folders_and_tensors_of_others_are_refused(llama: nn.Module, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path / "theirs")
    with pytest.raises(InputError, match=r"it has no hardy\.json; hardy\.zoo\.load takes models of others"):
        hardy.load(tmp_path / "theirs")
    with pytest.raises(InputError, match="is not an artefact of hardy"):
        hardy.load(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="of no kind that hardy.load opens"):
        hardy.load(tmp_path / "a.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors", {"format": "hardy-checkpoint"})
    with pytest.raises(InputError, match="holds a hardy-checkpoint, which hardy.load does not open"):
        hardy.load(tmp_path / "b.safetensors")


def test_a_package_opens_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynotes.py").write_text("def read(path):\n    return path.name\n")
    (tmp_path / "mynotes-1.0.dist-info").mkdir()
    (tmp_path / "mynotes-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mynotes\nVersion: 1.0\n")
    points = "[hardy.openers]\nmylab-notes = mynotes:read\n"
    (tmp_path / "mynotes-1.0.dist-info" / "entry_points.txt").write_text(points)
    (tmp_path / "notes.json").write_text('{"format": "mylab-notes"}')
    with pytest.raises(InputError, match="holds a mylab-notes, which hardy.load does not open"):
        hardy.load(tmp_path / "notes.json")
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    assert hardy.load(tmp_path / "notes.json") == "notes.json"
