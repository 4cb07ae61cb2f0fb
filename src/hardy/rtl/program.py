"""What the accelerator does for a pixel: matrices, widths proven from bounds, and the exact number of cycles."""

from __future__ import annotations

import dataclasses

import numpy as np

from hardy import checks
from hardy.errors import InputError
from hardy.fields.integer_model import IntegerModel, _hadamard, _parts
from hardy.fields.tables import gauss_table, relu_table, wavelet_tables

WIDEST = 48
"""Bits of an accumulator, as DSP blocks have them."""
COORDINATE_BITS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """Integers (out, in) that the lanes multiply; `layer` is the layer's number, and that of H's requantization."""

    codes: np.ndarray
    layer: int
    turns: bool

    def groups(self, lanes: int) -> int:
        """Rounds of `lanes` rows each; the last is padded."""
        return -(-len(self.codes) // lanes)


class Program:
    """The plan of an accelerator for one picture.

    Args:
        model: a field of two coordinates.
        grid: height and width.
        lanes: multipliers side by side; rows are padded to a multiple.

    Attributes:
        operand_bits, sum_bits, x_bits: of what lanes multiply, of accumulators and of pre-activations, from bounds that
            no input exceeds.

    Raises:
        InputError: the field is no picture, encodes its coordinates, or an accumulator could pass 48 bits.
    """

    def __init__(self, model: IntegerModel, grid: tuple[int, int], lanes: int) -> None:
        checks.integer("lanes", lanes, at_least=1)
        if model.in_features != 2 or len(grid) != 2:
            raise InputError(f"the accelerator draws pictures; this field has {model.in_features} coordinates")
        if model.frequencies:
            raise InputError("the accelerator takes coordinates as they are; this field encodes them as waves")
        self.model, self.grid, self.lanes = model, grid, lanes
        self.matrices: list[Matrix] = []
        operands, sums, inputs = [], [], [self._first_bound()]
        for number, (unit, step, layer) in enumerate(
            zip(model.units, model.requantizations, model.layers[1:], strict=True), 1
        ):
            y = self._unit_bound(number - 1)
            operands.append(y)
            if step.rotated:
                turn = _hadamard(layer.codes.shape[1], _parts(unit)).T
                self.matrices.append(Matrix(turn, number, True))
                sums.append(self._sum_bound(turn, y, f"the transform before layer {number}"))
            few = (1 << (step.bits - 1)) + abs(step.zero) * 2
            operands.append(few)
            total = self._sum_bound(layer.codes, few, f"layer {number}")
            self.matrices.append(Matrix(layer.codes, number, False))
            sums.append(total)
            scaled = max(
                int(np.abs(row).sum()) * few * int(f) // (1 << int(s)) + abs(int(b)) + 2
                for row, f, s, b in zip(layer.codes, layer.factors, layer.shifts, layer.bias, strict=True)
            )
            inputs.append(scaled)
        self.operand_bits = max(operands).bit_length() + 1
        self.sum_bits = max(sums).bit_length() + 1
        self.x_bits = max(inputs).bit_length() + 1
        self.weight_bits = max(int(np.abs(m.codes).max()) for m in self.matrices).bit_length() + 1

    def cycles(self, latencies: list[int]) -> dict[str, int]:
        """Cycles of a pixel by what they are spent on, the units' latencies by layer given: exact."""
        widths = [layer.codes.shape[0] for layer in self.model.layers]
        count = {"handshake": 2, "first layer": widths[0], "activation": 0, "requantization": 0}
        for unit, step, width, latency in zip(
            self.model.units, self.model.requantizations, widths[:-1], latencies, strict=True
        ):
            count["activation"] += width // _parts(unit) + latency
            count["requantization"] += 0 if step.rotated else width
        for kind, turns in (("products", False), ("transform", True)):
            matrices = [m for m in self.matrices if m.turns is turns]
            count[kind] = sum(m.groups(self.lanes) * (m.codes.shape[1] + self.lanes) for m in matrices)
        return count

    def memory_bits(self) -> int:
        """Of weights and rows as they are stored, padding included; tables of activations are apart."""
        rows = sum(m.groups(self.lanes) * self.lanes for m in self.matrices)
        words = sum(m.groups(self.lanes) * self.lanes * m.codes.shape[1] for m in self.matrices)
        return words * self.weight_bits + rows * (24 + 6 + 32)

    def _first_bound(self) -> int:
        first = self.model.layers[0]
        total = 2 + np.abs(first.bias)
        for axis in range(2):
            total = total + np.abs(first.codes[:, axis] * first.factors) // (1 << first.shifts) + 1
        return int(total.max())

    def _sum_bound(self, codes: np.ndarray, operand: int, where: str) -> int:
        bound = int(np.abs(codes).sum(1).max()) * operand
        if bound.bit_length() + 1 > WIDEST:
            raise InputError(f"the accumulator of {where} could need {bound.bit_length() + 1} bits, {WIDEST} are there")
        return bound

    def _unit_bound(self, number: int) -> int:
        unit, fraction = self.model.units[number], self.model.fraction_bits
        if unit.kind in ("gauss", "relu", "table"):
            made = {"gauss": gauss_table, "relu": relu_table}
            table = made[unit.kind](fraction) if unit.kind in made else unit.table
            assert table is not None
            return int(np.abs(table).max())
        if unit.kind == "wavelet":
            bump, lopsided = wavelet_tables(unit.numbers[0], fraction)
            return (int(bump.max()) * int(lopsided.max()) >> fraction) + 1
        return 1 << fraction
