"""What a chip does at each use: inputs through the DAC, tiles in one batched product, noise, outputs through the ADC.

Read noise is drawn where it arrives, at the output. The sum over independent Gaussian cells is Gaussian with variance
`x^2 @ variance^T`, so one more matrix product replaces a draw per cell and input vector, exactly in distribution.
The gradient is that of the plain product with the weights as held: straight through the converters and the noise.
"""

import dataclasses
from typing import Any, Literal

import torch
from torch import nn

from hardy.hardware.chip import Chip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Periphery:
    """The converters of one layer, with the ranges they have there.

    Args:
        tile_rows: inputs of a tile.
        dac_levels: largest code of the input converter (127 for 8 bits), or None.
        dac_range: input at full scale, or "vector" for the largest magnitude of each vector; None as long as a
            calibrated one is not known.
        adc_levels: largest code of the output converter, or None.
        adc_range: output at full scale, in cells; None likewise.
        output_noise: standard deviation before conversion, in cells.
    """

    tile_rows: int
    dac_levels: int | None
    dac_range: float | Literal["vector"] | None
    adc_levels: int | None
    adc_range: float | None
    output_noise: float

    @property
    def converts(self) -> bool:
        """Whether something happens to inputs or outputs beside the product."""
        return self.dac_levels is not None or self.adc_levels is not None or self.output_noise > 0

    @property
    def known(self) -> bool:
        """Whether all ranges that matter are."""
        output = self.adc_levels is None or self.adc_range is not None
        return not self.converts or (self.dac_range is not None and output)

    @staticmethod
    def of(chip: Chip, *, input_range: float | None = None, output_range: float | None = None) -> "Periphery":
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
        )


@dataclasses.dataclass(kw_only=True)
class Clips:
    """How many conversions went beyond the range of their converter, of how many, on the way in and out."""

    inputs: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    outputs: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    of_inputs: int = 0
    of_outputs: int = 0


def quantize(values: torch.Tensor, levels: int, full_scale: torch.Tensor | float) -> torch.Tensor:
    """Codes of a symmetric converter: `clip(round(values * levels / full_scale), -levels, levels)`, as floats."""
    return (values * (levels / full_scale)).round_().clamp_(-levels, levels)


def analog_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    read_variance: torch.Tensor | None,
    periphery: Periphery,
    random: torch.Generator,
    clips: Clips | None = None,
) -> torch.Tensor:
    """`x @ weight.T` as the chip computes it.

    Args:
        x: (vectors, in) float32.
        weight, scale, read_variance: as in `ArrayState`, float32.
        periphery: the converters. A range that is not known yet is that of these inputs: their largest, and 12 cells.
        random: of the read noise, on the device of `x`; it moves on with each use.
        clips: where conversions beyond the ranges are counted.

    Returns:
        (vectors, out) float32.
    """
    product: torch.Tensor = _Straight.apply(x, weight, scale, read_variance, periphery, random, clips)  # pyright: ignore[reportAssignmentType]
    return product


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        scale: torch.Tensor,
        read_variance: torch.Tensor | None,
        periphery: Periphery,
        random: torch.Generator,
        clips: Clips | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _forward(x, weight, scale, read_variance, periphery, random, clips)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        for_x = gradient @ weight if ctx.needs_input_grad[0] else None
        for_weight = gradient.mT @ x if ctx.needs_input_grad[1] else None
        return for_x, for_weight, None, None, None, None, None


def _forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    read_variance: torch.Tensor | None,
    periphery: Periphery,
    random: torch.Generator,
    clips: Clips | None,
) -> torch.Tensor:
    # u: what is on the rows, in units of `step_in`; `full_u` is the full scale in the same units.
    full: torch.Tensor | float = 1.0
    if periphery.dac_levels or periphery.adc_levels or periphery.output_noise:
        full = _full_input(x, periphery.dac_range)
    if periphery.dac_levels is not None:
        u, step_in, full_u = quantize(x, periphery.dac_levels, full), full / periphery.dac_levels, periphery.dac_levels
        if clips is not None:
            clips.of_inputs += x.numel()
            if periphery.dac_range != "vector":  # of which nothing is beyond
                clips.inputs = clips.inputs.to(x.device) + (x.abs() > full).sum()
    else:
        u, step_in, full_u = x, 1.0, full
    if periphery.adc_levels is None:
        y = u @ weight.mT
        if read_variance is not None:
            y.add_(_read_noise(u, read_variance.mT, random))
        if periphery.output_noise:  # of all tiles together
            y.add_(_normal(y, random).mul_(periphery.output_noise * scale.square().sum(1).sqrt() * full_u))
        return y.mul_(step_in)
    u = _input_tiles(u, periphery.tile_rows)
    y = torch.bmm(u, _weight_tiles(weight, periphery.tile_rows))  # (tiles, vectors, out)
    if read_variance is not None:
        constant = read_variance.shape[1] == 1
        variance = read_variance.mT if constant else _weight_tiles(read_variance, periphery.tile_rows)
        y.add_(_read_noise(u, variance, random))
    shared = bool((scale == scale[:, :1]).all())
    per_tile = scale.mT[: 1 if shared else None, None, :]  # (1 or tiles, 1, out)
    one = per_tile * full_u  # one cell, in the units of y
    if periphery.output_noise:
        y.add_(_normal(y, random).mul_(periphery.output_noise * one))
    step_out = one * ((periphery.adc_range or 12.0) / periphery.adc_levels)
    codes = y.mul_(1 / step_out).round_()
    if clips is not None:
        clips.of_outputs += codes.numel()
        clips.outputs = clips.outputs.to(x.device) + (codes.abs() > periphery.adc_levels).sum()
    codes.clamp_(-periphery.adc_levels, periphery.adc_levels)
    total = codes.sum(0).mul_(step_out[0]) if shared else codes.mul_(step_out).sum(0)
    return total.mul_(step_in)


def calibrated(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, chip: Chip, input_range: float | None = None
) -> tuple[float | None, float | None]:
    """The ranges that `chip` leaves to calibration, from inputs `x` (vectors, in): of inputs, and of a tile's sums.

    The first is the largest magnitude, `input_range` if that is known from more inputs; the second, in cells, is the
    `chip.adc_percentile` of the magnitudes. None where nothing but zeros was seen.
    """
    if chip.dac_range == "calibrated":
        input_range = (input_range if input_range is not None else x.abs().max().item()) or None
    periphery = Periphery.of(chip, input_range=input_range)
    if chip.adc_bits is None or chip.adc_range != "calibrated" or periphery.dac_range is None:
        return input_range, None
    x = x[:: max(1, len(x) // _SAMPLE)]
    u = _input_tiles(x / _full_input(x, periphery.dac_range), periphery.tile_rows).clamp(-1, 1)
    sums = (torch.bmm(u, _weight_tiles(weight, periphery.tile_rows)) / scale.mT[:, None, :]).abs().flatten()
    beyond = int(len(sums) * (1 - chip.adc_percentile / 100))
    output_range = sums.topk(beyond + 1).values[-1].item()
    return input_range, output_range or sums.max().item() or None


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


def _read_noise(u: torch.Tensor, variance: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """The noise of all cells of a column together, (..., vectors, out).

    `u` is (..., vectors, rows), `variance` (..., rows, out), or (1, out) where all cells of a column have the same.
    """
    constant = variance.shape[-2] == 1
    std = u.norm(dim=-1, keepdim=True) * variance.sqrt() if constant else (u.square() @ variance).sqrt_()
    return std.mul_(_normal(std, random))
