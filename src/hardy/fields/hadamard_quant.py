"""Turn weights and activations by Hadamard transforms, round both to few bits, and compute in integers alone: DHQ.

Source: DHQ (arXiv 2508.13478). Where we differ: rotation is a choice, measured for each layer by default. Activations
of periodic functions lie between sharp bounds and crowd near them, which suits a uniform quantizer; turned into bell
shapes they have a larger peak for their size, and at few bits the picture is worse (`python -m benchmarks run dhq`).
Coordinates are never rounded, and the first layer, whose weights set the frequencies, has a precision of its own.
`HadamardQuant(rotate="always", per_channel=False, first_layer_bits=8)` is closest to the paper's text.

It is no `Method` that edits a model: what comes out is another kind of model, of integers.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from hardy import checks
from hardy.errors import InputError
from hardy.evaluate import psnr
from hardy.fields.integer import IntegerField, fractions
from hardy.fields.integer_model import LARGEST_GRID, IntegerModel, LinearCodes, Requantization, grid_numerators
from hardy.fields.signals import PEAK, Signal
from hardy.fields.units import described
from hardy.fields.unrolled import Unrolled, unrolled
from hardy.ops.fixed_point import multiplier
from hardy.ops.hadamard import hadamard_transform, order

Rotate = Literal["always", "auto", "never"]
Range = Literal["minmax", "mse", "percentile"]

# Of the full range, for "mse": 1.00, 0.97 ... 0.31.
RATIOS = tuple(ratio / 100 for ratio in range(100, 30, -3))
# Of all values, for "percentile": one in a thousand is outside.
OUTSIDE = 1e-3
# Of a code: a row that can add no more than this to an output is left out.
_NOTHING = 2.0**-6
# Ranges and rotations are chosen on at most so many points, evenly taken from the signal.
CALIBRATION_POINTS = 16384


def bounds(values: torch.Tensor, bits: int, rule: Range) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the largest value of each row that a uniform grid of 2^bits codes should reach.

    Args:
        values: (rows, n), float64.
        bits: of a code; only "mse" looks at them.
        rule: "minmax", all values; "percentile", all but one in a thousand; "mse", the share of the full range with
            the least squared error of rounded and clipped values.

    Returns:
        low and high, (rows, 1) each.
    """
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    if rule == "minmax":
        return low, high
    if rule == "percentile":
        ordered = values.sort(1).values
        cut = int(OUTSIDE / 2 * values.shape[1])
        return ordered[:, cut, None], ordered[:, -1 - cut, None]
    best, least = (low, high), torch.full_like(low, torch.inf)
    for ratio in RATIOS:
        step = (ratio * (high - low) / (2**bits - 1)).clamp(min=torch.finfo(values.dtype).tiny)
        rounded = (((values - ratio * low) / step).round().clamp(0, 2**bits - 1)) * step + ratio * low
        error = (rounded - values).square().sum(1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        best = tuple(torch.where(better, ratio * end, kept) for end, kept in zip((low, high), best, strict=True))
    return best[0], best[1]


def weight_codes(weight: torch.Tensor, bits: int, per_channel: bool, rule: Range) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (out, in) int64 from -(2^(bits-1) - 1) up, and the step (out,) of each row; a row of zeros has step 0."""
    rows = weight if per_channel else weight.reshape(1, -1)
    mirrored = torch.cat([rows, -rows], 1)  # a grid that is the same on both sides of zero
    largest = 2 ** (bits - 1) - 1
    step = bounds(mirrored, bits, rule)[1] / largest
    codes = torch.where(step > 0, (weight / step).round().clamp(-largest, largest), 0)
    return codes.to(torch.int64), step[:, 0].expand(len(weight))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HadamardQuant:
    """How a field becomes integers.

    Args:
        rotate: which layers after the first have their input and weights turned by a Hadamard transform: "always",
            all; "never", none; "auto", those where it lowers the error of the result, layer by layer from the better
            of the two.
        weight_bits: 2 to 16, of all layers but the first.
        activation_bits: 2 to 16, of what these layers take in.
        first_layer_bits: 2 to 16, of the weights that multiply the coordinates.
        per_channel: a weight scale for each output channel, not one for the matrix.
        range: "minmax", "mse" or "percentile"; see `bounds`. Of weights and of activations.
        fraction_bits: F, 6 to 14: phases have 2^F steps in a quarter of a period, values steps of 2^-F.

    Raises:
        InputError: a field is out of range.
    """

    rotate: Rotate = "auto"
    weight_bits: int = 8
    activation_bits: int = 8
    first_layer_bits: int = 16
    per_channel: bool = True
    range: Range = "minmax"
    fraction_bits: int = 12

    def __post_init__(self) -> None:
        for name, kind in (("rotate", Rotate), ("range", Range)):
            checks.one_of(name, getattr(self, name), get_args(kind))
        for name in ("weight_bits", "activation_bits", "first_layer_bits"):
            object.__setattr__(self, name, checks.integer(name, getattr(self, name), at_least=2, at_most=16))
        checks.boolean("per_channel", self.per_channel)
        fraction_bits = checks.integer("fraction_bits", self.fraction_bits, at_least=6, at_most=14)
        object.__setattr__(self, "fraction_bits", fraction_bits)

    def quantize(self, model: nn.Module, signal: Signal) -> IntegerField:
        """`model` in integers.

        Args:
            model: a `Field`, or an `nn.Sequential` of linear layers with element-wise modules between them; it is
                not changed.
            signal: what it stands for: ranges are those of the activations at its points, and "auto" compares with
                its values.

        Raises:
            InputError: the model is of another kind, does not fit the signal, or has weights that are not finite.
        """
        layers = unrolled(model)
        _check_fit(layers, signal)
        if signal.grid is None:
            numerators, denominators = (
                fractions(signal.coordinates.cpu()),
                (LARGEST_GRID,) * signal.coordinates.shape[1],
            )
        else:
            numerators, denominators = torch.from_numpy(grid_numerators(signal.grid)), signal.grid
        some = slice(None, None, -(-len(numerators) // CALIBRATION_POINTS))
        numerators, target = numerators[some], signal.values[some].cpu()
        with torch.no_grad():
            arguments, values, _ = layers.activations(signal.coordinates[some].cpu())
        reaches = [max(argument.abs().max().item(), 1e-12) for argument in arguments]

        def built(rotated: tuple[bool, ...]) -> IntegerField:
            return self._built(layers, values, reaches, rotated)

        def quality(field: IntegerField) -> float:
            estimate = field.codes(numerators, denominators).double() / 2**self.fraction_bits
            return psnr(estimate.clamp(-1, 1), target.double(), PEAK)

        never = (False,) * len(values)
        always = tuple(order(weight.shape[1] // layers.parts) > 1 for weight in layers.weights[1:])
        if self.rotate != "auto":
            return built(always if self.rotate == "always" else never)
        tried = {flags: built(flags) for flags in (never, always)}
        best, highest = max(((flags, quality(field)) for flags, field in tried.items()), key=lambda pair: pair[1])
        field = tried[best]
        for layer in range(len(values)):
            flags = tuple(flag != (index == layer) for index, flag in enumerate(best))
            if flags in tried or not always[layer]:
                continue
            tried[flags] = built(flags)
            if (reached := quality(tried[flags])) > highest:
                best, highest, field = flags, reached, tried[flags]
        return field

    def _built(
        self, layers: Unrolled, values: list[torch.Tensor], reaches: list[float], rotated: tuple[bool, ...]
    ) -> IntegerField:
        """The integers for these rotations, given the activations at the calibration points."""
        bits = self.fraction_bits
        activations = zip(layers.kinds, layers.functions, reaches, strict=True)
        units, in_steps, value_steps = zip(*(described(*each, bits) for each in activations), strict=True)
        out_steps = [*in_steps, 2.0**-bits]
        first_step = 2.0**-bits if layers.frequencies else 1.0  # coordinates are exact, encoded ones have F bits
        codes, steps = weight_codes(layers.weights[0], self.first_layer_bits, self.per_channel, self.range)
        largest = codes.shape[1] * 2.0 ** (self.first_layer_bits - 1) / first_step
        bias = layers.biases[0] / out_steps[0]
        made = [_layer(codes, steps * first_step / out_steps[0], bias, self.first_layer_bits, largest)]
        requantizations = []
        for index, (value_step, value, turned) in enumerate(zip(value_steps, values, rotated, strict=True), start=1):
            weight, length = layers.weights[index], 1.0
            if turned:
                length = order(weight.shape[1] // layers.parts) ** 0.5
                weight, value = (_turned(x, layers.parts) / length for x in (weight, value))
            low, high = (end.item() for end in bounds(value.reshape(1, -1), self.activation_bits, self.range))
            step = max((high - low) / (2**self.activation_bits - 1), abs(high) * 2.0**-20, 2.0**-30)
            zero = round(low / step) + 2 ** (self.activation_bits - 1)
            m, shift = multiplier(value_step / (length * step))
            requantizations.append(
                Requantization(m=m, shift=shift, zero=zero, bits=self.activation_bits, rotated=turned)
            )
            codes, steps = weight_codes(weight, self.weight_bits, self.per_channel, self.range)
            bias = layers.biases[index] / out_steps[index]
            inputs = 2.0**self.activation_bits + abs(zero)
            largest = codes.shape[1] * 2.0 ** (self.weight_bits - 1) * inputs
            made.append(_layer(codes, steps * step / out_steps[index], bias, self.weight_bits, largest))
        model = IntegerModel(
            layers=tuple(made),
            units=units,
            requantizations=tuple(requantizations),
            frequencies=layers.frequencies,
            fraction_bits=bits,
        )
        return IntegerField(model)


def _turned(x: torch.Tensor, parts: int) -> torch.Tensor:
    """The Hadamard transform of each of so many parts of the features: real and imaginary ones stay apart."""
    return hadamard_transform(x.unflatten(-1, (parts, -1))).flatten(-2)


def _layer(codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor, bits: int, largest: float) -> LinearCodes:
    """A layer whose rows give `scales` (out,) codes of output per unit of `codes @ x`, which is at most `largest`."""
    # A row so small that nothing comes of it could have a scale that no multiplier holds: it is left out.
    pairs = [multiplier(scale) if scale * largest > _NOTHING else (0, 1) for scale in scales.tolist()]
    factors, shifts = np.array(pairs, dtype=np.int64).T.copy()
    whole = bias.round().to(torch.int64)
    return LinearCodes(codes=codes.numpy(), factors=factors, shifts=shifts, bias=whole.numpy(), bits=bits)


def _check_fit(layers: Unrolled, signal: Signal) -> None:
    given = signal.coordinates.shape[1], signal.values.shape[1]
    inputs = layers.weights[0].shape[1] // (1 + 2 * layers.frequencies)
    if (inputs, len(layers.weights[-1])) != given:
        raise InputError(
            f"the model has {inputs} coordinates and {len(layers.weights[-1])} channels, the signal {given[0]} and "
            f"{given[1]}"
        )
