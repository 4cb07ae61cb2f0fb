"""What the accelerator does for a pixel: matrices, widths proven from bounds, and the exact number of cycles."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from hardy import checks
from hardy.errors import InputError
from hardy.fields.integer_model import LARGEST_GRID, IntegerModel, LinearCodes, UnitCodes, hadamard_matrix, parts
from hardy.fields.tables import gauss_table, relu_table, wavelet_tables
from hardy.ops.hadamard import factors

WIDEST = 48
"""Bits of an accumulator, as DSP blocks have them."""
COORDINATE_BITS = 16
TRANSFORMS = ("serial", "parallel", "none")
ORDERS = ("any", "raster")


@dataclasses.dataclass(frozen=True)
class Latencies:
    """Cycles through the pipelines; `units` has one of each hidden layer, with the wait of an imaginary part."""

    first: int
    scale: int
    units: tuple[int, ...]
    requantize: int
    colour: int


class Program:
    """The plan of an accelerator for one picture, or for an album of pictures that share layers.

    Args:
        models: fields of two coordinates; of several, what differs is written before each picture.
        grid: height and width of every picture.
        lanes: multipliers side by side; rows are padded to a multiple.
        transform: how fields with Hadamard transforms get them: "serial", on the lanes as adders; "parallel", by
            butterflies of a whole layer at once; "none" refuses such fields.
        order: of pixels: "any"; or "raster", line by line from the left, for which the first layer adds what changes
            instead of multiplying. A line may end early.

    Attributes:
        y_bits, few_bits, turned_bits, sum_bits, x_bits: of activations, of what lanes multiply, of transformed
            activations, of accumulators and of pre-activations, from bounds that no input exceeds.
        shared: of each layer, whether all models have the same weights.
        encoded: values that coordinates are encoded as before the first layer; 0 where it takes them as they are.
        on_lanes: the numbers of the layers that lanes multiply: all but a first one of coordinates themselves.

    Raises:
        InputError: a field is no picture, those of an album differ in more than weights and
            scales, an accumulator could pass 48 bits, or the field needs a transform and there is none.
    """

    def __init__(
        self,
        models: Sequence[IntegerModel],
        grid: tuple[int, int],
        lanes: int,
        transform: str = "serial",
        order: str = "any",
    ) -> None:
        self.lanes = checks.integer("lanes", lanes, at_least=1)
        self.transform = checks.one_of("fwht", transform, TRANSFORMS)
        self.order = checks.one_of("order", order, ORDERS)
        self.models, self.grid, model = tuple(models), grid, models[0]
        self._check()
        self.layers, self.units, self.steps = model.layers, model.units, model.requantizations
        self.fraction_bits, self.frequencies = model.fraction_bits, model.frequencies
        self.encoded = model.layers[0].codes.shape[1] if model.frequencies else 0
        self.on_lanes = range(0 if model.frequencies else 1, len(model.layers))
        self.widths = [len(layer.codes) for layer in model.layers]
        self.shared = [
            all(np.array_equal(layer.codes, other.layers[number].codes) for other in models)
            for number, layer in enumerate(model.layers)
        ]
        y, few, turned, sums, x = (list(bounds) for bounds in zip(*map(self._bounds, models), strict=True))
        self.y_bits, self.few_bits, self.turned_bits, self.sum_bits, self.x_bits = (
            max(bounds).bit_length() + 1 for bounds in (y, few, turned, sums, x)
        )
        codes = [each.layers[number].codes for each in models for number in self.on_lanes]
        self.weight_bits = max(_signed_bits(matrix) for matrix in codes)

    @property
    def rotated(self) -> bool:
        """Whether any layer is transformed."""
        return any(step.rotated for step in self.steps)

    @property
    def is_album(self) -> bool:
        """Whether there are several pictures, so that some memories can be written."""
        return len(self.models) > 1

    def rows(self, number: int) -> np.ndarray:
        """The order in which rows of a layer are computed: real and imaginary arguments of a wavelet by turns."""
        width = self.widths[number]
        if number < len(self.units) and parts(self.units[number]) == 2:
            return np.arange(width).reshape(2, -1).T.reshape(-1)
        return np.arange(width)

    def cycles(self, latencies: Latencies) -> dict[str, int]:
        """Cycles of a pixel by what they are spent on: exact."""
        count = {"handshake": 2, "first layer": self.encoded or self.widths[0], "products": 0, "transform": 0}
        waits = latencies.first
        if self.encoded:
            count["products"] += self._rounds(self.encoded, self.widths[0])
            waits += latencies.scale
        for number, (step, width) in enumerate(zip(self.steps, self.widths[:-1], strict=True)):
            waits += latencies.units[number] + latencies.requantize + latencies.scale
            if step.rotated and self.transform == "parallel":
                _, doublings, base = factors(width // parts(self.units[number]))
                count["transform"] += width + doublings + (base > 1)
            elif step.rotated:
                count["transform"] += self._rounds(width, width)
            count["products"] += self._rounds(width, self.widths[number + 1])
        return count | {"latencies": waits + latencies.colour}

    def work(self) -> dict[str, int]:
        """Of a pixel: products of weights, additions of transforms, activations."""
        products = sum(before * after for before, after in itertools.pairwise([self.encoded, *self.widths]))
        additions = 0
        for unit, step, width in zip(self.units, self.steps, self.widths[:-1], strict=True):
            _, doublings, base = factors(width // parts(unit))
            each = doublings + (base if base > 1 else 0) if self.transform == "parallel" else width
            additions += width * each if step.rotated else 0
        activations = sum(width // parts(unit) for unit, width in zip(self.units, self.widths[:-1], strict=True))
        return {"products": products, "additions": additions, "activations": activations}

    def _rounds(self, width: int, rows: int) -> int:
        """From the first product of a matrix (rows, width) to the last row that leaves the lanes."""
        groups = -(-rows // self.lanes)
        return (groups - 1) * max(width, self.lanes) + width + rows - (groups - 1) * self.lanes

    def _check(self) -> None:
        first = self.models[0]
        if len(self.grid) != 2 or any(model.in_features != 2 for model in self.models):
            raise InputError(f"the accelerator draws pictures; this field has {first.in_features} coordinates")
        for name, size in zip(("height", "width"), self.grid, strict=True):
            checks.integer(f"the grid's {name}", size, at_least=1, at_most=LARGEST_GRID)
        for model in self.models:
            if model.frequencies and self.order == "raster":
                kinds = ", ".join(sorted({unit.kind for unit in model.units}))
                raise InputError(
                    f"this field of {kinds} encodes its coordinates as waves of {model.frequencies} frequencies, so "
                    "that its first layer cannot count up: order must be any"
                )
        if self.transform == "none" and any(step.rotated for model in self.models for step in model.requantizations):
            raise InputError("this field was quantized with Hadamard transforms, so without them it is another picture")
        for number, model in enumerate(self.models[1:], 2):
            for what, of in (
                ("widths", lambda x: [layer.codes.shape for layer in x.layers]),
                ("activations", lambda x: [unit_key(unit) for unit in x.units]),
                ("transforms and bits", lambda x: [(step.rotated, step.bits) for step in x.requantizations]),
                ("fraction bits", lambda x: x.fraction_bits),
                ("encodings", lambda x: x.frequencies),
            ):
                if of(model) != of(first):
                    raise InputError(f"picture {number} of the album differs from the first in its {what}")

    def _bounds(self, model: IntegerModel) -> tuple[int, int, int, int, int]:
        """The largest activation, code, transformed activation, accumulator and pre-activation."""
        first, y, turned = model.layers[0], 0, 0
        if self.encoded:
            few = 1 << model.fraction_bits
            sums, x = _sum_bound(first.codes, few, "layer 0"), _row_bound(first, few)
        else:
            scaled = np.abs(first.codes * first.factors[:, None]).sum(1) >> first.shifts
            few, sums, x = 0, 0, int((scaled + np.abs(first.bias)).max()) + 4
        for number, (unit, step, layer) in enumerate(
            zip(model.units, model.requantizations, model.layers[1:], strict=True), 1
        ):
            value = _unit_bound(unit, model.fraction_bits)
            code = (1 << (step.bits - 1)) + 2 * abs(step.zero)
            y, few = max(y, value), max(few, code)
            if step.rotated:
                matrix = hadamard_matrix(layer.codes.shape[1], parts(unit))
                turned = max(turned, _sum_bound(matrix, value, f"the transform before layer {number}"))
            sums = max(sums, _sum_bound(layer.codes, code, f"layer {number}"))
            x = max(x, _row_bound(layer, code))
        return y, few, turned, sums, x


def unit_key(unit: UnitCodes) -> tuple:
    """Equal for units that compute the same."""
    return unit.kind, unit.numbers, None if unit.table is None else unit.table.tobytes()


def _signed_bits(codes: np.ndarray) -> int:
    """Of two's complement that holds all `codes`."""
    return max(int(codes.max()), -int(codes.min()) - 1, 0).bit_length() + 1


def _sum_bound(codes: np.ndarray, operand: int, where: str) -> int:
    bound = int(np.abs(codes).sum(1).max()) * operand
    if bound.bit_length() + 1 > WIDEST:
        raise InputError(f"the accumulator of {where} could need {bound.bit_length() + 1} bits, {WIDEST} are there")
    return bound


def _row_bound(layer: LinearCodes, operand: int) -> int:
    """The largest of a row's sum, scaled and with its bias."""
    return max(
        (int(np.abs(row).sum()) * operand * int(factor) >> int(shift)) + abs(int(bias)) + 2
        for row, factor, shift, bias in zip(layer.codes, layer.factors, layer.shifts, layer.bias, strict=True)
    )


def _unit_bound(unit: UnitCodes, fraction: int) -> int:
    if unit.kind in ("gauss", "relu", "table"):
        made = {"gauss": gauss_table, "relu": relu_table}
        table = made[unit.kind](fraction) if unit.kind in made else unit.table
        assert table is not None
        return int(np.abs(table).max())
    if unit.kind == "wavelet":
        bump, lopsided = wavelet_tables(unit.numbers[0], fraction)
        return (int(bump.max()) * int(lopsided.max()) >> fraction) + 1
    return 1 << fraction
