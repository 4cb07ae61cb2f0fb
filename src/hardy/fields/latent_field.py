"""A picture as latents: integers at halved and halved again sizes, and what turns them into pixels, in integers.

Source: hierarchical latents with a small synthesis network and a context network, as in Cool-Chic (arXiv 2212.05458)
and C3 (2312.02753). Where we differ: a level has three details for each plane, which lifting filters put together
(`lifting`), so that latents come from the picture itself in a second instead of from thousands of steps of descent; the
networks are learned once, on other photographs, and lie in the package (`latent_start`); a picture brings only its
latents and a matrix of colours. Everything a decoder does is a sum, product or shift of integers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hardy.errors import InputError
from hardy.fields.entropy import Reader, Writer
from hardy.fields.latent_color import LARGEST_WEIGHT, WEIGHT_BITS, predicted, slopes
from hardy.fields.latent_context import (
    EXTRA_BITS,
    FEATURES,
    HIDDEN,
    LARGEST,
    SMALLEST,
    Frequencies,
    Place,
    Seen,
    order,
    symbols_of,
)
from hardy.fields.latent_start import start
from hardy.fields.lifting import levels_of, put_together, shapes
from hardy.fields.resampling import resampled
from hardy.reading import check_room

FRACTION_BITS = 10
"""Of planes, in units of the step between two values of a latent."""
COLOR_BITS = 12
"""Of the matrix of colours."""
OFFSET_BITS = 4
_LARGEST_COLOR, _LARGEST_OFFSET = 1 << 40, 1 << 24
_MOST_CHANNELS = 4
_BYTES_PER_SAMPLE = 60


@dataclasses.dataclass(frozen=True, eq=False)
class LatentField:
    """What a file holds of one picture.

    Attributes:
        grid: height and width.
        sample_bits: 8 or 16: of a channel.
        latents: (planes, rows, columns) int64 each, in the order of `lifting.shapes`.
        colors: (channels, planes) int64 over 2^12: samples per step of a plane.
        offset: (channels,) int64 over 2^4: samples where all planes are zero.
        weights: (levels, planes, 2) int64 over 2^4: of what the upsampling network says of details, and of what the
            first plane says of the others'.
    """

    grid: tuple[int, int]
    sample_bits: int
    latents: list[list[np.ndarray]]
    colors: np.ndarray
    offset: np.ndarray
    weights: np.ndarray

    @property
    def in_features(self) -> int:
        """Coordinates of a point."""
        return 2

    def planes(self) -> np.ndarray:
        """(planes, height, width) int64, over 2^10 steps."""
        *details, (smallest,) = self.latents
        made = smallest << FRACTION_BITS
        for level in reversed(range(len(details))):
            made = put_together(made, values_of(details[level], made, self.weights[level]), start().filters)
        return made

    def pixels(self, grid: Sequence[int] | None = None) -> np.ndarray:
        """The samples on a grid, (height, width, channels), uint8 or uint16 as they were encoded.

        Another grid than the field's own is interpolated, in integers (`resampling`).
        """
        shown = self.shown(self.planes())
        if grid is not None and tuple(grid) != self.grid:
            return resampled(shown, grid, (1 << self.sample_bits) - 1).astype(shown.dtype)
        return shown

    def shown(self, planes: np.ndarray) -> np.ndarray:
        """The samples (height, width, channels) of planes (planes, height, width) over 2^10 steps."""
        shift = FRACTION_BITS + COLOR_BITS
        offset = (self.offset << (shift - OFFSET_BITS)) + (1 << (shift - 1))
        samples = (self.colors @ planes.reshape(len(planes), -1) + offset[:, None]) >> shift
        samples = samples.clip(0, (1 << self.sample_bits) - 1).T.reshape(*self.grid, -1)
        return samples.astype(np.uint8 if self.sample_bits <= 8 else np.uint16)


def values_of(details: Sequence[np.ndarray], smaller: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Over 2^10 steps, what the three details of a level are, given the smaller planes (planes, height, width)."""
    found = [detail << FRACTION_BITS for detail in details]
    for plane in np.flatnonzero(weights[:, 0]):
        guesses = start().upsampling(smaller[plane], FRACTION_BITS) * weights[plane, 0] >> WEIGHT_BITS
        for values, guess in zip(found, guesses, strict=False):
            rows, columns = values.shape[1:]
            values[plane] += guess[:rows, :columns]
    if weights[:, 1].any():
        slope = slopes(smaller, FRACTION_BITS)
        for values in found:
            for plane in np.flatnonzero(weights[:, 1]):
                values[plane] += predicted(values[0], slope[plane - 1]) * weights[plane, 1] >> WEIGHT_BITS
    return found


def write_latents(writer: Writer, field: LatentField) -> None:
    """Put a field behind what `writer` has; grid and bits of a sample are the caller's."""
    channels, planes = field.colors.shape
    writer.number(channels)
    writer.number(planes)
    for value in (*field.colors.ravel().tolist(), *field.offset.tolist()):
        writer.signed(value)
    for value in field.weights.ravel().tolist():
        writer.number(value)
    *details, (smallest,) = field.latents
    for plane in smallest:
        writer.array(_differences(plane))
    frequencies = Frequencies(start().frequencies)
    seen = Seen(planes, [[part.shape[1:] for part in level] for level in details])
    signs, extras = [], []
    for place in order(planes, len(details)):
        values = details[place.level][place.detail][place.plane][place.where]
        symbols = symbols_of(np.abs(values)).ravel()
        classes = start().contexts.classes(place, seen.features(place))
        for which, table in frequencies.groups(place, classes):
            writer.symbols(symbols[which], table)
        frequencies.count(place, classes, symbols)
        seen.put(place, symbols.reshape(values.shape))
        flat = values.ravel()
        signs.append(flat[symbols > 0] < 0)
        extras.append((symbols, np.abs(flat) - SMALLEST[symbols]))
    writer.symbols(np.concatenate([*signs, []]), np.ones(2))
    for bits in range(1, int(EXTRA_BITS[-1]) + 1):
        rest = np.concatenate([extra[EXTRA_BITS[symbols] == bits] for symbols, extra in extras] or [[]])
        for part, width in _parts(bits):
            writer.symbols(rest.astype(np.int64) >> part & ((1 << width) - 1), np.ones(1 << width))


def read_latents(reader: Reader, grid: tuple[int, int], sample_bits: int) -> LatentField:
    """What `write_latents` wrote.

    Raises:
        InputError: it cannot be.
    """
    channels, planes = reader.number(_MOST_CHANNELS), reader.number(_MOST_CHANNELS)
    if not channels or not planes:
        raise InputError(f"a picture has {channels} channels of {planes} planes")
    colors = np.array([reader.signed(_LARGEST_COLOR) for _ in range(channels * planes)]).reshape(channels, planes)
    offset = np.array([reader.signed(_LARGEST_OFFSET) for _ in range(channels)])
    check_room(f"a picture of {grid[1]} x {grid[0]}", _BYTES_PER_SAMPLE * planes * grid[0] * grid[1])
    *of_details, (of_smallest,) = shapes(grid, levels_of(grid))
    weights = np.array([reader.number(LARGEST_WEIGHT) for _ in range(len(of_details) * planes * 2)], dtype=np.int64)
    weights = weights.reshape(len(of_details), planes, 2)
    if weights[:, 0, 1].any():
        raise InputError("its first plane is guessed from itself")
    smallest = np.stack([_sums(reader.array(of_smallest, LARGEST)) for _ in range(planes)])
    details = [[np.zeros((planes, *shape), dtype=np.int64) for shape in level] for level in of_details]
    frequencies, seen = Frequencies(start().frequencies), Seen(planes, of_details)
    decoded: list[tuple[Place, np.ndarray]] = []
    for place in order(planes, len(details)):
        values = details[place.level][place.detail][place.plane][place.where]
        symbols = np.empty(values.size, dtype=np.uint8)
        classes = start().contexts.classes(place, seen.features(place))
        for which, table in frequencies.groups(place, classes):
            symbols[which] = reader.symbols(len(which), table)
        frequencies.count(place, classes, symbols)
        seen.put(place, symbols.reshape(values.shape))
        decoded.append((place, symbols))
    together = np.concatenate([symbols for _, symbols in decoded] or [np.zeros(0, dtype=np.uint8)])
    sizes = SMALLEST[together]
    signs = reader.symbols(int((together > 0).sum()), np.ones(2))
    for bits in range(1, int(EXTRA_BITS[-1]) + 1):
        which = np.flatnonzero(EXTRA_BITS[together] == bits)
        for part, width in _parts(bits):
            sizes[which] += reader.symbols(len(which), np.ones(1 << width)).astype(np.int64) << part
    sizes[together > 0] *= 1 - 2 * signs.astype(np.int64)
    begin = 0
    for place, symbols in decoded:
        values = details[place.level][place.detail][place.plane][place.where]
        values[...] = sizes[begin : begin + symbols.size].reshape(values.shape)
        begin += symbols.size
    return LatentField(
        grid=grid,
        sample_bits=sample_bits,
        latents=[*details, [smallest]],
        colors=colors,
        offset=offset,
        weights=weights,
    )


def _parts(bits: int) -> list[tuple[int, int]]:
    """Shifts and widths of the parts of at most 8 bits that a number is written in."""
    return [(part, min(8, bits - part)) for part in range(0, bits, 8)]


def _differences(plane: np.ndarray) -> np.ndarray:
    """Each value less the one above, in the first row the one before."""
    down = np.diff(plane, axis=0, prepend=0)
    down[0] = np.diff(plane[0], prepend=0)
    return down


def _sums(differences: np.ndarray) -> np.ndarray:
    found = differences.copy()
    found[0] = np.cumsum(found[0])
    return np.cumsum(found, axis=0)


def multiply_adds(planes: int) -> float:
    """Products of a decoder for each pixel, of a large picture of as many channels as planes."""
    contexts = (FEATURES + 1) * HIDDEN
    first, second = start().upsampling.first, start().upsampling.second
    upsampling = (first.size + second.size) / 3  # for each place of the smaller planes: 1/4 + 1/16 + ...
    lifting = 2 * 3 * 4 / 3  # in both directions two steps and a gain for each sample, at all levels
    slope = 3 / 3 + 2  # at places of the smaller planes, and for each detail
    return planes * (contexts + upsampling + lifting + slope + planes)
