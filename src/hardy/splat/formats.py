"""Gaussians in the files that other programs exchange: read by `load_gaussians`, written by `save_gaussians`.

PLY, SuperSplat's compressed PLY, antimatter15's .splat, Niantic's SPZ, PlayCanvas' SOG, and glTF with
KHR_gaussian_splatting (written). Compressed PLY and SPZ go through the package gsply, which takes the sizes that a
file declares for true: they are compared with what is there first.
"""

from __future__ import annotations

import gzip
import importlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardy.errors import InputError, install
from hardy.files import write_atomic
from hardy.ops.spherical_harmonics import FIRST
from hardy.reading import check_room, reading
from hardy.splat.ply import NAMES, Parameters, check_gaussians, elements_of, load_ply, mended, save_ply
from hardy.splat.sog import PALETTE, read_sog, sog_bytes

_SPLAT = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("colors", "u1", 4), ("quats", "u1", 4)])
_FLOAT, _POINTS = 5126, 0  # of glTF
_CHUNK = 256  # Gaussians of compressed PLY that share a range
_PER_GAUSSIAN = 600  # bytes that reading takes, with all spherical harmonics


def load_gaussians(path: str | Path) -> Parameters:
    """The Gaussians in a file of any kind that is read, by its ending and what is in it.

    Gaussians that cannot be are left out, and a warning says how many.

    Raises:
        InputError: the ending is unknown, the package gsply is needed and missing, or the file is damaged.
    """
    path = Path(path)
    kind = format_of(path)
    if not path.is_file():
        raise InputError(f"there is no {path}")
    if kind == "ply" and _is_compressed(path):
        kind = "compressed.ply"
    if kind == "ply":
        return load_ply(path)
    readers: dict[str, Callable[[Path], Parameters]] = {
        "splat": _read_splat,
        "compressed.ply": _read_compressed,
        "spz": _read_spz,
        "sog": read_sog,
    }
    if kind not in readers:
        raise InputError(f"{path} is of a kind that is written only; read are .ply, {', .'.join(readers)}")
    if kind in ("compressed.ply", "spz"):
        _gsply()  # what is missing is not the file's fault
    with reading(path):
        made = readers[kind](path)
    return mended(made, str(path))


def save_gaussians(parameters: Parameters, path: str | Path) -> None:
    """Write Gaussians in the format that the ending names, atomically.

    Raises:
        InputError: the ending is unknown, or the package gsply is needed and missing.
    """
    path = Path(path)
    check_gaussians(parameters, "the Gaussians")
    writers: dict[str, Callable[[Parameters, Path], object]] = {
        "ply": save_ply,
        "splat": lambda made, path: write_atomic(path, lambda file: file.write_bytes(_splat_bytes(made))),
        "glb": lambda made, path: write_atomic(path, lambda file: file.write_bytes(_glb_bytes(made))),
        "compressed.ply": lambda made, path: write_atomic(path, lambda file: file.write_bytes(_compressed_bytes(made))),
        "spz": lambda made, path: write_atomic(path, lambda file: _write_spz(made, file)),
        "sog": lambda made, path: write_atomic(path, lambda file: file.write_bytes(sog_bytes(made))),
    }
    writers[format_of(path)](parameters, path)


def format_of(path: Path) -> str:
    """ "ply", "compressed.ply", "splat", "spz", "sog" or "glb".

    Raises:
        InputError: the ending is none of these.
    """
    name = path.name.lower()
    for ending in ("compressed.ply", "ply", "splat", "spz", "sog", "glb"):
        if name.endswith(f".{ending}"):
            return ending
    raise InputError(f"{path} must end with .ply, .compressed.ply, .splat, .spz, .sog or .glb (written)")


def lost_in(kind: str, parameters: Parameters) -> list[str]:
    """What a format does not keep of these Gaussians, one phrase each."""
    more = parameters["shN"].shape[1]
    lost = []
    if kind == "splat":
        lost.append("colors, opacities and rotations are rounded to 256 levels")
        if more:
            lost.append("how colors change with the direction (spherical harmonics above degree 0) is dropped")
    elif kind == "compressed.ply":
        lost.append("places, sizes and rotations are rounded to 10 or 11 bits in blocks of 256, colors to 8 bits")
    elif kind == "spz":
        lost.append("places are rounded to 1/4096, sizes to steps of 1/16 in the logarithm, colors to 8 bits")
    elif kind == "sog":
        lost.append("places are rounded to 65,536 steps of a logarithmic scale, rotations and opacities to 256 levels")
        lost.append("sizes and colors have 256 values each, chosen for these Gaussians")
        count = len(parameters["means"])
        if more:
            lost.append("so have spherical harmonics above degree 0")
        if more and count > PALETTE:
            lost.append(f"{count:,} Gaussians share {PALETTE:,} sets of these harmonics")
    return lost


def _is_compressed(path: Path) -> bool:
    with open(path, "rb") as file:
        return b"packed_position" in file.read(1 << 14)


def _gsply() -> Any:
    try:
        return importlib.import_module("gsply")
    except ImportError:
        raise InputError(f"this format needs the package gsply: {install('splat')}") from None


def _read_compressed(path: Path) -> Parameters:
    elements, body = elements_of(path)
    counts = {name: count for name, count, _ in elements}
    names = [name for name, _, _ in elements]
    vertices, chunks = counts.get("vertex", 0), counts.get("chunk", 0)
    if names not in (["chunk", "vertex"], ["chunk", "vertex", "sh"]) or not vertices:
        raise InputError(f"its parts are {', '.join(names) or 'none'}, not chunk, vertex and perhaps sh")
    if chunks != -(-vertices // _CHUNK) or counts.get("sh", vertices) != vertices:
        raise InputError(f"{chunks} chunks and {counts.get('sh', 0)} harmonics do not fit {vertices} Gaussians")
    if (needed := sum(count * kind.itemsize for _, count, kind in elements)) != body:
        raise InputError(f"it has {body} bytes of Gaussians and declares {needed}")
    return _of_gsply(_gsply().plyread(path))


def _read_spz(path: Path) -> Parameters:
    """Version 4, of Zstandard, is for gsply alone: it stores how large its parts are."""
    if path.read_bytes()[:2] == b"\x1f\x8b":
        with gzip.open(path) as file:
            _, _, count, degree = struct.unpack("<IIIB", file.read(16)[:13])
            check_room(f"{count:,} Gaussians", count * _PER_GAUSSIAN)
            bases = (degree + 1) ** 2 - 1
            left = count * (20 + 3 * bases) + (1 << 20)  # extensions may follow
            while piece := file.read(1 << 20):
                left -= len(piece)
                if left < 0:
                    raise InputError(f"it unpacks to far more than its {count} Gaussians")
    return _of_gsply(_gsply().read_spz(path))


def _of_gsply(data: Any) -> Parameters:
    count = len(data.means)
    more = np.zeros((count, 0, 3), np.float32) if data.shN is None else np.asarray(data.shN)
    arrays = {
        "means": data.means,
        "scales": data.scales,
        "quats": data.quats,
        "opacities": np.asarray(data.opacities).reshape(count),
        "sh0": np.asarray(data.sh0).reshape(count, 1, 3),
        "shN": more.reshape(count, -1, 3),
    }
    made = {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in arrays.items()}
    bases = made["shN"].shape[1]
    if bases > 15:  # degree 4 of version 4 of SPZ
        made["shN"] = made["shN"][:, :15].contiguous()
    return made


def _to_gsply(parameters: Parameters) -> Any:
    arrays = {name: parameters[name].detach().cpu().float().numpy() for name in NAMES}
    arrays["quats"] = arrays["quats"] / np.linalg.norm(arrays["quats"], axis=1, keepdims=True)
    arrays["sh0"] = arrays["sh0"][:, 0]
    names = ("means", "scales", "quats", "opacities", "sh0", "shN")
    return _gsply().GSData(**{name: np.ascontiguousarray(arrays[name]) for name in names})


def _compressed_bytes(parameters: Parameters) -> bytes:
    return _gsply().compress_to_bytes(_to_gsply(parameters))


def _write_spz(parameters: Parameters, file: Path) -> None:
    _gsply().write_spz(file, _to_gsply(parameters))


def _read_splat(path: Path) -> Parameters:
    data = path.read_bytes()
    if not data or len(data) % _SPLAT.itemsize:
        raise InputError(f"{path} is cut short or no .splat file: {len(data)} bytes are no whole number of 32")
    table = np.frombuffer(data, _SPLAT)
    colors = torch.from_numpy(table["colors"].astype(np.float32) / 255)
    count = len(table)
    return {
        "means": torch.from_numpy(table["means"].copy()),
        "scales": torch.from_numpy(table["scales"].copy()).clamp(min=1e-30).log(),
        "quats": torch.from_numpy((table["quats"].astype(np.float32) - 128) / 128),
        "opacities": colors[:, 3].clamp(1 / 512, 511 / 512).logit(),
        "sh0": ((colors[:, :3] - 0.5) / FIRST)[:, None],
        "shN": torch.zeros(count, 0, 3),
    }


def _splat_bytes(parameters: Parameters) -> bytes:
    """Largest and most opaque first, as viewers that load bit by bit want it."""
    made = {name: parameters[name].detach().cpu().float() for name in NAMES}
    scales, opacities = made["scales"].exp(), made["opacities"].sigmoid()
    order = (scales.prod(1) * opacities).argsort(descending=True, stable=True)
    colors = torch.cat([made["sh0"][:, 0] * FIRST + 0.5, opacities[:, None]], 1).clamp(0, 1)
    quats = torch.nn.functional.normalize(made["quats"], dim=1)
    table = np.zeros(len(order), _SPLAT)
    table["means"], table["scales"] = made["means"][order].numpy(), scales[order].numpy()
    table["colors"] = (colors[order] * 255).round().numpy().astype(np.uint8)
    table["quats"] = (quats[order] * 128 + 128).round().clamp(0, 255).numpy().astype(np.uint8)
    return table.tobytes()


def _glb_bytes(parameters: Parameters) -> bytes:
    """One mesh of points with KHR_gaussian_splatting; y points down in scenes and up in glTF, so its node is turned."""
    made = {name: parameters[name].detach().cpu().float() for name in NAMES}
    quats = torch.nn.functional.normalize(made["quats"], dim=1)
    prefix = "KHR_gaussian_splatting:"
    attributes = {
        "POSITION": made["means"],
        f"{prefix}ROTATION": quats[:, [1, 2, 3, 0]],
        f"{prefix}SCALE": made["scales"].exp(),
        f"{prefix}OPACITY": made["opacities"].sigmoid(),
        f"{prefix}SH_DEGREE_0_COEF_0": made["sh0"][:, 0],
    }
    for i in range(made["shN"].shape[1]):
        degree = int((i + 1) ** 0.5)
        attributes[f"{prefix}SH_DEGREE_{degree}_COEF_{i + 1 - degree**2}"] = made["shN"][:, i]
    body, views, accessors = b"", [], []
    for name, values in attributes.items():
        array = values.contiguous().numpy().astype("<f4")
        data = array.tobytes()
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[1 if array.ndim == 1 else array.shape[1]]
        accessor = {"bufferView": len(views), "componentType": _FLOAT, "count": len(array), "type": kind}
        if name == "POSITION":
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        accessors.append(accessor)
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(data)})
        body += data
    extension = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    primitive = {
        "mode": _POINTS,
        "attributes": {name: i for i, name in enumerate(attributes)},
        "extensions": {"KHR_gaussian_splatting": extension},
    }
    record = {
        "asset": {"version": "2.0", "generator": "hardy"},
        "extensionsUsed": ["KHR_gaussian_splatting"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "rotation": [1, 0, 0, 0]}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    text = json.dumps(record, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body += b"\0" * (-len(body) % 4)
    size = 12 + 8 + len(text) + 8 + len(body)
    head = struct.pack("<4sII", b"glTF", 2, size)
    return head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
