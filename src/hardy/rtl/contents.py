"""What the accelerator's memories hold: words of weights, and of each row and layer the scales, in the order of use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from amaranth import Shape, signed, unsigned

from hardy.fields.integer_model import IntegerModel, hadamard_matrix, parts
from hardy.rtl.memories import packed
from hardy.rtl.program import Program

MULTIPLIED = ("by_line", "by_column", "shift", "bias")
"""Fields of a row of the first layer: a product for each axis, and how it is scaled."""
COUNTED = (
    "line_start", "line_start_rest", "line_step", "line_step_rest",
    "column_start", "column_start_rest", "column_step", "column_step_rest", "bias",
)  # fmt: skip
"""The same of one that counts up: quotients and remainders."""

ENCODED = ("of_line", "octave", "is_wave", "quarter")
"""Of a value that a coordinate is encoded as."""


class Contents:
    """Words of every memory of a program.

    A shift by s is stored as s - 1 - `least`, the least of all; what hardware computes is `((x >> (s - 1)) + 1) >> 1`.

    Attributes:
        weight_shape, trunk: words of `lanes` weights, the first row lowest, of the layers that all pictures share.
        signs: words of `lanes` entries of H, two bits each, by width and parts.
        row_shapes, first_shapes, step_shapes: fields of a word: factor, shift, bias; those of the first layer by name;
            m, shift, lowest and highest code.
        first_least, row_least, step_least: see above.
        divisors: of an axis, what the sums of a first layer that counts up are divided by, for all of its rows.
        counts: quotients and remainders that such a layer keeps for each row from pixel to pixel.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        models = program.models
        later = [model.layers[number] for model in models for number in program.on_lanes]
        self.row_least = min(int(layer.shifts.min()) for layer in later) - 1
        self.first_least = min(int(model.layers[0].shifts.min()) for model in models) - 1
        steps = [step for model in models for step in model.requantizations]
        self.step_least = min(step.shift for step in steps) - 1
        columns = zip(*(fields for model in models for fields in self._rows(model)), strict=True)
        self.row_shapes = [_shape(column) for column in columns]
        most = max(int(model.layers[0].shifts.max()) for model in models)
        self.divisors = [size << (most + 1) for size in program.grid]
        self._first = self._counted if program.order == "raster" else self._multiplied
        self._first = self._encoded if program.encoded else self._first
        rests = [unsigned((by - 1).bit_length()) for by in self.divisors]
        sums = signed(program.x_bits)
        self.counts = {"line_sum": sums, "line_rest": rests[0], "column_sum": sums, "column_rest": rests[1]}
        names = ENCODED if program.encoded else COUNTED if program.order == "raster" else MULTIPLIED
        columns = zip(*(fields for model in models for fields in self._first(model)), strict=True)
        self.first_shapes = {name: _shape(column) for name, column in zip(names, columns, strict=True)}
        self.step_shapes = [
            _shape(c) for c in zip(*(fields for model in models for fields in self._steps(model)), strict=True)
        ]
        self.weight_shape = unsigned(program.lanes * program.weight_bits)
        self.trunk = self._weights(models[0], shared=True)
        self.signs = {
            (width, parts(unit)): self._words(hadamard_matrix(width, parts(unit)), 2)
            for unit, step, width in zip(program.units, program.steps, program.widths[:-1], strict=True)
            if step.rotated and program.transform == "serial"
        }

    def of(self, picture: int) -> dict[str, tuple[list[int], int]]:
        """The words of one picture's own, and their bits, by memory, in the order in which they are written."""
        model = self.program.models[picture]
        return {
            "own": (self._weights(model, shared=False), self.weight_shape.width),
            "first": _words(self._first(model), list(self.first_shapes.values())),
            "rows": _words(self._rows(model), self.row_shapes),
            "steps": _words(self._steps(model), self.step_shapes),
        }

    def bits(self) -> dict[str, int]:
        """Of the memories, but for tables of activations and the buffers between layers."""
        sizes = {name: len(words) * bits for name, (words, bits) in self.of(0).items()}
        if self.program.order == "raster":
            sizes["counts"] = self.program.widths[0] * sum(shape.width for shape in self.counts.values())
        signs = sum(len(words) * 2 * self.program.lanes for words in self.signs.values())
        return {"trunk": len(self.trunk) * self.weight_shape.width, "signs": signs} | sizes

    def _weights(self, model: IntegerModel, *, shared: bool) -> list[int]:
        plan, words = self.program, []
        for number in plan.on_lanes:
            if plan.shared[number] is shared:
                words += self._words(model.layers[number].codes[plan.rows(number)], plan.weight_bits)
        return words

    def _words(self, matrix: np.ndarray, bits: int) -> list[int]:
        """A word for each column of `lanes` rows, all rows of which are done before the next."""
        lanes = self.program.lanes
        return [
            packed([(value, bits) for value in column])
            for begin in range(0, len(matrix), lanes)
            for column in matrix[begin : begin + lanes].T.tolist()
        ]

    def _rows(self, model: IntegerModel) -> Iterable[tuple[int, ...]]:
        for number in self.program.on_lanes:
            layer = model.layers[number]
            for row in self.program.rows(number):
                yield int(layer.factors[row]), int(layer.shifts[row]) - 1 - self.row_least, int(layer.bias[row])

    def _multiplied(self, model: IntegerModel) -> Iterable[tuple[int, ...]]:
        layer = model.layers[0]
        for row in self.program.rows(0):
            factor = int(layer.factors[row])
            shift = int(layer.shifts[row]) - 1 - self.first_least
            yield int(layer.codes[row, 0]) * factor, int(layer.codes[row, 1]) * factor, shift, int(layer.bias[row])

    def _encoded(self, model: IntegerModel) -> Iterable[tuple[int, ...]]:
        """Of each value: whether it is the line's, the power of two of its phase, whether a wave, and its quarter."""
        octaves = range(model.frequencies)
        yield from ((1 - axis, 0, 0, 0) for axis in range(2))
        for quarter in range(2):
            yield from ((1 - axis, octave + 1, 1, quarter) for axis in range(2) for octave in octaves)

    def _counted(self, model: IntegerModel) -> Iterable[tuple[int, ...]]:
        """Quotient and remainder of the first pixel's sum over the divisor, and of what a pixel more adds to it."""
        layer = model.layers[0]
        for row in self.program.rows(0):
            fields: tuple[int, ...] = ()
            for axis, (size, by) in enumerate(zip(self.program.grid, self.divisors, strict=True)):
                half = by // 2
                product = (
                    int(layer.codes[row, axis]) * int(layer.factors[row]) * (half // size >> int(layer.shifts[row]))
                )
                fields += (*divmod(2 * (1 - size) * product + half, by), *divmod(4 * product, by))
            yield *fields, int(layer.bias[row])

    def _steps(self, model: IntegerModel) -> Iterable[tuple[int, ...]]:
        for step in model.requantizations:
            half = 1 << (step.bits - 1)
            yield step.m, step.shift - 1 - self.step_least, step.zero - half, step.zero + half - 1


def _shape(values: Sequence[int]) -> Shape:
    """The narrowest that holds all values; signed if one is below zero."""
    low, high = min(values), max(values)
    if low >= 0:
        return unsigned(max(high.bit_length(), 1))
    return signed(max(high.bit_length(), (-low - 1).bit_length()) + 1)


def _words(rows: Iterable[tuple[int, ...]], shapes: Sequence[Shape]) -> tuple[list[int], int]:
    widths = [shape.width for shape in shapes]
    return [packed(list(zip(row, widths, strict=True))) for row in rows], sum(widths)
