"""A field in integers as plain arrays, and what it computes, in NumPy and without one floating-point number.

Source: DHQ (arXiv 2508.13478) for the arithmetic of a layer, QuadINR (2508.14374) for phases that wrap around.

This file is the definition that hardware and other decoders are checked against; `hardy.fields.IntegerField` computes
the same codes with torch, many times faster. With F fraction bits, at the coordinates c_i / n_i:

    x   = bias + sum_i nearest(codes[:, i] * factors * c_i, n_i * 2^shifts)              first layer
    x   = bias + nearest(factors * (codes @ few), 2^shifts)                              other layers
    few = clip(nearest(m * H y, 2^shift) - zero, -2^(bits-1), 2^(bits-1) - 1) + zero     between layers, y = unit(x)

`nearest(a, b)` is the integer nearest to a / b, halves up, which is floor((2 a + b) / (2 b)); H is the Hadamard
transform of the width's blocks where the layer is turned, and absent elsewhere. All integers fit int64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hardy.errors import InputError
from hardy.fields.tables import TABLE_REACH, gauss_table, relu_table, sine_table, wavelet_tables
from hardy.ops.hadamard import factors, paley

LARGEST_GRID = 2**15
"""Of an axis; also the denominator to which coordinates that are no grid's are rounded."""
LARGEST_TURN = 2**9
"""Quarter periods beyond which FINER's argument saturates."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LinearCodes:
    """A layer: codes (out, in) of so many `bits`; factors, shifts and bias (out,); all int64."""

    codes: np.ndarray
    factors: np.ndarray
    shifts: np.ndarray
    bias: np.ndarray
    bits: int

    @property
    def is_complex(self) -> bool:
        """Whether the second half of the rows repeats the first: a complex matrix [[re, -im], [im, re]]."""
        half, rest = divmod(len(self.codes), 2)
        width, odd = divmod(self.codes.shape[1], 2)
        if rest or odd or not half:
            return False
        upper = self.codes[:half]
        lower = np.concatenate([-upper[:, width:], upper[:, :width]], 1)
        same = [np.array_equal(row[:half], row[half:]) for row in (self.factors, self.shifts)]
        return all(same) and np.array_equal(self.codes[half:], lower)

    @property
    def stored_bits(self) -> int:
        """Codes, once where they are complex, and for each row a factor of 24 bits, a shift of 6 and a bias of 32."""
        halves = 2 if self.is_complex else 1
        return (self.codes.size * self.bits + len(self.bias) * (24 + 6)) // halves + len(self.bias) * 32


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class UnitCodes:
    """An activation.

    Attributes:
        kind: "sine", "quad", "triangle": a wave of the phase, whose period is 2^(F+2); "finer", "gauss", "relu",
            "wavelet"; or "table".
        numbers: of finer, the factor m and shift with which x |x| / 2^8 is added to x, the shift less 8; of wavelet,
            2^20 (scale / omega)^2; of others, none.
        table: of kind "table", the values (2^16,) int64 at the codes from -2^15 up; others make their own.
    """

    kind: str
    numbers: tuple[int, ...] = ()
    table: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requantization:
    """Between layers: to codes of so many `bits`, `zero` added back; of the transformed activations if `rotated`."""

    m: int
    shift: int
    zero: int
    bits: int
    rotated: bool


class LayerValues(NamedTuple):
    """Codes (points, features) int64 of a layer: x before its unit, y after it, and `few` that the next layer takes."""

    x: np.ndarray
    y: np.ndarray | None
    few: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class IntegerModel:
    """A field as integers; `codes` and `pixels` are its documented meaning.

    Attributes:
        layers: one more than units and requantizations.
        units: between layers.
        requantizations: after each unit.
        frequencies: of the encoding of coordinates as sines and cosines, 0 for none.
        fraction_bits: F; outputs are multiples of 2^-F.
    """

    layers: tuple[LinearCodes, ...]
    units: tuple[UnitCodes, ...]
    requantizations: tuple[Requantization, ...]
    frequencies: int
    fraction_bits: int

    @property
    def in_features(self) -> int:
        """Coordinates of a point."""
        return self.layers[0].codes.shape[1] // (1 + 2 * self.frequencies)

    @property
    def out_features(self) -> int:
        """Channels of a value."""
        return len(self.layers[-1].codes)

    @property
    def bits(self) -> int:
        """What has to be stored: weights, scales, biases, and 64 bits per requantization; tables are the decoder's."""
        return sum(layer.stored_bits for layer in self.layers) + 64 * len(self.requantizations)

    def codes(self, numerators: np.ndarray, denominators: Sequence[int]) -> np.ndarray:
        """Values times 2^F, rounded, at coordinates `numerators / denominators`.

        Args:
            numerators: (points, d) int64, at most 2^15 in size.
            denominators: d integers from 1 to 2^15.

        Returns:
            (points, channels) int64.
        """
        x = np.empty(0)
        for values in self.trace(numerators, denominators):
            x = values.x
        return x

    def trace(self, numerators: np.ndarray, denominators: Sequence[int]) -> Iterator[LayerValues]:
        """Everything that is computed on the way to `codes`, layer by layer; the arguments are those of `codes`."""
        first = self.layers[0]
        if self.frequencies:
            x = _linear(first, encoded(numerators, denominators, self.frequencies, self.fraction_bits))
        else:
            x = np.broadcast_to(first.bias, (len(numerators), len(first.bias)))
            for axis, denominator in enumerate(denominators):
                product = numerators[:, axis, None] * (first.codes[:, axis] * first.factors)
                x = x + nearest(product, denominator << first.shifts)
        for unit, step, layer in zip(self.units, self.requantizations, self.layers[1:], strict=True):
            y = _activated(unit, x, self.fraction_bits)
            turned = y @ hadamard_matrix(y.shape[1], parts(unit)).T if step.rotated else y
            largest = 1 << (step.bits - 1)
            few = (nearest(turned * step.m, 1 << step.shift) - step.zero).clip(-largest, largest - 1) + step.zero
            yield LayerValues(x, y, few)
            x = _linear(layer, few)
        yield LayerValues(x, None, None)

    def pixels(self, grid: Sequence[int], bits: int = 8) -> np.ndarray:
        """The values on a grid, (*grid, channels): -1 is 0 and 1 is 2^bits - 1; uint8, or uint16 beyond 8 bits."""
        one = 1 << self.fraction_bits
        shown = self.codes(grid_numerators(grid), tuple(grid)).clip(-one, one) + one
        whole = nearest(((1 << bits) - 1) * shown, 2 * one)
        return whole.astype(np.uint8 if bits <= 8 else np.uint16).reshape(*grid, -1)


def nearest(x: np.ndarray, by: np.ndarray | int) -> np.ndarray:
    """`x / by` to the nearest integer, halves up, for `by` above zero."""
    return (2 * x + by) // (2 * by)


def grid_numerators(grid: Sequence[int]) -> np.ndarray:
    """The centres of a grid's cells, times the sizes of the grid: integers (points, d) int64, the last axis fastest.

    Raises:
        InputError: a size is not an integer from 1 to 32768, or there is none.
    """
    if not grid or any(type(size) is not int or not 1 <= size <= LARGEST_GRID for size in grid):
        raise InputError(f"a grid is one or more integers from 1 to {LARGEST_GRID}, got {grid!r}")
    axes = [2 * np.arange(size, dtype=np.int64) + 1 - size for size in grid]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(grid))


def _linear(layer: LinearCodes, x: np.ndarray) -> np.ndarray:
    return nearest((x @ layer.codes.T) * layer.factors, 1 << layer.shifts) + layer.bias


def encoded(numerators: np.ndarray, denominators: Sequence[int], frequencies: int, bits: int) -> np.ndarray:
    """Coordinates (points, d) as codes (points, d (1 + 2 frequencies)): themselves, sines, cosines; F is `bits`."""
    one, by = 1 << bits, np.array(denominators)
    # Half a period, pi, is two quarters, and a quarter is `one` codes of phase.
    phases = nearest(numerators[:, :, None] * (1 << np.arange(frequencies)) * (2 * one), by[:, None])
    phases = phases.reshape(len(numerators), -1)
    parts = [nearest(numerators * one, by), _wave("sine", phases, bits), _wave("sine", phases + one, bits)]
    return np.concatenate(parts, 1)


def _wave(kind: str, phase: np.ndarray, bits: int) -> np.ndarray:
    """An odd wave of period 2^(F+2), given next to its top: as a parabola, straight lines, or a table of the sine."""
    one = 1 << bits
    x = phase & (4 * one - 1)
    distance = np.abs(one - (x & (2 * one - 1)))
    if kind == "quad":
        y = one - nearest(distance * distance, one)
    else:
        y = one - distance if kind == "triangle" else sine_table(bits)[distance]
    return np.where(x & (2 * one), -y, y)


def _activated(unit: UnitCodes, x: np.ndarray, bits: int) -> np.ndarray:
    one = 1 << bits
    if unit.kind in ("sine", "quad", "triangle"):
        return _wave(unit.kind, x, bits)
    if unit.kind == "finer":
        m, shift = unit.numbers
        x = x.clip(-LARGEST_TURN * one, LARGEST_TURN * one)
        return _wave("sine", x + nearest(nearest(x * np.abs(x), 1 << 8) * m, 1 << shift), bits)
    if unit.kind == "wavelet":
        bump, lopsided = wavelet_tables(unit.numbers[0], bits)
        last = len(bump) // 2
        real, imaginary = np.split(x, 2, 1)
        places = [part.clip(-last, last) + last for part in (real, imaginary)]
        size = nearest(bump[places[0]] * lopsided[places[1]], one)
        waves = [_wave("sine", phase, bits) for phase in (real + one, real)]
        return np.concatenate([nearest(size * wave, one) for wave in waves], 1)
    made = {"gauss": gauss_table, "relu": relu_table}
    table = made[unit.kind](bits) if unit.kind in made else unit.table
    assert table is not None
    return table[x.clip(-TABLE_REACH, TABLE_REACH - 1) + TABLE_REACH]


def parts(unit: UnitCodes) -> int:
    """Real and imaginary features are transformed apart, so that a complex matrix stays one."""
    return 2 if unit.kind == "wavelet" else 1


def hadamard_matrix(width: int, parts: int) -> np.ndarray:
    """H (width, width) int64: 1, -1 and, between blocks, 0; `y @ H.T` transforms rows y."""
    blocks, doublings, base = factors(width // parts)
    matrix = paley(base).numpy() if base > 1 else np.ones((1, 1), dtype=np.int64)
    for _ in range(doublings):
        matrix = np.kron(np.array([[1, 1], [1, -1]]), matrix)
    return np.kron(np.eye(blocks * parts, dtype=np.int64), matrix)
