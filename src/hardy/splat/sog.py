"""PlayCanvas' SOG, read and written: a ZIP of lossless WebP pictures, a pixel for each Gaussian, and `meta.json`.

https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog/ (version 2).
We differ from PlayCanvas' own writer, which clusters: the sets of spherical harmonics are found by halving what is
widest, which takes seconds for a million Gaussians, and up to 65,536 Gaussians keep a set each.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hardy import checks
from hardy.errors import InputError
from hardy.reading import check_room

PALETTE = 65536
"""The most sets of spherical harmonics above degree 0 that a file has."""

_BOOK = 256  # values of a codebook
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
            entries = checks.integer("count of shN", meta["shN"]["count"], at_least=1, at_most=PALETTE)
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


def sog_bytes(parameters: Mapping[str, torch.Tensor]) -> bytes:
    """The Gaussians as a `.sog` file, in the order of a Morton curve, which neighbours in pictures compress by.

    Raises:
        InputError: there are none.
    """
    if not len(parameters["means"]):
        raise InputError("there are no Gaussians, and a .sog file holds at least one")
    made = {name: tensor.detach().cpu().double().numpy() for name, tensor in parameters.items()}
    logs = np.sign(made["means"]) * np.log1p(np.abs(made["means"]))
    low, high = logs.min(0), logs.max(0)
    places = np.round((logs - low) / np.where(high > low, high - low, 1) * 65535).astype(np.int64)
    order = np.argsort(_morton(places), kind="stable")
    made, places = {name: array[order] for name, array in made.items()}, places[order]
    count, bases = len(order), made["shN"].shape[1]
    scales, scale_book = _coded(made["scales"])
    colors, color_book = _coded(made["sh0"][:, 0])
    opacities = np.round(255 / (1 + np.exp(-np.clip(made["opacities"], -50, 50))))
    pictures = {
        "means_l": _picture(places & 255),
        "means_u": _picture(places >> 8),
        "scales": _picture(scales),
        "quats": _picture(_quat_codes(made["quats"])),
        "sh0": _picture(np.concatenate([colors, opacities[:, None]], 1)),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "hardy"},
        "count": count,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book, "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_book, "files": ["sh0.webp"]},
    }
    if bases:
        sets, label = _palette(made["shN"].reshape(count, -1))
        codes, book = _coded(sets)
        pictures["shN_centroids"] = _picture(codes.reshape(-1, 3), width=_ROW * bases)
        pictures["shN_labels"] = _picture(np.stack([label & 255, label >> 8], 1))
        bands = next(degree for degree, number in _BASES.items() if number == bases)
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {"count": len(sets), "bands": bands, "codebook": book, "files": files}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        _add(packed, "meta.json", json.dumps(meta).encode())
        for name, picture in pictures.items():
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "WEBP", lossless=True, exact=True)
            _add(packed, f"{name}.webp", data.getvalue())
    return stream.getvalue()


def _add(packed: zipfile.ZipFile, name: str, data: bytes) -> None:
    """A file of the ZIP without a date, so that the same Gaussians give the same bytes."""
    packed.writestr(zipfile.ZipInfo(name), data)


def _picture(pixels: np.ndarray, width: int = 0) -> np.ndarray:
    """(height, width, 4) uint8 of the pixels (count, 1 to 4), about square by default; without alpha it is 255."""
    count, parts = pixels.shape
    width = width or 4 * math.ceil(math.sqrt(count) / 4)
    whole = np.zeros((-(-count // width) * width, 4), np.uint8)
    whole[:, 3] = 255
    whole[:count, :parts] = pixels
    return whole.reshape(-1, width, 4)


def _coded(values: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The place of each value in a codebook of 256, and the codebook, rising: Lloyd's, from even shares of the values.

    Values that are no more than 256 different ones are kept.
    """
    ordered = np.sort(values, axis=None)
    distinct = np.unique(ordered)
    if len(distinct) <= _BOOK:
        book = np.concatenate([distinct, np.full(_BOOK - len(distinct), distinct[-1])])
        return np.searchsorted(distinct, values).astype(np.uint8), book.tolist()
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    book = ordered[np.linspace(0, len(ordered) - 1, _BOOK).round().astype(int)]
    for _ in range(20):
        edges = np.searchsorted(ordered, (book[1:] + book[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(ordered)]])
        sizes = np.diff(edges)
        book = np.where(sizes > 0, np.diff(sums[edges]) / np.maximum(sizes, 1), book)
    return np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8), book.tolist()


def _palette(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sets (at most 65,536, numbers) that stand for `rows` (count, numbers), and which of them each row has.

    The rows are halved where they are widest, all halves again, and the mean of each of the last ones is a set.
    """
    count = len(rows)
    if count <= PALETTE:
        return rows, np.arange(count)
    order, starts = np.arange(count), np.zeros(1, np.int64)
    while len(starts) < PALETTE:
        sizes = np.diff(np.append(starts, count))
        here = rows[order]
        means = np.add.reduceat(here, starts) / sizes[:, None]
        spread = np.add.reduceat(here**2, starts) / sizes[:, None] - means**2
        group = np.repeat(np.arange(len(starts)), sizes)
        order = order[np.lexsort((here[np.arange(count), spread.argmax(1)[group]], group))]
        starts = np.stack([starts, starts + sizes // 2], 1).flatten()
    sizes = np.diff(np.append(starts, count))
    label = np.empty(count, np.int64)
    label[order] = np.repeat(np.arange(len(starts)), sizes)
    return np.add.reduceat(rows[order], starts) / sizes[:, None], label


def _quat_codes(quats: np.ndarray) -> np.ndarray:
    """What `_quats` reads, (count, 4)."""
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(quats).argmax(1)
    rows = np.arange(len(quats))
    quats = quats * np.where(quats[rows, largest] < 0, -1, 1)[:, None]
    rest = quats[np.arange(4) != largest[:, None]].reshape(-1, 3)
    codes = np.clip(np.round((rest / np.sqrt(2) + 0.5) * 255), 0, 255)
    return np.concatenate([codes, 252 + largest[:, None]], 1)


def _morton(places: np.ndarray) -> np.ndarray:
    """The number of each place (count, 3), 0 to 65535, on a curve that keeps neighbours together."""
    found = np.zeros(len(places), np.uint64)
    for bit in range(16):
        for axis in range(3):
            found |= ((places[:, axis] >> bit) & 1).astype(np.uint64) << np.uint64(3 * bit + axis)
    return found
