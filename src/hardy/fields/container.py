"""Fields in integers as one file, `.hardy`: entropy-coded, versioned, checked, the same picture on every machine.

The file is the magic "\\x93hrd", a version byte, the CRC-32 of all that follows (little-endian), and what a
`hardy.fields.entropy.Writer` made of: what the fields are (`Contents`), the first field, and the others. Of coordinate
fields, layers that repeat the first one's cost a byte. Version 2 says first whether it holds pictures as latents,
by the number of their start, and the profile of their colours; version 3 then the range of logarithms, and of each
picture as latents how many tiles it has.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from hardy.errors import InputError
from hardy.fields.entropy import Reader, Writer
from hardy.fields.integer_model import LARGEST_GRID, IntegerModel, LinearCodes, Requantization, UnitCodes
from hardy.fields.latent_field import LatentField, read_latents, write_latents
from hardy.fields.latent_start import START
from hardy.fields.latent_tiles import Layout, TiledField
from hardy.fields.tables import TABLE_REACH, wavelet_tables
from hardy.files import write_atomic
from hardy.reading import most_points as declarable
from hardy.reading import reading

MAGIC, VERSION, NEWER, NEWEST = b"\x93hrd", 1, 2, 3
"""Files of version 1 hold coordinate fields; those of version 2 these or pictures as latents, and a colour profile;
those of version 3 pictures in tiles or of high dynamic range, and a checksum that covers the version."""
KINDS = ("field", "image", "video", "audio")
UNITS = ("sine", "quad", "triangle", "finer", "gauss", "relu", "wavelet", "table")
_NUMBERS = {"finer": 2, "wavelet": 1}
_HEAD = struct.Struct("<4sBI")
_MOST_PROFILE, _MOST_STOPS = 2**22, 2**10
_MOST_TILES = LARGEST_GRID // 256
_MOST_FIELDS, _MOST_LAYERS, _MOST_WIDTH = 2**12, 64, 2**12
_LARGEST_BIAS, _LARGEST_FACTOR, _LARGEST_SHIFT = 2**45, 2**24, 62


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What the fields of a file show.

    Attributes:
        kind: "field" for nothing in particular, "image", "video" or "audio".
        grids: the sizes that each field was made for; of kind "field" none.
        sample_bits: 8 or 16: of a channel.
        rate: samples of a sound or frames of a video per second; 0 where there is none.
        profile: of the picture's colours, as ICC has it; empty where there is none.
        stops: logarithms to base 2 of the light that the first and the last sample stand for, as `high_range` has it;
            None where samples are no logarithms.
    """

    kind: str = "field"
    grids: tuple[tuple[int, ...], ...] = ()
    sample_bits: int = 8
    rate: int = 0
    profile: bytes = b""
    stops: tuple[int, int] | None = None


Picture = LatentField | TiledField
Model = IntegerModel | Picture


def packed(models: Sequence[IntegerModel] | Sequence[Picture], contents: Contents | None = None) -> bytes:
    """The file's bytes."""
    contents = contents or Contents()
    latents = bool(models) and isinstance(models[0], Picture)
    version = NEWER if latents or contents.profile else VERSION
    if contents.stops is not None or any(isinstance(model, TiledField) for model in models):
        version = NEWEST
    writer = Writer()
    if version >= NEWER:
        writer.number(START if latents else 0)
        writer.text(contents.profile)
    if version == NEWEST:
        for end in contents.stops or (0, 0):
            writer.signed(end)
    writer.number(KINDS.index(contents.kind))
    writer.number(contents.sample_bits)
    writer.number(contents.rate)
    writer.number(len(models))
    for grid in contents.grids:
        for size in grid:
            writer.number(size)
    if version == NEWEST and latents:
        for model in models:
            for count in model.layout.counts if isinstance(model, TiledField) else (1, 1):
                writer.number(count)
    for index, model in enumerate(models):
        if isinstance(model, Picture):
            for tile in model.tiles if isinstance(model, TiledField) else [model]:
                write_latents(writer, tile)
        else:
            _write(writer, model, cast(IntegerModel, models[0]) if index else None)
    body = writer.finished()
    return _HEAD.pack(MAGIC, version, checksum(version, body)) + body


def checksum(version: int, body: bytes) -> int:
    """The CRC-32 of a file: of its body, and from version 3 on of the version before it."""
    return zlib.crc32(body, zlib.crc32(bytes([version])) if version >= NEWEST else 0)


def save_fields(models: Sequence[IntegerModel], path: str | Path, contents: Contents | None = None) -> int:
    """Write fields to a file, atomically, and give its size in bytes."""
    data = packed(models, contents)
    write_atomic(path, lambda temporary: temporary.write_bytes(data))
    return len(data)


def load_fields(path: str | Path, *, most_points: int | None = None) -> tuple[list[Model], Contents]:
    """The fields of a file, and what they show.

    Args:
        path: of the file.
        most_points: pixels or samples, all fields together, that the file may declare. By default 2^14 for each of its
            bytes, and at least 2^22, so that a few bytes cannot ask for gigabytes.

    Raises:
        InputError: the file is missing, empty, truncated, changed, of another program, or of a newer hardy; or it
            declares more points.
    """
    with reading(path):
        return unpacked(Path(path).read_bytes(), most_points=most_points)


def unpacked(data: bytes, *, most_points: int | None = None) -> tuple[list[Model], Contents]:
    """What `packed` packed; `most_points` is that of `load_fields`.

    Raises:
        InputError: these are not such bytes, or they declare more points.
    """
    if not data:
        raise InputError("the file is empty")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise InputError("this is no file of hardy's fields")
    if len(data) < _HEAD.size:
        raise InputError("the file is truncated")
    _, version, found = _HEAD.unpack_from(data)
    if version not in (VERSION, NEWER, NEWEST):
        raise InputError(f"the file is of version {version}; this hardy reads versions {VERSION} to {NEWEST}")
    body = data[_HEAD.size :]
    most = declarable(len(data)) if most_points is None else most_points
    if checksum(version, body) != found:
        raise InputError("the file is truncated or damaged: its checksum does not fit")
    try:
        return _contents(Reader(body), version, len(data), most)
    except TooManyPointsError:
        raise
    except InputError as error:
        raise InputError(f"the file is damaged: {error}") from None
    except (ValueError, OverflowError, AssertionError) as error:
        raise InputError(f"the file is damaged: {error or 'its stream of codes is none'}") from None


class TooManyPointsError(InputError):
    """A file declares more points than are allowed."""


def _contents(reader: Reader, version: int, size: int, most: int) -> tuple[list[Model], Contents]:
    latents, profile, stops = False, b"", None
    if version >= NEWER:
        learned = reader.number()
        if learned > START:
            raise InputError(f"its latents are of start {learned}, and this hardy knows {START}: a newer one reads it")
        latents, profile = learned > 0, reader.text(_MOST_PROFILE)
    if version == NEWEST:
        low, high = reader.signed(_MOST_STOPS), reader.signed(_MOST_STOPS)
        stops = (low, high) if (low, high) != (0, 0) else None
    kind, sample_bits, rate = KINDS[reader.number(len(KINDS) - 1)], reader.number(16), reader.number(2**24)
    count = reader.number(_MOST_FIELDS)
    if sample_bits not in (8, 16) or not count:
        raise InputError(f"it has {count} fields of {sample_bits} bits")
    if stops is not None and not (stops[0] < stops[1] and sample_bits == 16):
        raise InputError(f"a picture of {sample_bits} bits has logarithms from {stops[0]} to {stops[1]}")
    if stops is not None and kind != "image":
        raise InputError(f"a {kind} has logarithms of light")
    axes = {"field": 0, "image": 2, "video": 3, "audio": 1}[kind]
    grids = [tuple(reader.number(LARGEST_GRID) for _ in range(axes)) for _ in range(count)] if axes else []
    if any(0 in grid for grid in grids):
        raise InputError("it has a grid without points")
    if (points := sum(math.prod(grid) for grid in grids)) > most:
        sizes = " x ".join(map(str, max(grids, key=math.prod)))
        raise TooManyPointsError(
            f"{size} bytes declare {points} points (up to {sizes}), more than the {most} that are allowed; "
            "most_points (--most-points) allows more"
        )
    contents = Contents(kind=kind, grids=tuple(grids), sample_bits=sample_bits, rate=rate, profile=profile, stops=stops)
    if latents:
        if kind != "image":
            raise InputError(f"latents are no {kind}")
        layouts = [_layout(reader, (grid[0], grid[1]), version) for grid in grids]
        pictures: list[Model] = [_read_picture(reader, layout, sample_bits) for layout in layouts]
        reader.finish()
        return pictures, contents
    models: list[IntegerModel] = []
    for _ in range(count):
        models.append(_read(reader, models[0] if models else None))
    if axes and any(model.in_features != axes for model in models):
        raise InputError(f"its fields are no {kind}")
    reader.finish()
    return [*models], contents


def _layout(reader: Reader, grid: tuple[int, int], version: int) -> Layout:
    if version != NEWEST:
        return Layout(grid, (1, 1))
    layout = Layout(grid, (reader.number(_MOST_TILES), reader.number(_MOST_TILES)))
    if 0 in layout.counts or not layout.possible:
        raise InputError(f"a picture of {grid[1]} x {grid[0]} has {layout.counts[1]} x {layout.counts[0]} tiles")
    return layout


def _read_picture(reader: Reader, layout: Layout, sample_bits: int) -> Picture:
    sizes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in layout.tiles()]
    tiles = [read_latents(reader, size, sample_bits) for size in sizes]
    if len({len(tile.offset) for tile in tiles}) > 1:
        raise InputError("its tiles have different channels")
    return tiles[0] if len(tiles) == 1 else TiledField(layout, tiles)


def _write(writer: Writer, model: IntegerModel, before: IntegerModel | None) -> None:
    writer.number(model.fraction_bits)
    writer.number(model.frequencies)
    writer.number(len(model.units))
    writer.number(model.layers[0].codes.shape[1])
    for unit, step in zip(model.units, model.requantizations, strict=True):
        writer.number(UNITS.index(unit.kind))
        for number in unit.numbers:
            writer.signed(number)
        if unit.table is not None:
            writer.array(unit.table)
        writer.number(step.m)
        writer.number(step.shift)
        writer.signed(step.zero)
        writer.number(step.bits * 2 + step.rotated)
    for index, layer in enumerate(model.layers):
        repeats = before is not None and _same(layer, before.layers[index : index + 1])
        writer.number(len(layer.codes))
        # Complex matrices [[re, -im], [im, re]] are stored as their upper half.
        writer.number(4 * layer.bits + 2 * repeats + layer.is_complex)
        stored = len(layer.codes) // 2 if layer.is_complex else len(layer.codes)
        writer.array(layer.factors[:stored])
        writer.array(layer.shifts[:stored])
        if not repeats:
            writer.array(layer.codes[:stored])
        writer.array(layer.bias)


def _same(layer: LinearCodes, before: Sequence[LinearCodes]) -> bool:
    return any(layer.bits == other.bits and np.array_equal(layer.codes, other.codes) for other in before)


def _read(reader: Reader, before: IntegerModel | None) -> IntegerModel:
    fraction_bits, frequencies = reader.number(14), reader.number(24)
    hidden, fan_in = reader.number(_MOST_LAYERS), reader.number(_MOST_WIDTH)
    if fraction_bits < 6 or not hidden or not fan_in or fan_in % (1 + 2 * frequencies):
        raise InputError(f"a field has {hidden} hidden layers on {fan_in} numbers of {fraction_bits} bits")
    units, steps = [], []
    for _ in range(hidden):
        kind = UNITS[reader.number(len(UNITS) - 1)]
        numbers = tuple(reader.signed(2**31) for _ in range(_NUMBERS.get(kind, 0)))
        if (kind == "finer" and not 1 <= numbers[1] <= _LARGEST_SHIFT) or (kind == "wavelet" and numbers[0] < 1):
            raise InputError(f"an activation {kind} has the settings {numbers}")
        if kind == "wavelet":
            wavelet_tables(numbers[0], fraction_bits)  # or the error that it is too wide
        table = reader.array((2 * TABLE_REACH,), 2**20) if kind == "table" else None
        units.append(UnitCodes(kind=kind, numbers=numbers, table=table))
        m, shift, zero = reader.number(_LARGEST_FACTOR), reader.number(_LARGEST_SHIFT), reader.signed(2**40)
        bits, rotated = divmod(reader.number(33), 2)
        if not shift or bits < 2:
            raise InputError(f"activations have {bits} bits and the shift {shift}")
        steps.append(Requantization(m=m, shift=shift, zero=zero, bits=bits, rotated=bool(rotated)))
    layers = []
    for index in range(hidden + 1):
        layers.append(_read_layer(reader, fan_in, before.layers[index : index + 1] if before else ()))
        fan_in = len(layers[-1].codes)
        if index < hidden and units[index].kind == "wavelet" and fan_in % 2:
            raise InputError("a wavelet has an odd number of arguments")
    return IntegerModel(
        layers=tuple(layers),
        units=tuple(units),
        requantizations=tuple(steps),
        frequencies=frequencies,
        fraction_bits=fraction_bits,
    )


def _read_layer(reader: Reader, fan_in: int, before: Sequence[LinearCodes]) -> LinearCodes:
    out, (bits, flags) = reader.number(_MOST_WIDTH), divmod(reader.number(4 * 16 + 3), 4)
    repeats, is_complex = divmod(flags, 2)
    if not out or bits < 2 or (is_complex and (out % 2 or fan_in % 2)):
        raise InputError(f"a layer has {out} rows of {bits} bits")
    stored = out // 2 if is_complex else out
    factors, shifts = reader.array((stored,), _LARGEST_FACTOR), reader.array((stored,), _LARGEST_SHIFT)
    if factors.min() < 0 or shifts.min() < 1:
        raise InputError("a layer has negative scales")
    if repeats:
        if not before or before[0].codes.shape != (out, fan_in):
            raise InputError("a layer repeats one that is not there")
        codes = before[0].codes
    else:
        codes = reader.array((stored, fan_in), 2 ** (bits - 1))
        if is_complex:
            codes = np.concatenate([codes, np.concatenate([-codes[:, fan_in // 2 :], codes[:, : fan_in // 2]], 1)])
    if is_complex:
        factors, shifts = np.tile(factors, 2), np.tile(shifts, 2)
    bias = reader.array((out,), _LARGEST_BIAS)
    return LinearCodes(codes=codes, factors=factors, shifts=shifts, bias=bias, bits=bits)
