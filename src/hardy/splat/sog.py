"""Reader of PlayCanvas' SOG: a ZIP of lossless WebP pictures, a pixel for each Gaussian, and `meta.json`.

https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog/ (version 2).
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hardy import checks
from hardy.errors import InputError
from hardy.reading import check_room

_ROW = 64  # entries of the palette of spherical harmonics in a row of its picture
_BASES = {1: 3, 2: 8, 3: 15}  # of spherical harmonics above degree 0, by the degree
_BYTES = 16  # a pixel takes at most so many bytes beside what becomes of it


def read_sog(path: Path) -> dict[str, torch.Tensor]:
    """The Gaussians in a `.sog` file, as `hardy.splat.load_ply` names them.

    Raises:
        InputError: it is of another version, a picture is missing or too small, or it would take more memory than
            there is. What else goes wrong is for the guard around a reader.
    """
    with zipfile.ZipFile(path) as packed:
        meta = json.loads(_entry(packed, "meta.json"))
        if meta.get("version") != 2:
            raise InputError(f"SOG of version {meta.get('version')!r} is not read, only version 2")
        count = checks.integer("count", meta["count"], at_least=1)

        def pixels(part: str, number: int = 0) -> np.ndarray:
            return _pixels(packed, meta[part]["files"][number], count)

        def looked_up(part: str, codes: np.ndarray) -> np.ndarray:
            book = np.asarray(meta[part]["codebook"], np.float64)
            return book[codes]  # an index beyond it is an IndexError

        low, high = (np.asarray(meta["means"][name], np.float64).reshape(3) for name in ("mins", "maxs"))
        codes = pixels("means").astype(np.uint16) | pixels("means", 1).astype(np.uint16) << 8
        logs = low + (high - low) * codes[:, :3] / 65535
        color = pixels("sh0")
        opacities = np.clip(color[:, 3] / 255, 1 / 512, 511 / 512)
        arrays = {
            "means": np.sign(logs) * np.expm1(np.abs(logs)),
            "scales": looked_up("scales", pixels("scales")[:, :3]),
            "quats": _quats(pixels("quats")),
            "opacities": np.log(opacities / (1 - opacities)),
            "sh0": looked_up("sh0", color[:, :3])[:, None],
            "shN": np.zeros((count, 0, 3)),
        }
        if "shN" in meta:
            bases = _BASES[meta["shN"]["bands"]]
            entries = checks.integer("count of shN", meta["shN"]["count"], at_least=1, at_most=65536)
            rows = -(-entries // _ROW)
            palette = _pixels(packed, meta["shN"]["files"][0], rows * _ROW * bases)[:, :3]
            labels = pixels("shN", 1)
            label = labels[:, 0].astype(np.int64) | labels[:, 1].astype(np.int64) << 8
            arrays["shN"] = looked_up("shN", palette.reshape(rows * _ROW, bases, 3)[label])
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def _entry(packed: zipfile.ZipFile, name: Any) -> bytes:
    """What a file of the ZIP holds, whose unpacked size is asked for first."""
    info = packed.getinfo(name)
    check_room(f"{name} of {packed.filename}", info.file_size)
    return packed.read(info)


def _pixels(packed: zipfile.ZipFile, name: Any, count: int) -> np.ndarray:
    """The first `count` pixels of a picture, (count, 4) uint8."""
    with Image.open(io.BytesIO(_entry(packed, name))) as picture:
        width, height = picture.size
        if width * height < count:
            raise InputError(f"{name} has {width} x {height} pixels, {count} are due")
        check_room(f"a picture of {width} x {height}", _BYTES * width * height)
        return np.asarray(picture.convert("RGBA")).reshape(-1, 4)[:count]


def _quats(codes: np.ndarray) -> np.ndarray:
    """Rotations w, x, y, z: three are stored, the largest, which is positive, follows; alpha says which that is."""
    largest = codes[:, 3].astype(np.int64) - 252
    if ((largest < 0) | (largest > 3)).any():
        raise InputError("a rotation does not say which of its parts is the largest")
    stored = (codes[:, :3] / 255 - 0.5) * np.sqrt(2)
    quats = np.empty((len(codes), 4))
    rows = np.arange(len(codes))
    for part in range(3):
        quats[rows, part + (part >= largest)] = stored[:, part]
    quats[rows, largest] = np.sqrt(np.clip(1 - np.square(stored).sum(1), 0, None))
    return quats
