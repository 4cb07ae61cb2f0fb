"""A field in integers: its output has the same bits on every machine and with any number of threads.

Source: DHQ (arXiv 2508.13478) for the arithmetic of a layer; coordinates stay exact, because in hardware they are
counters: the centre (2 i + 1 - n) / n of a pixel is the integer 2 i + 1 - n over n.

Operands have at most 16 bits (8 where so chosen), sums and phases more. Products of matrices are computed in float64,
where integers below 2^53 and all their sums are exact in any order; everything else is int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hardy.errors import InputError
from hardy.evaluate import psnr
from hardy.fields.field import check_count
from hardy.fields.signals import PEAK, Signal
from hardy.fields.units import Unit
from hardy.ops.fixed_point import divide, multiplier, rescale, sine_quarter_table, wave
from hardy.ops.hadamard import hadamard_transform

SCATTERED = 2**15
"""Coordinates that are no grid's are rounded to multiples of 1 over this."""
_POINTS_AT_ONCE = 32768
# Of a code: a row that can add no more than this to an output is left out.
_NOTHING = 2.0**-6


def grid_numerators(grid: Sequence[int]) -> torch.Tensor:
    """The centres of a grid's cells, times the sizes of the grid: integers (points, d) int64, the last axis fastest.

    Raises:
        InputError: a size is not an integer from 1 to 32768, or there is none.
    """
    if not grid or any(type(size) is not int or not 1 <= size <= SCATTERED for size in grid):
        raise InputError(f"a grid is one or more integers from 1 to {SCATTERED}, got {grid!r}")
    axes = [2 * torch.arange(size) + 1 - size for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(grid))


def fractions(coordinates: torch.Tensor) -> torch.Tensor:
    """Coordinates in [-1, 1] as integers over `SCATTERED`, rounded."""
    return (coordinates.double() * SCATTERED).round().to(torch.int64)


class IntegerLinear(nn.Module):
    """`W x + b` from codes to codes, with a scale for each row.

    Args:
        codes: weights (out, in), integers of at most 16 bits.
        scales: (out,) float64: what one unit of `codes @ x` is, in codes of the output.
        bias: (out,) float64, in codes of the output.
        bits: of the weights.
        largest: an upper bound of |codes @ x|; rows whose scale is so small that nothing comes of it are left out.
    """

    def __init__(
        self, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor, bits: int, largest: float
    ) -> None:
        super().__init__()
        pairs = [multiplier(scale) if scale * largest > _NOTHING else (0, 1) for scale in scales.tolist()]
        self.bits = bits
        self.register_buffer("codes", codes.to(torch.int16))
        self.register_buffer("factors", torch.tensor([m for m, _ in pairs]))
        self.register_buffer("shifts", torch.tensor([shift for _, shift in pairs]))
        self.register_buffer("bias", bias.round().to(torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (points, out) for `x` (points, in), int64 of at most 2^20."""
        sums = (x.double() @ self.get_buffer("codes").double().T).to(torch.int64)
        return rescale(sums, self.get_buffer("factors"), self.get_buffer("shifts")) + self.get_buffer("bias")

    def at(self, numerators: torch.Tensor, denominators: Sequence[int]) -> torch.Tensor:
        """Codes (points, out) at the coordinates `numerators / denominators`, (points, in) and (in,)."""
        codes, shifts = self.get_buffer("codes").to(torch.int64), self.get_buffer("shifts")
        total = self.get_buffer("bias")
        for axis, denominator in enumerate(denominators):
            product = numerators[:, axis, None] * (codes[:, axis] * self.get_buffer("factors"))
            total = total + divide(product, denominator * (torch.ones_like(shifts) << shifts))
        return total

    @property
    def stored_bits(self) -> int:
        """Codes, and for each row a factor of 24 bits, a shift of 6 and a bias of 32."""
        return self.get_buffer("codes").numel() * self.bits + len(self.get_buffer("bias")) * (24 + 6 + 32)


class Requantize(nn.Module):
    """Activations from the codes of a unit to codes of few bits, turned by a Hadamard transform before or not.

    Args:
        scale: codes of the unit times this are codes of few bits.
        zero: is added to the few-bit codes to give integers in proportion to the activation.
        bits: of the codes.
        rotated: whether they are of the transformed activations.
    """

    def __init__(self, scale: float, zero: int, bits: int, rotated: bool) -> None:
        super().__init__()
        self.m, self.shift = multiplier(scale)
        self.zero, self.bits, self.rotated = zero, bits, rotated

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes plus zero, (points, features), which are what the next layer multiplies."""
        codes = hadamard_transform(codes) if self.rotated else codes
        largest = 2 ** (self.bits - 1)
        few = (rescale(codes, self.m, self.shift) - self.zero).clamp(-largest, largest - 1)
        return few + self.zero


class IntegerField(nn.Module):
    """What `HadamardQuant` makes of a field: layers, units and requantizers of integers.

    Attributes:
        rotated: for each layer but the first, whether its input is turned by a Hadamard transform.
        fraction_bits: F: outputs are multiples of 2^-F.
    """

    def __init__(
        self,
        layers: Sequence[IntegerLinear],
        units: Sequence[Unit],
        requantizers: Sequence[Requantize],
        frequencies: int,
        fraction_bits: int,
    ) -> None:
        super().__init__()
        self.layers, self.units = nn.ModuleList(layers), nn.ModuleList(units)
        self.requantizers = nn.ModuleList(requantizers)
        self.frequencies, self.fraction_bits = frequencies, fraction_bits
        self.rotated = tuple(step.rotated for step in requantizers)
        self.register_buffer("sine", sine_quarter_table(fraction_bits))

    @property
    def bits(self) -> int:
        """What has to be stored: weights, scales, biases, and 64 bits per requantizer; tables are the decoder's."""
        layers = sum(layer.stored_bits for layer in self.layers if isinstance(layer, IntegerLinear))
        return layers + 64 * len(self.requantizers)

    @torch.no_grad()
    def codes(self, numerators: torch.Tensor, denominators: Sequence[int]) -> torch.Tensor:
        """Values times 2^F, rounded, at coordinates `numerators / denominators`.

        Args:
            numerators: (points, d) int64, at most 2^15 in size.
            denominators: d integers from 1 to 2^15.

        Returns:
            (points, channels) int64.
        """
        blocks = [self._block(block, denominators) for block in numerators.split(_POINTS_AT_ONCE)]
        return torch.cat(blocks)

    def _block(self, numerators: torch.Tensor, denominators: Sequence[int]) -> torch.Tensor:
        first = self.layers[0]
        assert isinstance(first, IntegerLinear)
        if self.frequencies:
            x = first(self._encoded(numerators, torch.tensor(denominators, device=numerators.device)))
        else:
            x = first.at(numerators, denominators)
        for unit, requantize, layer in zip(self.units, self.requantizers, self.layers[1:], strict=True):
            x = layer(requantize(unit(x)))
        return x

    def _encoded(self, numerators: torch.Tensor, denominators: torch.Tensor) -> torch.Tensor:
        one, sine = 2**self.fraction_bits, self.get_buffer("sine")
        octaves = 2 ** torch.arange(self.frequencies, device=numerators.device)
        # Half a period, pi, is two quarters, and a quarter is `one` codes of phase.
        phases = divide(numerators[..., None] * octaves * (2 * one), denominators[:, None]).flatten(-2)
        waves = [wave(phase, self.fraction_bits, lambda d: sine[d]) for phase in (phases, phases + one)]
        return torch.cat([divide(numerators * one, denominators), *waves], -1)

    def render(self, grid: Sequence[int]) -> torch.Tensor:
        """Values times 2^F at the centres of a grid's cells, (*grid, channels) int64, not clipped."""
        numerators = grid_numerators(grid).to(self.get_buffer("sine").device)
        return self.codes(numerators, tuple(grid)).reshape(*grid, -1)

    def pixels(self, grid: Sequence[int]) -> torch.Tensor:
        """The picture on a grid, (*grid, channels) uint8: -1 is 0 and 1 is 255, rounded in integers."""
        one = 2**self.fraction_bits
        shown = self.render(grid).clamp(-one, one) + one
        return divide(255 * shown, 2 * one).to(torch.uint8)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Values (points, channels) at coordinates (points, d), which are rounded to multiples of 2^-15."""
        if coordinates.ndim != 2:
            raise InputError(f"coordinates must be (points, d), got shape {tuple(coordinates.shape)}")
        codes = self.codes(fractions(coordinates), (SCATTERED,) * coordinates.shape[1])
        return codes.double().float() / 2**self.fraction_bits

    def psnr(self, signal: Signal) -> float:
        """PSNR in dB of this field as `signal`, at the exact points of its grid if it has one."""
        if signal.grid is None:
            values = self(signal.coordinates)
        else:
            values = self.codes(grid_numerators(signal.grid), signal.grid).float() / 2**self.fraction_bits
        return psnr(values.clamp(-1, 1), signal.values, PEAK)


def check_bits(name: str, value: object) -> None:
    """Raise `InputError` unless `value` is an integer from 2 to 16."""
    check_count(name, value, least=2)
    if isinstance(value, int) and value > 16:
        raise InputError(f"{name} must be an integer from 2 to 16, got {value!r}")
