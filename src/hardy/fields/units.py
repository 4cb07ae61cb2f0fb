"""Activations in integers: from the codes of a pre-activation to the codes of the activation, by tables and waves.

Sources: QuadINR's fixed-point unit (arXiv 2508.14374); a quarter-wave table for the sine. Waves take any phase: the
bits that overflow are dropped, which is exact. The other units saturate, where their functions are flat or absent.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from hardy.fields.activations import Activation, Finer, Gauss, Periodic, Relu, Sine, Wire
from hardy.fields.integer_model import LARGEST_TURN, UnitCodes
from hardy.fields.tables import GAUSS_REACH, TABLE_REACH, WAVELET_UNIT, gauss_table, relu_table, wavelet_tables
from hardy.ops.fixed_point import multiplier, quad_quarter, rescale, sine_quarter_table, triangle_quarter, wave


class Unit(nn.Module, abc.ABC):
    """One activation in integers.

    Attributes:
        parts: 2 where the features are real parts and then imaginary ones, else 1.
    """

    parts = 1

    @abc.abstractmethod
    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (points, features) int64 of the activation of `codes`."""


class WaveUnit(Unit):
    """Sine, quadratic or triangle wave."""

    def __init__(self, kind: str, fraction_bits: int) -> None:
        super().__init__()
        self.kind, self.fraction_bits = kind, fraction_bits
        if kind == "sine":
            self.register_buffer("table", sine_quarter_table(fraction_bits))

    def quarter(self, distance: torch.Tensor) -> torch.Tensor:
        """The wave at `distance` from its top."""
        if self.kind == "sine":
            return self.get_buffer("table")[distance]
        return (quad_quarter if self.kind == "quad" else triangle_quarter)(distance, self.fraction_bits)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return wave(codes, self.fraction_bits, self.quarter)


class FinerUnit(WaveUnit):
    """`sin(x + x |x| / omega)`: one more product, then the sine. Beyond 512 quarter periods x saturates."""

    def __init__(self, m: int, shift: int, fraction_bits: int) -> None:
        super().__init__("sine", fraction_bits)
        self.limit, self.m, self.shift = LARGEST_TURN << fraction_bits, m, shift

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = codes.clamp(-self.limit, self.limit)
        # In two halves, or three factors of 21, 21 and 23 bits would meet in one product.
        return super().forward(x + rescale(rescale(x * x.abs(), 1, 8), self.m, self.shift))


class TableUnit(Unit):
    """A function of one argument, tabulated (2^16,) at the codes from -2^15 up, beyond which its argument saturates."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor(table))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.get_buffer("table")[codes.clamp(-TABLE_REACH, TABLE_REACH - 1) + TABLE_REACH]


class WaveletUnit(Unit):
    """`exp(j x - k |x|^2)` of complex x, real parts in the first half of the features, imaginary ones in the second.

    The real part of x gives the angle and a bump, the imaginary part a lopsided bump: three tables of one argument.
    """

    parts = 2

    def __init__(self, narrow: int, fraction_bits: int) -> None:
        super().__init__()
        bump, lopsided = wavelet_tables(narrow, fraction_bits)
        self.fraction_bits, self.last = fraction_bits, len(bump) // 2
        self.register_buffer("sine", sine_quarter_table(fraction_bits))
        self.register_buffer("bump", torch.tensor(bump))
        self.register_buffer("lopsided", torch.tensor(lopsided))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        real, imaginary = codes.chunk(2, -1)
        bits, sine = self.fraction_bits, self.get_buffer("sine")
        places = [part.clamp(-self.last, self.last) + self.last for part in (real, imaginary)]
        size = self.get_buffer("bump")[places[0]] * self.get_buffer("lopsided")[places[1]]
        size = rescale(size, 1, bits)
        waves = [wave(phase, bits, lambda d: sine[d]) for phase in (real + 2**bits, real)]
        return torch.cat([rescale(size * part, 1, bits) for part in waves], -1)


def unit_of(unit: UnitCodes, fraction_bits: int) -> Unit:
    """The module of a unit's description."""
    if unit.kind == "finer":
        return FinerUnit(unit.numbers[0], unit.numbers[1], fraction_bits)
    if unit.kind == "wavelet":
        return WaveletUnit(unit.numbers[0], fraction_bits)
    if unit.kind == "gauss":
        return TableUnit(gauss_table(fraction_bits))
    if unit.kind == "relu":
        return TableUnit(relu_table(fraction_bits))
    if unit.table is not None:
        return TableUnit(unit.table)
    return WaveUnit(unit.kind, fraction_bits)


def described(
    kind: Activation | None, function: Callable[[torch.Tensor], torch.Tensor], reach: float, fraction_bits: int
) -> tuple[UnitCodes, float, float]:
    """The unit of an activation of fields, or a table of any other `function` up to the argument `reach`.

    Returns:
        The unit, what one code of its argument stands for, and what one code of its value stands for.
    """
    value, quarter = 2.0**-fraction_bits, math.pi / 2 / 2**fraction_bits
    if isinstance(kind, Periodic):
        return UnitCodes(kind=kind.name), quarter if isinstance(kind, Sine) else value, value
    if isinstance(kind, Finer):
        m, shift = multiplier(quarter / kind.omega)
        return UnitCodes(kind="finer", numbers=(m, shift - 8)), quarter, value
    if isinstance(kind, Wire):
        narrow = max(1, round((kind.scale / kind.omega) ** 2 * WAVELET_UNIT))
        return UnitCodes(kind="wavelet", numbers=(narrow,)), quarter, value
    if isinstance(kind, Gauss):
        return UnitCodes(kind="gauss"), GAUSS_REACH / TABLE_REACH, value / 2
    step = reach / TABLE_REACH
    if isinstance(kind, Relu):
        return UnitCodes(kind="relu"), step, step * (TABLE_REACH - 1) * value / 2
    values = function(torch.arange(-TABLE_REACH, TABLE_REACH, dtype=torch.float64) * step)
    out_step = max(values.abs().max().item(), 1e-12) * value / 2
    table = (values / out_step).round().to(torch.int64).numpy()
    return UnitCodes(kind="table", table=table), step, out_step
