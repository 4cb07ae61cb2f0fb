"""Files that other programs exchange: what is read back is what was written, up to what each format says it loses."""

import gzip
import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.errors import InputError
from hardy.splat import convert, load_ply, save_ply
from hardy.splat.formats import load_gaussians, save_gaussians

needs_gsply = pytest.mark.skipif(importlib.util.find_spec("gsply") is None, reason="gsply is not installed")


def some(count: int = 300, more: int = 8) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "means": torch.randn(count, 3, generator=random),
        "scales": torch.randn(count, 3, generator=random) * 0.5 - 3,
        "quats": torch.nn.functional.normalize(torch.randn(count, 4, generator=random), dim=1),
        "opacities": torch.randn(count, generator=random),
        "sh0": torch.randn(count, 1, 3, generator=random) * 0.3,
        "shN": torch.randn(count, more, 3, generator=random) * 0.1,
    }


def nearest(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`found` in the order of `wanted`, for formats that sort."""
    order = torch.cdist(wanted["means"], found["means"]).argmin(1)
    assert len(order.unique()) == len(order)
    return {name: tensor[order] for name, tensor in found.items()}


CASES = {
    "a.ply": 0.0,
    "a.splat": 0.03,
    "a.compressed.ply": 0.05,
    "a.spz": 0.08,
    "a.sog": 0.08,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_what_is_read_is_what_was_written(name: str, tmp_path: Path) -> None:
    if name not in ("a.ply", "a.splat", "a.sog"):
        pytest.importorskip("gsply")
    made = some()
    save_gaussians(made, tmp_path / name)
    found = nearest(load_gaussians(tmp_path / name), made)
    most = CASES[name]
    assert (found["means"] - made["means"]).abs().max() <= most / 5 + 1e-6
    assert (found["scales"] - made["scales"]).abs().max() <= most + 1e-6
    assert (found["opacities"].sigmoid() - made["opacities"].sigmoid()).abs().max() <= most / 2 + 1e-6
    assert (found["sh0"] - made["sh0"]).abs().max() <= most + 1e-6
    turned = (torch.nn.functional.normalize(found["quats"], dim=1) * made["quats"]).sum(1).abs()
    assert turned.min() > 1 - most / 10 - 1e-6
    assert found["shN"].shape[1] == (0 if name == "a.splat" else 8)
    if found["shN"].shape[1]:
        assert (found["shN"] - made["shN"]).abs().max() <= 2 * most + 1e-6


def test_gltf_holds_activated_values_and_is_turned_upright(tmp_path: Path) -> None:
    made = some(7, 3)
    save_gaussians(made, tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    magic, version, size = struct.unpack_from("<4sII", data)
    assert (magic, version, size) == (b"glTF", 2, len(data))
    length = struct.unpack_from("<I", data, 12)[0]
    record = json.loads(data[20 : 20 + length])
    assert record["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert record["nodes"][0]["rotation"] == [1, 0, 0, 0]  # y down to y up
    body = data[28 + length :]
    primitive = record["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0
    assert primitive["extensions"]["KHR_gaussian_splatting"]["kernel"] == "ellipse"

    def values(name: str) -> torch.Tensor:
        accessor = record["accessors"][primitive["attributes"][name]]
        view = record["bufferViews"][accessor["bufferView"]]
        part = bytearray(body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])
        return torch.frombuffer(part, dtype=torch.float32).view(accessor["count"], -1)

    torch.testing.assert_close(values("POSITION"), made["means"])
    torch.testing.assert_close(values("KHR_gaussian_splatting:SCALE"), made["scales"].exp())
    torch.testing.assert_close(values("KHR_gaussian_splatting:OPACITY")[:, 0], made["opacities"].sigmoid())
    torch.testing.assert_close(values("KHR_gaussian_splatting:ROTATION"), made["quats"][:, [1, 2, 3, 0]])
    torch.testing.assert_close(values("KHR_gaussian_splatting:SH_DEGREE_1_COEF_2"), made["shN"][:, 2])
    with pytest.raises(InputError, match="written only"):
        load_gaussians(tmp_path / "a.glb")


def test_convert_says_what_there_was_and_what_was_lost(tmp_path: Path) -> None:
    save_ply(some(), tmp_path / "a.ply")
    report = convert(tmp_path / "a.ply", tmp_path / "b.splat")
    assert report.value("Gaussians", "written") == 300
    assert any("spherical harmonics above degree 0" in sentence for sentence in report.summary)
    assert (tmp_path / "b.splat").stat().st_size == 32 * 300
    back = convert(tmp_path / "b.splat", tmp_path / "c.ply")
    assert back.value("degree of spherical harmonics", "written") == 0
    assert len(load_ply(tmp_path / "c.ply")["means"]) == 300


def test_broken_gaussians_are_an_error_unless_they_are_to_be_left_out(tmp_path: Path) -> None:
    made = some()
    made["means"][3, 0] = torch.nan
    made["quats"][9] = 0
    save_ply(made, tmp_path / "a.ply")
    with pytest.raises(InputError, match="2 of 300 Gaussians in .*a.ply are left out.*--repair"):
        convert(tmp_path / "a.ply", tmp_path / "b.ply")
    assert not (tmp_path / "b.ply").exists()
    report = convert(tmp_path / "a.ply", tmp_path / "b.ply", repair=True)
    assert report.value("Gaussians", "written") == 298
    assert any("2 of 300" in sentence for sentence in report.summary)


def test_endings_and_files_that_cannot_be(tmp_path: Path) -> None:
    save_ply(some(4, 0), tmp_path / "a.ply")
    with pytest.raises(InputError, match="must end with .ply"):
        convert(tmp_path / "a.ply", tmp_path / "a.obj")
    with pytest.raises(InputError, match="is what is read"):
        convert(tmp_path / "a.ply", tmp_path / "a.ply")
    (tmp_path / "cut.splat").write_bytes(b"x" * 33)
    with pytest.raises(InputError, match="33 bytes are no whole number of 32"):
        load_gaussians(tmp_path / "cut.splat")
    with pytest.raises(InputError, match="there is no"):
        load_gaussians(tmp_path / "none.spz")


@needs_gsply
@pytest.mark.filterwarnings("ignore:.*are left out")
@settings(max_examples=25, deadline=None)
@given(
    ending=st.sampled_from(["compressed.ply", "spz", "sog", "splat"]), cut=st.integers(0, 3000), seed=st.integers(0, 99)
)
def test_damaged_files_end_in_an_input_error(
    ending: str, cut: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("formats") / f"a.{ending}"
    save_gaussians(some(50, 0), file)
    data = bytearray(file.read_bytes())
    data[seed % len(data)] ^= 0xFF
    file.write_bytes(bytes(data[: max(1, len(data) - cut)]))
    try:
        found: dict[str, Any] = load_gaussians(file)
    except InputError:
        return
    assert all(torch.isfinite(tensor).all() for tensor in found.values())


@needs_gsply
def test_sizes_that_a_file_declares_are_compared_with_it(tmp_path: Path) -> None:
    """The library would read beyond the file, wait for a header's end, or unpack whatever it is given."""
    file = tmp_path / "a.compressed.ply"
    save_gaussians(some(20), file)
    data = file.read_bytes()
    for old, new, message in (
        (b"element vertex 20", b"element vertex 99", "harmonics do not fit"),
        (b"the last byte", b"", "declares"),
        (b"element chunk 1", b"element chunk 9", "9 chunks"),
        (b"element sh 20", b"element sh 2", "harmonics"),
        (b"end_header", b"end_hea", "not a PLY file"),
    ):
        file.write_bytes(data[:-1] if new == b"" else data.replace(old, new))
        with pytest.raises(InputError, match=f"a.compressed.ply.*{message}"):
            load_gaussians(file)
    file = tmp_path / "a.spz"
    save_gaussians(some(20), file)
    inner = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(inner + bytes(20 << 20)))
    with pytest.raises(InputError, match="a.spz: it unpacks to far more than its 20 Gaussians"):
        load_gaussians(file)
    file.write_bytes(gzip.compress(inner[:8] + b"\xff" * 4 + inner[12:]))
    with pytest.raises(InputError, match="a.spz: 4,294,967,295 Gaussians takes about"):
        load_gaussians(file)
