"""What a chip does at each use: inputs through the DAC, tiles in one batched product, noise, outputs through the ADC.

Read noise is drawn where it arrives, at the output. The sum over independent Gaussian cells is Gaussian with variance
`x^2 @ variance^T`, so one more matrix product replaces a draw per cell and input vector, exactly in distribution.
The gradient is that of the plain product with the weights as held: straight through the converters and the noise.
"""

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import nn

from hardy.hardware.chip import Chip
from hardy.hardware.converters import Architecture, convert
from hardy.hardware.crossbar import ArrayState
from hardy.ops.conversion import converted_sum, in_steps, input_codes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Periphery:
    """The converters of one layer, with the ranges they have there.

    Args:
        tile_rows: inputs of a tile.
        dac_levels: largest code of the input converter (127 for 8 bits), or None.
        dac_range: input at full scale, or "vector" for the largest magnitude of each vector; None as long as a
            calibrated one is not known.
        adc_levels: largest code of the output converter, 0 for one that gives a sign, or None.
        adc_range: output at full scale, in cells; None likewise. One for each where several cells share a weight.
        output_noise: standard deviation before conversion, in cells.
        tile_scales: whether a cell counts differently in each tile of an output.
        input_slice_bits, nonlinearity, adc, tile_columns: as in `Chip`.
    """

    tile_rows: int
    dac_levels: int | None
    dac_range: float | Literal["vector"] | None
    adc_levels: int | None
    adc_range: float | tuple[float, ...] | None
    output_noise: float
    input_slice_bits: int | None = None
    nonlinearity: float = 0.0
    adc: Architecture = "sar"
    tile_columns: int = 512
    tile_scales: bool = True

    @property
    def has_range(self) -> bool:
        """Whether the input's full scale matters."""
        converts = self.dac_levels is not None or self.adc_levels is not None
        return converts or self.output_noise > 0 or self.nonlinearity > 0

    @property
    def converts(self) -> bool:
        """Whether something happens to inputs or outputs beside the product."""
        return self.has_range

    @property
    def known(self) -> bool:
        """Whether all ranges that matter are."""
        output = self.adc_levels is None or self.adc_range is not None
        return not self.converts or (self.dac_range is not None and output)

    @staticmethod
    def of(
        chip: Chip, *, input_range: float | None = None, output_range: float | tuple[float, ...] | None = None
    ) -> "Periphery":
        """That of `chip`, with the calibrated ranges of the layer where the chip has none of its own."""
        dac_range = input_range if chip.dac_range == "calibrated" else chip.dac_range
        adc_range = output_range if chip.adc_range == "calibrated" else chip.adc_range
        return Periphery(
            tile_rows=chip.tile_rows,
            dac_levels=None if chip.dac_bits is None else 2 ** (chip.dac_bits - 1) - 1,
            dac_range="vector" if dac_range == "vector" else dac_range,
            adc_levels=None if chip.adc_bits is None else 2 ** (chip.adc_bits - 1) - 1,
            adc_range=None if adc_range == "calibrated" else adc_range,
            output_noise=chip.output_noise,
            input_slice_bits=chip.input_slice_bits,
            nonlinearity=chip.nonlinearity,
            adc=chip.adc,
            tile_columns=chip.tile_columns,
            tile_scales=chip.weight_range == "tile",
        )


@dataclasses.dataclass(kw_only=True)
class Clips:
    """How many conversions went beyond the range of their converter, of how many, on the way in and out."""

    inputs: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    outputs: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    of_inputs: int = 0
    of_outputs: int = 0


def analog_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    read_variance: torch.Tensor | None,
    periphery: Periphery,
    random: torch.Generator,
    clips: Clips | None = None,
    *,
    converters: torch.Tensor | None = None,
    slices: tuple[ArrayState, ...] = (),
) -> torch.Tensor:
    """`x @ weight.T` as the chip computes it.

    Args:
        x: (vectors, in) float32.
        weight, scale, read_variance, converters, slices: as in `ArrayState`, float32. With `slices` they are what is
            read, and `weight` is what the gradient goes through.
        periphery: the converters. A range that is not known yet is that of these inputs: their largest, and 12 cells.
        random: of the read noise, on the device of `x`; it moves on with each use.
        clips: where conversions beyond the ranges are counted.

    Returns:
        (vectors, out) float32.
    """
    read = slices or (ArrayState(weight=weight, scale=scale, read_variance=read_variance, converters=converters),)
    product: torch.Tensor = _Straight.apply(x, weight, read, periphery, random, clips)  # pyright: ignore[reportAssignmentType]
    return product


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        read: tuple[ArrayState, ...],
        periphery: Periphery,
        random: torch.Generator,
        clips: Clips | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _forward(x, read, periphery, random, clips)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        for_x = gradient @ weight if ctx.needs_input_grad[0] else None
        for_weight = gradient.mT @ x if ctx.needs_input_grad[1] else None
        return for_x, for_weight, None, None, None, None


def _forward(
    x: torch.Tensor,
    read: tuple[ArrayState, ...],
    periphery: Periphery,
    random: torch.Generator,
    clips: Clips | None,
) -> torch.Tensor:
    # u: what is on the rows, in units of `step_in`; `full_u` is the full scale in the same units.
    full: torch.Tensor | float = _full_input(x, periphery.dac_range) if periphery.has_range else 1.0
    if periphery.dac_levels is not None:
        step_in, full_u = full / periphery.dac_levels, periphery.dac_levels
        u, beyond = input_codes(x, periphery.dac_levels, full, _count(clips and clips.inputs, x))
        if clips is not None:
            clips.of_inputs, clips.inputs = clips.of_inputs + x.numel(), beyond
    else:
        u, step_in, full_u = x, 1.0, full
    total: torch.Tensor | None = None
    for worth, on_rows, full_rows in _steps(u, full_u, periphery):
        for number, state in enumerate(read):
            y = _read(on_rows, full_rows, state, number, periphery, random, clips)
            y = y if worth == 1 else y.mul_(worth)
            total = y if total is None else total.add_(y)
    assert total is not None
    return total.mul_(step_in)


def _steps(
    u: torch.Tensor, full: torch.Tensor | float, periphery: Periphery
) -> list[tuple[int, torch.Tensor, torch.Tensor | float]]:
    """What is on the rows at each step: what it counts, the voltages, and their full scale in the same units."""
    bits, steps = periphery.input_slice_bits, [(1, u, full)]
    if bits is not None and periphery.dac_levels is not None:
        base, size, sign, steps = 2**bits, u.abs(), u.sign(), []
        worth = 1
        while worth <= periphery.dac_levels:
            steps.append((worth, size.remainder(base).mul_(sign), base - 1))
            size, worth = (size / base).floor_(), worth * base
    if b := periphery.nonlinearity:
        steps = [(worth, (u / full * b).sinh() * full / math.sinh(b), full) for worth, u, full in steps]
    return steps


def _read(
    u: torch.Tensor,
    full_u: torch.Tensor | float,
    state: ArrayState,
    number: int,
    periphery: Periphery,
    random: torch.Generator,
    clips: Clips | None,
) -> torch.Tensor:
    """One use of one set of arrays, (vectors, out) in the units of `u`; `number` of the slices."""
    weight, scale, read_variance = state.weight, state.scale, state.read_variance
    if periphery.adc_levels is None:
        y = u @ weight.mT
        if read_variance is not None:
            y.add_(_variance(u, read_variance.mT).sqrt_().mul_(_normal(y, random)))
        if periphery.output_noise:  # of all tiles together
            y.add_(_normal(y, random).mul_(periphery.output_noise * scale.square().sum(1).sqrt() * full_u))
        return y
    u = _input_tiles(u, periphery.tile_rows)
    y = torch.bmm(u, _weight_tiles(weight, periphery.tile_rows))  # (tiles, vectors, out)
    alike = 1 if not periphery.tile_scales else None
    one = scale.mT[:alike, None, :] * full_u  # one cell, (1 or tiles, 1 or vectors, out), as y
    variance = None
    if read_variance is not None:
        constant = read_variance.shape[1] == 1
        variance = _variance(u, read_variance.mT if constant else _weight_tiles(read_variance, periphery.tile_rows))
    if periphery.output_noise:
        before = (periphery.output_noise * one).square()
        variance = before.expand_as(y).clone() if variance is None else variance.add_(before)
    normal = None if variance is None else _normal(y, random)
    adc_range = periphery.adc_range[number] if isinstance(periphery.adc_range, tuple) else periphery.adc_range
    step_out = one * ((adc_range or 12.0) / (periphery.adc_levels or 1))
    count = _count(clips and clips.outputs, y)
    if state.converters is None:
        total, beyond = converted_sum(y, variance, normal, step_out, periphery.adc_levels, count)
    else:
        y = in_steps(y, variance, normal, step_out)
        codes = convert(y, state.converters, periphery.adc, periphery.tile_columns)
        beyond = count + (y.round_().abs() > periphery.adc_levels).sum()
        total = codes.clamp_(-periphery.adc_levels, periphery.adc_levels).mul_(step_out).sum(0)
    if clips is not None:
        clips.of_outputs, clips.outputs = clips.of_outputs + y.numel(), beyond
    return total


def calibrated(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    chip: Chip,
    input_range: float | None = None,
    slices: tuple[ArrayState, ...] = (),
) -> tuple[float | None, float | tuple[float, ...] | None]:
    """The ranges that `chip` leaves to calibration, from inputs `x` (vectors, in): of inputs, and of a tile's sums.

    The first is the largest magnitude, `input_range` if that is known from more inputs; the second, in cells, is the
    `chip.adc_percentile` of the magnitudes, one for each of `slices` where there are some (`ArrayState`). None where
    nothing but zeros was seen.
    """
    if chip.dac_range == "calibrated":
        input_range = (input_range if input_range is not None else x.abs().max().item()) or None
    periphery = Periphery.of(chip, input_range=input_range)
    if chip.adc_bits is None or chip.adc_range != "calibrated" or periphery.dac_range is None:
        return input_range, None
    x = x[:: max(1, len(x) // _SAMPLE)]
    full = _full_input(x, periphery.dac_range)
    if periphery.input_slice_bits is not None and periphery.dac_levels is not None:
        codes, _ = input_codes(x, periphery.dac_levels, full, _count(None, x))
        steps = _steps(codes, periphery.dac_levels, periphery)
    else:
        steps = _steps((x / full).clamp(-1, 1), 1.0, periphery)
    on_rows = [_input_tiles(u / full_u, periphery.tile_rows) for _, u, full_u in steps]
    ranges = []
    for matrix, of_cell in [(part.weight, part.scale) for part in slices] or [(weight, scale)]:
        tiles = _weight_tiles(matrix, periphery.tile_rows)
        sums = torch.cat([(torch.bmm(u, tiles) / of_cell.mT[:, None, :]).abs().flatten() for u in on_rows])
        beyond = int(len(sums) * (1 - chip.adc_percentile / 100))
        ranges.append(sums.topk(beyond + 1).values[-1].item() or sums.max().item())
    if not any(ranges):
        return input_range, None
    if not slices:
        return input_range, ranges[0]
    return input_range, tuple(value or 1.0 for value in ranges)  # a slice that holds zeros alone has one cell's


_SAMPLE = 1024  # vectors that a range of outputs is found on


def _full_input(x: torch.Tensor, dac_range: float | Literal["vector"] | None) -> torch.Tensor | float:
    if dac_range is None:
        return x.abs().max().item() or 1.0
    if dac_range != "vector":
        return dac_range
    largest = x.abs().amax(-1, keepdim=True)
    return torch.where(largest == 0, torch.ones_like(largest), largest)


def _input_tiles(x: torch.Tensor, rows: int) -> torch.Tensor:
    """(vectors, in) as (tiles, vectors, rows); the last tile is filled up with zeros."""
    return _filled(x, rows).transpose(0, 1)


def _weight_tiles(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """(out, in) as (tiles, rows, out), likewise."""
    return _filled(weight, rows).permute(1, 2, 0)


def _filled(values: torch.Tensor, rows: int) -> torch.Tensor:
    """(n, in) as (n, tiles, rows)."""
    width = values.shape[-1]
    rows = min(rows, width)
    count = -(-width // rows)
    if missing := count * rows - width:
        values = nn.functional.pad(values, (0, missing))
    return values.reshape(len(values), count, rows)


def _normal(like: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=random, device=like.device, dtype=like.dtype)


def _variance(u: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Of the noise of all cells of a column together, (..., vectors, out).

    `u` is (..., vectors, rows), `variance` (..., rows, out), or (1, out) where all cells of a column have the same.
    """
    constant = variance.shape[-2] == 1
    return u.square().sum(-1, keepdim=True) * variance if constant else u.square() @ variance


def _count(earlier: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """A count that goes on, on the device of `like`."""
    return torch.zeros((), dtype=torch.int64, device=like.device) if earlier is None else earlier.to(like.device)
