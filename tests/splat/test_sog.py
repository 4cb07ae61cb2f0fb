"""SOG as PlayCanvas describes it, written here value by value, and read back; and as hardy writes it."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree

from hardy.errors import InputError
from hardy.splat import convert, save_ply
from hardy.splat.formats import load_gaussians, save_gaussians
from hardy.splat.sog import PALETTE, read_sog, sog_bytes

COUNT, BASES, SIDE = 10, 3, 4
BOOK = np.linspace(-4, 4, 256)


def packed(array: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, 4) uint8 of the pixels (COUNT, 1 to 4), the rest zero."""
    whole = np.zeros((SIDE * SIDE, 4), np.uint8)
    whole[: len(array), : array.shape[1]] = array
    return whole.reshape(SIDE, SIDE, 4)


def codes_of(values: np.ndarray) -> np.ndarray:
    return np.abs(values[..., None] - BOOK).argmin(-1)


def parts(made: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    logs = np.sign(made["means"]) * np.log1p(np.abs(made["means"]))
    low, high = logs.min(0), logs.max(0)
    places = np.round((logs - low) / (high - low) * 65535).astype(int)
    quats = np.zeros((COUNT, 4))
    for row, quat in enumerate(made["quats"]):
        largest = int(np.abs(quat).argmax())
        rest = np.delete(quat * np.sign(quat[largest]), largest)
        quats[row] = [*np.round((rest / np.sqrt(2) + 0.5) * 255), 252 + largest]
    color = np.concatenate([codes_of(made["sh0"][:, 0]), np.round(255 / (1 + np.exp(-made["opacities"])))[:, None]], 1)
    palette = np.zeros((1, 64 * BASES, 4), np.uint8)
    palette[0, : COUNT * BASES, :3] = codes_of(made["shN"]).reshape(-1, 3)
    pictures = {
        "means_l": packed(places & 255), "means_u": packed(places >> 8), "quats": packed(quats),
        "scales": packed(codes_of(made["scales"])), "sh0": packed(color), "shN_centroids": palette,
        "shN_labels": packed(np.arange(COUNT)[:, None]),
    }  # fmt: skip
    book = BOOK.tolist()
    meta: dict[str, Any] = {
        "version": 2, "count": COUNT,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "quats": {"files": ["quats.webp"]}, "scales": {"codebook": book, "files": ["scales.webp"]},
        "sh0": {"codebook": book, "files": ["sh0.webp"]},
        "shN": {"count": COUNT, "bands": 1, "codebook": book, "files": ["shN_centroids.webp", "shN_labels.webp"]},
    }  # fmt: skip
    return meta, pictures


def write(path: Path, meta: dict[str, Any], pictures: dict[str, np.ndarray]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("meta.json", json.dumps(meta))
        for name, picture in pictures.items():
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "WEBP", lossless=True, exact=True)
            file.writestr(f"{name}.webp", stream.getvalue())
    return path


@pytest.fixture
def made() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    quats = random.normal(size=(COUNT, 4))
    return {
        "means": random.normal(size=(COUNT, 3)) * 5, "scales": random.normal(size=(COUNT, 3)) - 2,
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True), "opacities": random.normal(size=COUNT),
        "sh0": random.normal(size=(COUNT, 1, 3)), "shN": random.normal(size=(COUNT, BASES, 3)) * 0.5,
    }  # fmt: skip


def test_what_is_packed_is_read(made: dict[str, np.ndarray], tmp_path: Path) -> None:
    found: dict[str, Any] = load_gaussians(write(tmp_path / "a.sog", *parts(made)))
    step = BOOK[1] - BOOK[0]
    assert np.abs(found["means"].numpy() - made["means"]).max() < 1e-3
    for name in ("scales", "sh0", "shN"):
        assert np.abs(found[name].numpy() - made[name]).max() <= step / 2 + 1e-6, name
    assert (np.abs((found["quats"].numpy() * made["quats"]).sum(1)) > 0.9999).all()
    opacities = 1 / (1 + np.exp(-made["opacities"]))
    assert np.abs(torch.sigmoid(found["opacities"]).numpy() - opacities).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1 is not read"),
        ({"count": 10**12}, "4 x 4 pixels, 1000000000000 are due"),
        ({"count": True}, "count must be an integer"),
        ({"scales": {"codebook": [1.0], "files": ["scales.webp"]}}, "a.sog is damaged"),
        ({"sh0": {"codebook": [], "files": ["../sh0.webp"]}}, "a.sog is damaged"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict[str, Any], message: str, made: dict[str, np.ndarray], tmp_path: Path
) -> None:
    meta, pictures = parts(made)
    with pytest.raises(InputError, match=message):
        load_gaussians(write(tmp_path / "a.sog", meta | change, pictures))


def gaussians(made: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array).float() for name, array in made.items()}


def test_what_hardy_writes_is_as_playcanvas_describes_it(made: dict[str, np.ndarray], tmp_path: Path) -> None:
    save_gaussians(gaussians(made), tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as file:
        meta = json.loads(file.read("meta.json"))
        names = {
            "meta.json",
            *(name for part in meta.values() if isinstance(part, dict) for name in part.get("files", ())),
        }
        assert set(file.namelist()) == names
        sizes = {name: Image.open(io.BytesIO(file.read(name))).size for name in names - {"meta.json"}}
        assert all(file.read(name)[12:16] == b"VP8L" for name in sizes)  # lossless
    assert (meta["version"], meta["count"], meta["shN"]["bands"], meta["shN"]["count"]) == (2, COUNT, 1, COUNT)
    assert sizes.pop("shN_centroids.webp") == (64 * BASES, 1)
    assert set(sizes.values()) == {(4, 3)}
    assert all(len(meta[part]["codebook"]) == 256 for part in ("scales", "sh0", "shN"))


def test_few_values_are_kept_and_the_same_gaussians_give_the_same_bytes(made: dict[str, np.ndarray]) -> None:
    """30 sizes, colors and harmonics are fewer than a codebook has."""
    parameters = gaussians(made)
    assert sog_bytes(parameters) == sog_bytes(parameters)
    path = io.BytesIO(sog_bytes(parameters))
    found = read_sog(path)  # pyright: ignore[reportArgumentType]
    order = torch.cdist(parameters["means"], found["means"]).argmin(1)
    for name in ("scales", "sh0", "shN"):
        torch.testing.assert_close(found[name][order], parameters[name])


def test_one_gaussian_and_many_equal_ones_are_written(made: dict[str, np.ndarray], tmp_path: Path) -> None:
    for count in (1, 70):
        parameters = {
            name: tensor[:1].repeat(count, *[1] * (tensor.ndim - 1)) for name, tensor in gaussians(made).items()
        }
        save_gaussians(parameters, tmp_path / "a.sog")
        found = load_gaussians(tmp_path / "a.sog")
        assert len(found["means"]) == count
        torch.testing.assert_close(found["means"], parameters["means"], rtol=1e-5, atol=1e-5)


def test_many_gaussians_share_sets_of_harmonics_that_stand_near_them(tmp_path: Path) -> None:
    """Twice as many as there are sets: the two that are alike share one."""
    random = torch.Generator().manual_seed(0)
    half = torch.rand(PALETTE, 3, 3, generator=random)
    parameters = {
        "means": torch.randn(2 * PALETTE, 3, generator=random), "scales": torch.zeros(2 * PALETTE, 3),
        "quats": torch.eye(4)[:1].repeat(2 * PALETTE, 1), "opacities": torch.zeros(2 * PALETTE),
        "sh0": torch.zeros(2 * PALETTE, 1, 3), "shN": torch.cat([half, half]),
    }  # fmt: skip
    save_ply(parameters, tmp_path / "a.ply")
    report = convert(tmp_path / "a.ply", tmp_path / "a.sog")
    assert any("131,072 Gaussians share 65,536 sets" in sentence for sentence in report.summary)
    found = load_gaussians(tmp_path / "a.sog")
    order = torch.from_numpy(cKDTree(found["means"].numpy()).query(parameters["means"].numpy())[1])
    assert (found["shN"][order] - parameters["shN"]).abs().max() < 0.01  # 1/256 of their range is what a codebook gives
