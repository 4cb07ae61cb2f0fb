"""Activations in integers: from the codes of a pre-activation to the codes of the activation, by tables and waves.

Sources: QuadINR's fixed-point unit (arXiv 2508.14374); a quarter-wave table for the sine. Waves take any phase: the
bits that overflow are dropped, which is exact. The other units saturate, where their functions are flat or absent.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable

import torch
from torch import nn

from hardy.fields.activations import Activation, Finer, Gauss, Periodic, Quad, Sine, Wire
from hardy.ops.fixed_point import multiplier, quad_quarter, rescale, sine_quarter_table, triangle_quarter, wave

# An index of a table: 16 bits with the sign.
_REACH = 2**15


class Unit(nn.Module, abc.ABC):
    """One activation in integers.

    Args:
        in_step: what one code of its argument stands for.
        out_step: what one code of its value stands for.
    """

    def __init__(self, in_step: float, out_step: float) -> None:
        super().__init__()
        self.in_step, self.out_step = in_step, out_step

    @abc.abstractmethod
    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (points, features) int64 of the activation of `codes`."""


class WaveUnit(Unit):
    """Sine, quadratic or triangle wave."""

    def __init__(self, kind: Periodic, fraction_bits: int) -> None:
        quarter = math.pi / 2 if isinstance(kind, Sine) else 1.0
        super().__init__(quarter / 2**fraction_bits, 2.0**-fraction_bits)
        self.kind, self.fraction_bits = kind.name, fraction_bits
        if isinstance(kind, Sine):
            self.register_buffer("table", sine_quarter_table(fraction_bits))
        self.quadratic = isinstance(kind, Quad)

    def quarter(self, distance: torch.Tensor) -> torch.Tensor:
        """The wave at `distance` from its top."""
        if self.kind == "sine":
            return self.get_buffer("table")[distance]
        return (quad_quarter if self.quadratic else triangle_quarter)(distance, self.fraction_bits)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return wave(codes, self.fraction_bits, self.quarter)


class FinerUnit(WaveUnit):
    """`sin(x + x |x| / omega)`: one more product, then the sine. Beyond 512 quarter periods x saturates."""

    def __init__(self, kind: Finer, fraction_bits: int) -> None:
        super().__init__(Sine(), fraction_bits)
        self.limit = 2 ** (fraction_bits + 9)
        self.m, self.shift = multiplier(self.in_step / kind.omega)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = codes.clamp(-self.limit, self.limit)
        # In two halves, or three factors of 21, 21 and 23 bits would meet in one product.
        square = rescale(x * x.abs(), 1, 8)
        return super().forward(x + rescale(square, self.m, self.shift - 8))


class TableUnit(Unit):
    """Any function of one argument, tabulated at 2^16 arguments, beyond which its argument saturates.

    Args:
        function: of float64 tensors, element by element.
        reach: the argument saturates at -reach and reach.
        fraction_bits: F; the largest value has a code of about 2^(F + 1).
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], reach: float, fraction_bits: int) -> None:
        values = function(torch.arange(-_REACH, _REACH, dtype=torch.float64) * (reach / _REACH))
        out_step = max(values.abs().max().item(), 1e-12) / 2 ** (fraction_bits + 1)
        super().__init__(reach / _REACH, out_step)
        self.register_buffer("table", (values / out_step).round().to(torch.int64))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.get_buffer("table")[codes.clamp(-_REACH, _REACH - 1) + _REACH]


class WaveletUnit(Unit):
    """`exp(j x - k |x|^2)` of complex x, real parts in the first half of the features, imaginary ones in the second.

    The real part of x gives the angle and a bump, the imaginary part a lopsided bump: three tables of one argument.
    """

    def __init__(self, kind: Wire, fraction_bits: int) -> None:
        narrow = (kind.scale / kind.omega) ** 2
        # exp(-b - k b^2) is highest, exp(1 / 4k), at b = -1 / 2k; beyond this reach all is below 2^-26.
        reach = 1 / (2 * narrow) + math.sqrt((18 + 1 / (4 * narrow)) / narrow)
        step = math.pi / 2 / 2**fraction_bits
        super().__init__(step, 2.0**-fraction_bits)
        self.fraction_bits, self.last = fraction_bits, math.ceil(reach / step)
        x = torch.arange(-self.last, self.last + 1, dtype=torch.float64) * step
        one = 2**fraction_bits
        self.register_buffer("sine", sine_quarter_table(fraction_bits))
        self.register_buffer("bump", (one * torch.exp(-narrow * x**2)).round().to(torch.int64))
        self.register_buffer("lopsided", (one * torch.exp(-x - narrow * x**2)).round().to(torch.int64))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        real, imaginary = codes.chunk(2, -1)
        bits, sine = self.fraction_bits, self.get_buffer("sine")
        places = [part.clamp(-self.last, self.last) + self.last for part in (real, imaginary)]
        size = self.get_buffer("bump")[places[0]] * self.get_buffer("lopsided")[places[1]]
        size = rescale(size, 1, bits)
        waves = [wave(phase, bits, lambda d: sine[d]) for phase in (real + 2**bits, real)]
        return torch.cat([rescale(size * part, 1, bits) for part in waves], -1)


def integer_unit(
    kind: Activation | None, function: Callable[[torch.Tensor], torch.Tensor], reach: float, fraction_bits: int
) -> Unit:
    """The unit of an activation of fields, or a table of any other `function` up to the argument `reach`."""
    if isinstance(kind, Periodic):
        return WaveUnit(kind, fraction_bits)
    if isinstance(kind, Finer):
        return FinerUnit(kind, fraction_bits)
    if isinstance(kind, Wire):
        return WaveletUnit(kind, fraction_bits)
    return TableUnit(function, 4.0 if isinstance(kind, Gauss) else reach, fraction_bits)  # exp(-16) is no code
