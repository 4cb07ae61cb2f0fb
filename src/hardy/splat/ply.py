"""Gaussians in the PLY files of the original implementation, which every viewer reads.

Layout: x y z nx ny nz f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3, float32. Opacities are logits, scales are
logarithms, rotations are w first, and f_rest is channel-major: all coefficients of red, then green, then blue.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardy.errors import InputError
from hardy.files import write_atomic
from hardy.reading import reading

Parameters = dict[str, torch.Tensor]
NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")
_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_MAX_HEADER = 1 << 16
_OPAQUE = 20.0  # a logit
_COUNT = re.compile(r"[0-9]{1,18}")


def save_ply(parameters: Parameters, path: str | Path) -> None:
    """Write Gaussians, atomically.

    Args:
        parameters: means (N, 3), log scales (N, 3), quats (N, 4), opacity logits (N,), sh0 (N, 1, 3), shN (N, K, 3).
        path: of the file.
    """
    count = len(parameters["means"])
    made = {name: parameters[name].detach().cpu().float() for name in NAMES}
    columns = [
        made["means"],
        torch.zeros(count, 3),
        made["sh0"].reshape(count, 3),
        made["shN"].transpose(1, 2).reshape(count, 3 * made["shN"].shape[1]),
        made["opacities"][:, None],
        made["scales"],
        made["quats"],
    ]
    names = [*("x", "y", "z", "nx", "ny", "nz"), *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(columns[3].shape[1])]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    properties = "".join(f"property float {name}\n" for name in names)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
    body = torch.cat(columns, 1).numpy().astype("<f4").tobytes()
    write_atomic(path, lambda temporary: temporary.write_bytes(header.encode() + body))


def load_ply(path: str | Path) -> Parameters:
    """Read what `save_ply`, or the original implementation or gsplat, wrote: the parameters that `train` starts from.

    An infinite opacity is opaque, or none. Gaussians with another value that is not finite, a zero quaternion, or a
    scale that is zero or infinite are left out, and a warning says how many.

    Raises:
        InputError: it is no PLY file of Gaussians, it is cut short, or every Gaussian in it is such a one.
    """
    with reading(path):
        made = _gaussians(path)
    return mended(made, str(path))


def _gaussians(path: str | Path) -> Parameters:
    columns = read_vertices(path)
    rest = sum(name.startswith("f_rest_") for name in columns)
    wanted = ["x", "y", "z", "opacity", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest))]
    wanted += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise InputError(f"{path} holds no Gaussians: it lacks {', '.join(missing[:5])}")
    if rest not in (0, 9, 24, 45):
        raise InputError(f"{path} has {rest} f_rest columns; spherical harmonics of degree 0 to 3 have 0, 9, 24 or 45")

    def taken(*names: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([columns[name] for name in names], 1).astype(np.float32))

    count = len(columns["x"])
    more = taken(*(f"f_rest_{i}" for i in range(rest))) if rest else torch.zeros(count, 0)
    return {
        "means": taken("x", "y", "z"),
        "scales": taken("scale_0", "scale_1", "scale_2"),
        "quats": taken("rot_0", "rot_1", "rot_2", "rot_3"),
        "opacities": taken("opacity")[:, 0],
        "sh0": taken("f_dc_0", "f_dc_1", "f_dc_2").reshape(count, 1, 3),
        "shN": more.reshape(count, 3, rest // 3).transpose(1, 2).contiguous(),
    }


def mended(made: Parameters, whose: str) -> Parameters:
    """The Gaussians that can be, with a warning about those that are left out.

    Raises:
        InputError: there are some, and none can be.
    """
    opacities = made["opacities"]
    made = made | {"opacities": torch.where(opacities.isinf(), opacities.sign() * _OPAQUE, opacities)}
    good = torch.stack([torch.isfinite(made[name]).flatten(1).all(1) for name in NAMES[:3]]).all(0)
    good &= torch.isfinite(made["opacities"])
    good &= torch.isfinite(made["sh0"]).flatten(1).all(1) & torch.isfinite(made["shN"]).flatten(1).all(1)
    sizes = made["scales"].exp()
    good &= (made["quats"].norm(dim=1) > 0) & (torch.isfinite(sizes) & (sizes > 0)).all(1)
    bad = int((~good).sum())
    if bad and bad == len(good):
        check_gaussians(made, f"{whose} is damaged")
    if bad:
        warnings.warn(
            f"{bad} of {len(good)} Gaussians in {whose} are left out: values not finite, or a zero rotation or size",
            stacklevel=3,
        )
        made = {name: made[name][good] for name in NAMES}
    return made


def check_gaussians(parameters: Parameters, whose: str) -> None:
    """Raise InputError, whose message begins with `whose`, unless these are the parameters of Gaussians.

    All names are there, with shapes that fit; every value is finite, no quaternion is zero, and scales, which are
    logarithms, are of sizes that a float32 can hold.
    """
    missing = [name for name in NAMES if name not in parameters]
    if missing:
        raise InputError(f"{whose}: they lack {', '.join(missing)}")
    count = len(parameters["means"])
    wanted = {"means": (count, 3), "scales": (count, 3), "quats": (count, 4), "opacities": (count,)}
    wanted |= {"sh0": (count, 1, 3)}
    for name, shape in wanted.items():
        if tuple(parameters[name].shape) != shape:
            raise InputError(f"{whose}: {name} must have the shape {shape}, got {tuple(parameters[name].shape)}")
    more = tuple(parameters["shN"].shape)
    if len(more) != 3 or more[0] != count or more[1] not in (0, 3, 8, 15) or more[2] != 3:
        raise InputError(f"{whose}: shN must have the shape ({count}, 0, 3, 8 or 15, 3), got {more}")
    for name in NAMES:
        wrong = int((~torch.isfinite(parameters[name])).sum())
        if wrong:
            raise InputError(f"{whose}: {wrong} values of {name} are not finite")
    zero = (parameters["quats"].norm(dim=1) == 0).nonzero()[:, 0]
    if len(zero):
        raise InputError(f"{whose}: the quaternion of Gaussian {int(zero[0])} is zero")
    sizes = parameters["scales"].exp()
    wrong = (~torch.isfinite(sizes) | (sizes == 0)).any(1).nonzero()[:, 0]
    if len(wrong):
        which = int(wrong[0])
        powers = ", ".join(f"{value:g}" for value in parameters["scales"][which].tolist())
        raise InputError(f"{whose}: the scales of Gaussian {which} are e to the {powers}, which is zero or infinite")


def read_vertices(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a PLY file's vertices, text or binary; list properties are refused.

    Raises:
        InputError: it is not such a file, or it is cut short.
    """
    with reading(path):
        return _vertices(Path(path))


def elements_of(path: Path) -> tuple[list[tuple[str, int, np.dtype[Any]]], int]:
    """Names, counts and records of the elements of a binary PLY file in little endian, and the bytes after its header.

    Raises:
        InputError: it is not such a file, or has a list property.
    """
    lines, body = _parts(path)
    if ["format", "binary_little_endian", "1.0"] not in lines:
        raise InputError(f"{path} is not a binary PLY file in little endian")
    found: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in lines:
        if line[0] == "element" and len(line) == 3 and _COUNT.fullmatch(line[2]):
            found.append((line[1], int(line[2]), []))
        elif line[0] == "property" and len(line) == 3 and line[1] in _TYPES and found:
            found[-1][2].append((line[2], "<" + _TYPES[line[1]]))
        elif line[0] != "format":
            raise InputError(f"{path} has a line that Gaussians have not: {' '.join(line)}")
    return [(name, count, np.dtype(fields)) for name, count, fields in found], len(body)


def _parts(path: Path) -> tuple[list[list[str]], bytes]:
    """The words of the header's lines, and what follows."""
    data = path.read_bytes()
    head, mark, body = data[: _MAX_HEADER + 11].partition(b"end_header")
    if not data.startswith(b"ply") or not mark:
        raise InputError(f"{path} is not a PLY file")
    body = data[len(head) + len(mark) :]
    body = body[2:] if body.startswith(b"\r\n") else body[1:]
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()[1:]]
    return [line for line in lines if line and line[0] not in ("comment", "obj_info")], body


def _vertices(path: Path) -> dict[str, np.ndarray]:
    lines, body = _parts(path)
    layout, count, fields, elements = "", None, [], 0
    for line in lines:
        if line[0] == "format" and len(line) > 1:
            layout = line[1]
        elif line[0] == "element" and len(line) == 3:
            elements += 1
            if elements == 1 and (line[1] != "vertex" or not _COUNT.fullmatch(line[2])):
                raise InputError(f"{path} must begin with vertices, not with {' '.join(line[1:])}")
            count = int(line[2]) if elements == 1 else count
        elif line[0] == "property" and elements == 1:
            if len(line) != 3 or line[1] not in _TYPES:
                raise InputError(f"{path} has a property that Gaussians have not: {' '.join(line[1:])}")
            fields.append((line[2], _TYPES[line[1]]))
    if count is None or not fields or len({name for name, _ in fields}) < len(fields):
        raise InputError(f"{path} is a damaged PLY file: its header names no vertices, or a property twice")
    if layout == "ascii":
        try:
            rows = [body_line.split() for body_line in body.decode("ascii", "replace").splitlines()[:count]]
            table = np.array([tuple(map(float, row[: len(fields)])) for row in rows]).reshape(-1, len(fields))
        except ValueError as error:
            raise InputError(f"{path} is a damaged PLY file: {error}") from None
        if len(table) < count:
            raise InputError(f"{path} is cut short: {len(table)} of {count} vertices")
        return {name: table[:, i] for i, (name, _) in enumerate(fields)}
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(layout)
    if order is None:
        raise InputError(f"{path} has the unknown format {layout!r}")
    kind = np.dtype([(name, order + code) for name, code in fields])
    if len(body) < kind.itemsize * count:
        raise InputError(f"{path} is cut short: {len(body) // kind.itemsize} of {count} vertices")
    table = np.frombuffer(body, kind, count)
    return {name: table[name] for name, _ in fields}
