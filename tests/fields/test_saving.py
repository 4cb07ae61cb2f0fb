"""Fields in files: the same outputs afterwards, and damage, foreign and newer files noticed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hardy.core import InputError
from hardy.fields import Field, Finer, IntegerField, Quad, Relu, SharedField, load_field, save_field
from hardy.fields.activations import KINDS

POINTS = torch.rand(7, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", [*KINDS, Quad(first_omega=12.0), Finer(first_bias=3.0), Relu(frequencies=5)], ids=str)
def test_a_loaded_field_is_the_saved_one(kind, tmp_path: Path) -> None:
    field = Field(2, 3, hidden_features=10, hidden_layers=2, activation=kind, seed=3)
    save_field(field, tmp_path / "field.safetensors")
    back = load_field(tmp_path / "field.safetensors")
    assert isinstance(back, Field)
    assert back.settings == field.settings
    assert torch.equal(back(POINTS), field(POINTS))


@pytest.mark.parametrize("share", ["middle", "early"])
def test_a_loaded_shared_field_is_the_saved_one(share, tmp_path: Path) -> None:
    album = SharedField(3, 2, 1, hidden_features=8, shared_layers=2, projections=2, share=share, activation="wire")
    save_field(album, tmp_path / "album.safetensors")
    back = load_field(tmp_path / "album.safetensors")
    assert isinstance(back, SharedField)
    assert back.parameter_counts() == album.parameter_counts()
    for image in range(3):
        assert torch.equal(back(POINTS, image), album(POINTS, image))


def test_damaged_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_field(Field(2, 3, hidden_features=6), good)
    data = good.read_bytes()
    for broken in (b"", data[:40], data[:-5], bytes([*data[:-9], data[-9] ^ 4, *data[-8:]]), b"{}" * 90):
        bad.write_bytes(broken)
        with pytest.raises(InputError, match="cannot read the field|is damaged"):
            load_field(bad)
    with pytest.raises(InputError, match="cannot read the field"):
        load_field(tmp_path / "none.safetensors")
    save_file(load_file(good), bad)
    with pytest.raises(InputError, match="is no field of hardy"):
        load_field(bad)
    bad.write_bytes(data.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(InputError, match="is of version 2; this hardy reads version 1"):
        load_field(bad)
    bad.write_bytes(data.replace(b'hidden_features\\": 6', b'hidden_features\\": 7'))
    with pytest.raises(InputError, match="is damaged"):
        load_field(bad)


OLD = Path(__file__).parents[1] / "data"


def test_files_of_the_version_before_are_read() -> None:
    """Written by hardy 0.1.0 before checkpoints and names changed; the numbers are what it printed."""
    point = torch.tensor([[0.25, -0.5]])
    field = load_field(OLD / "field-0.1.safetensors")
    assert isinstance(field, Field)
    assert field(point).sum().item() == pytest.approx(0.3418935537338257, abs=1e-5)
    album = load_field(OLD / "shared-0.1.safetensors")
    assert isinstance(album, SharedField)
    assert album(point, 1).sum().item() == pytest.approx(0.14654581248760223, abs=1e-5)
    assert IntegerField.load(OLD / "field-0.1.hardy").render((4, 4)).sum().item() == 24185
