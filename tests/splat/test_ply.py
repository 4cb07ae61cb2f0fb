"""PLY files: written, read, and refused when they are damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.errors import InputError
from hardy.splat import load_ply, save_ply
from hardy.splat.ply import read_vertices


def some(count: int, more: int = 15) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(count)
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (more, 3)}
    return {name: torch.randn(count, *shape, generator=random) for name, shape in shapes.items()}


@pytest.mark.parametrize("more", [0, 3, 8, 15])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_what_was_written_is_read_to_the_bit(count: int, more: int, tmp_path: Path) -> None:
    made = some(count, more)
    save_ply(made, tmp_path / "a.ply")
    found = load_ply(tmp_path / "a.ply")
    assert found.keys() == made.keys()
    for name, tensor in made.items():
        assert torch.equal(found[name], tensor), name


def test_the_layout_is_that_of_the_original(tmp_path: Path) -> None:
    made = some(4)
    save_ply(made, tmp_path / "a.ply")
    columns = read_vertices(tmp_path / "a.ply")
    assert list(columns)[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert list(columns)[-8:] == ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    for channel in range(3):  # all of red first
        for base in range(15):
            assert np.array_equal(columns[f"f_rest_{15 * channel + base}"], made["shN"][:, base, channel].numpy())


def test_reads_text_and_other_types(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_text(
        "ply\nformat ascii 1.0\ncomment x\nelement vertex 2\nproperty double x\nproperty uchar red\n"
        "element face 0\nproperty list uchar int vertex_indices\nend_header\n1.5 7\n-2 255\n"
    )
    columns = read_vertices(tmp_path / "a.ply")
    assert columns["x"].tolist() == [1.5, -2]
    assert columns["red"].tolist() == [7, 255]


def test_refuses_what_is_not_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.ply"
    save_ply(some(5), file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"a.ply is cut short: 4 of 5 vertices"):
        load_ply(file)
    file.write_bytes(b"not one")
    with pytest.raises(InputError, match="is not a PLY file"):
        load_ply(file)
    file.write_bytes(whole.replace(b"property float opacity", b"property float opacitz"))
    with pytest.raises(InputError, match="holds no Gaussians: it lacks opacity"):
        load_ply(file)
    save_ply(some(2, more=5), file)
    with pytest.raises(InputError, match="has 15 f_rest columns"):
        load_ply(file)


def break_scale(made: dict[str, torch.Tensor], value: float) -> None:
    made["scales"][2, 1] = value


BREAKS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "scale not finite": lambda made: break_scale(made, torch.nan),
    "scale zero": lambda made: break_scale(made, -200.0),
    "scale infinite": lambda made: break_scale(made, 100.0),
    "quaternion zero": lambda made: made["quats"][2].zero_(),
    "place": lambda made: made["means"][2, :1].fill_(torch.inf),
    "color": lambda made: made["shN"][2, :1].fill_(torch.nan),
    "opacity": lambda made: made["opacities"][2:3].fill_(torch.nan),
}


@pytest.mark.parametrize("what", BREAKS)
def test_gaussians_that_cannot_be_are_left_out_and_counted(what: str, tmp_path: Path) -> None:
    file, made = tmp_path / "a.ply", some(5)
    BREAKS[what](made)
    save_ply(made, file)
    with pytest.warns(UserWarning, match=r"1 of 5 Gaussians in .*a.ply are left out"):
        found = load_ply(file)
    assert torch.equal(found["means"], made["means"][[0, 1, 3, 4]])


def test_a_file_of_nothing_but_broken_gaussians_is_refused_and_infinite_opacity_is_opaque(tmp_path: Path) -> None:
    file, made = tmp_path / "a.ply", some(3)
    made["quats"].zero_()
    save_ply(made, file)
    with pytest.raises(InputError, match=r"a.ply is damaged: the quaternion of Gaussian 0 is zero"):
        load_ply(file)
    made = some(3)
    made["opacities"][:2] = torch.tensor([torch.inf, -torch.inf])
    save_ply(made, file)
    assert load_ply(file)["opacities"].sigmoid()[:2].round().tolist() == [1, 0]


@pytest.mark.filterwarnings("ignore:.*Gaussians in .* are left out")
@given(cut=st.integers(0, 700), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_damage_never_ends_in_anything_but_an_input_error(
    cut: int, at: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("ply") / "a.ply"
    save_ply(some(3, 0), file)
    data = bytearray(file.read_bytes())
    data[min(at, len(data) - 1)] = byte
    file.write_bytes(bytes(data[: max(1, len(data) - cut)]))
    try:
        found = load_ply(file)
    except InputError:
        return
    assert all(torch.isfinite(tensor).all() for tensor in found.values())


def test_a_file_of_the_version_before_is_read() -> None:
    random = torch.Generator().manual_seed(0)
    shapes = {"means": (3, 3), "scales": (3, 3), "quats": (3, 4), "opacities": (3,), "sh0": (3, 1, 3), "shN": (3, 3, 3)}
    parameters = load_ply(Path(__file__).parents[1] / "data" / "gaussians-0.1.ply")
    for name, shape in shapes.items():
        assert torch.equal(parameters[name], torch.randn(shape, generator=random)), name
