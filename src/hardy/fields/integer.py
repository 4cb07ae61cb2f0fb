"""A field in integers: its output has the same bits on every machine and with any number of threads.

Source: DHQ (arXiv 2508.13478) for the arithmetic of a layer; coordinates stay exact, because in hardware they are
counters: the centre (2 i + 1 - n) / n of a pixel is the integer 2 i + 1 - n over n.

The definition is `hardy.fields.integer_model`, in NumPy; here it runs on torch, fast and on any device. Products of
matrices are computed in float64, where integers below 2^53 and all their sums are exact in any order; everything else
is int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardy.errors import InputError
from hardy.evaluate import psnr
from hardy.fields.integer_model import LARGEST_GRID, IntegerModel, LinearCodes, Requantization, grid_numerators
from hardy.fields.signals import PEAK, Signal
from hardy.fields.units import Unit, unit_of
from hardy.ops.fixed_point import divide, rescale, sine_quarter_table, wave
from hardy.ops.hadamard import hadamard_transform
from hardy.reading import check_room

_POINTS_AT_ONCE = 32768


def fractions(coordinates: torch.Tensor) -> torch.Tensor:
    """Coordinates in [-1, 1] as integers over `LARGEST_GRID`, rounded."""
    return (coordinates.double() * LARGEST_GRID).round().to(torch.int64)


class IntegerLinear(nn.Module):
    """`W x + b` from codes to codes, with a scale for each row."""

    def __init__(self, layer: LinearCodes) -> None:
        super().__init__()
        self.register_buffer("codes", torch.tensor(layer.codes, dtype=torch.int16))
        for name in ("factors", "shifts", "bias"):
            self.register_buffer(name, torch.tensor(getattr(layer, name)))

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


class IntegerField(nn.Module):
    """What `HadamardQuant` makes of a field: layers, units and requantizations of integers.

    Attributes:
        model: the same as plain arrays, with a forward in NumPy.
        rotated: for each layer but the first, whether its input is turned by a Hadamard transform.
        fraction_bits: F: outputs are multiples of 2^-F.
    """

    def __init__(self, model: IntegerModel) -> None:
        super().__init__()
        self.model = model
        self.fraction_bits = model.fraction_bits
        self.rotated = tuple(step.rotated for step in model.requantizations)
        self.layers = nn.ModuleList(IntegerLinear(layer) for layer in model.layers)
        self.units = nn.ModuleList(unit_of(unit, model.fraction_bits) for unit in model.units)
        self.register_buffer("sine", sine_quarter_table(model.fraction_bits))

    @property
    def bits(self) -> int:
        """What has to be stored, see `IntegerModel.bits`."""
        return self.model.bits

    @torch.no_grad()
    def codes(self, numerators: torch.Tensor, denominators: Sequence[int]) -> torch.Tensor:
        """Values times 2^F, rounded, at coordinates `numerators / denominators`.

        Args:
            numerators: (points, d) int64, at most 2^15 in size.
            denominators: d integers from 1 to 2^15.

        Returns:
            (points, channels) int64.

        Raises:
            InputError: the field has another number of coordinates.
        """
        if not numerators.shape[1] == len(denominators) == self.model.in_features:
            raise InputError(
                f"this field takes {self.model.in_features} coordinates, got {numerators.shape[1]} over "
                f"{len(denominators)}"
            )
        blocks = [self._block(block, denominators) for block in numerators.split(_POINTS_AT_ONCE)]
        return torch.cat(blocks)

    def _block(self, numerators: torch.Tensor, denominators: Sequence[int]) -> torch.Tensor:
        first = self.layers[0]
        assert isinstance(first, IntegerLinear)
        if self.model.frequencies:
            x = first(self._encoded(numerators, torch.tensor(denominators, device=numerators.device)))
        else:
            x = first.at(numerators, denominators)
        for unit, step, layer in zip(self.units, self.model.requantizations, self.layers[1:], strict=True):
            assert isinstance(unit, Unit)
            x = layer(_requantized(unit(x), step, unit.parts))
        return x

    def _encoded(self, numerators: torch.Tensor, denominators: torch.Tensor) -> torch.Tensor:
        one, sine = 2**self.fraction_bits, self.get_buffer("sine")
        octaves = 2 ** torch.arange(self.model.frequencies, device=numerators.device)
        # Half a period, pi, is two quarters, and a quarter is `one` codes of phase.
        phases = divide(numerators[..., None] * octaves * (2 * one), denominators[:, None]).flatten(-2)
        waves = [wave(phase, self.fraction_bits, lambda d: sine[d]) for phase in (phases, phases + one)]
        return torch.cat([divide(numerators * one, denominators), *waves], -1)

    def render(self, grid: Sequence[int]) -> torch.Tensor:
        """Values times 2^F at the centres of a grid's cells, (*grid, channels) int64, not clipped."""
        last: Any = self.layers[-1]
        numbers = 2 * len(grid) + 5 * len(last.bias)  # for each point, of 8 bytes: places, values and their copies
        check_room(f"a grid of {' x '.join(map(str, grid))}", 8 * numbers * math.prod(grid), "a smaller scale fits")
        numerators = torch.from_numpy(grid_numerators(grid)).to(self.get_buffer("sine").device)
        return self.codes(numerators, tuple(grid)).reshape(*grid, -1)

    def pixels(self, grid: Sequence[int], bits: int = 8) -> torch.Tensor:
        """The values on a grid, (*grid, channels): -1 is 0 and 1 is 2^bits - 1; uint8, or uint16 beyond 8 bits."""
        one = 2**self.fraction_bits
        shown = self.render(grid).clamp(-one, one) + one
        return divide((2**bits - 1) * shown, 2 * one).to(torch.uint8 if bits <= 8 else torch.uint16)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Values (points, channels) at coordinates (points, d) in [-1, 1], which are rounded to multiples of 2^-15.

        Raises:
            InputError: another shape, or coordinates that are NaN or outside [-1, 1].
        """
        if coordinates.ndim != 2:
            raise InputError(f"coordinates must be (points, d), got shape {tuple(coordinates.shape)}")
        if not (coordinates.abs() <= 1).all():
            raise InputError("coordinates must be in [-1, 1]")
        codes = self.codes(fractions(coordinates), (LARGEST_GRID,) * coordinates.shape[1])
        return codes.double().float() / 2**self.fraction_bits

    def psnr(self, signal: Signal) -> float:
        """PSNR in dB of this field as `signal`, at the exact points of its grid if it has one."""
        if signal.grid is None:
            values = self(signal.coordinates)
        else:
            values = self.render(signal.grid).flatten(0, -2).float() / 2**self.fraction_bits
        return psnr(values.clamp(-1, 1), signal.values, PEAK)

    def save(self, path: str | Path) -> int:
        """Write the field to a file, entropy-coded, and give its size in bytes. Nothing is lost."""
        from hardy.fields.container import save_fields

        return save_fields([self.model], path)

    @classmethod
    def load(cls, path: str | Path) -> IntegerField:
        """The field that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, foreign, newer than this hardy, or holds several fields.
        """
        from hardy.fields.container import load_fields

        models = load_fields(path)[0]
        if len(models) != 1:
            raise InputError(f"{path} holds {len(models)} fields, not one")
        if not isinstance(models[0], IntegerModel):
            raise InputError(f"{path} holds a picture as latents, no network: hardy.fields.codec.decode shows it")
        return cls(models[0])


def _requantized(codes: torch.Tensor, step: Requantization, parts: int) -> torch.Tensor:
    """Codes of few bits plus zero, (points, features), which are what the next layer multiplies."""
    if step.rotated:
        codes = hadamard_transform(codes.unflatten(-1, (parts, -1))).flatten(-2)
    largest = 2 ** (step.bits - 1)
    few = (rescale(codes, step.m, step.shift) - step.zero).clamp(-largest, largest - 1)
    return few + step.zero
