"""The arithmetic around the lanes as stages: the first layer, scales of rows, requantization and colours.

Source: `hardy.fields.integer_model`, code for code. The integer nearest to x / 2^s, halves up, is
`((x >> (s - 1)) + 1) >> 1` for s above zero; nearest to x / (n 2^s) is `((x >> (s - 1)) + n) >> 1`, over n.
"""

from __future__ import annotations

from amaranth import Shape, Value, signed, unsigned

from hardy.rtl.contents import Contents
from hardy.rtl.exact_units import clamped, divided
from hardy.rtl.pipeline import Pipeline, Stage
from hardy.rtl.program import COORDINATE_BITS


def first_layer(contents: Contents) -> Pipeline:
    """A row at the pixel `line`, `column`: a product for each axis, and an exact division by the grid's size."""
    axes = tuple(zip(("by_line", "by_column"), ("line", "column"), contents.program.grid, strict=True))
    by_line, by_column, shift, bias = contents.first_shapes

    stages: tuple[Stage, ...] = (
        lambda m, v: {axis: (2 * v[place].as_unsigned() + 1 - size) * v[axis] for axis, place, size in axes},
        lambda m, v: {axis: ((v[axis] >> contents.first_least >> v["shift"]) + size) >> 1 for axis, _, size in axes},
        lambda m, v: {axis: divided(v[axis], size) for axis, _, size in axes},
        lambda m, v: {"x": v["by_line"] + v["by_column"] + v["bias"]},
    )
    inputs: dict[str, Shape] = dict.fromkeys(("line", "column"), unsigned(COORDINATE_BITS))
    inputs |= {"by_line": by_line, "by_column": by_column, "shift": shift, "bias": bias}
    powers = all(size & (size - 1) == 0 for size in contents.program.grid)
    return Pipeline(stages, inputs, {"x": signed(contents.program.x_bits)}, ranks=3 if powers else 4)


def scale(contents: Contents) -> Pipeline:
    """A row's sum times its factor, over its power of two, plus its bias."""
    plan = contents.program
    factor, shift, bias = contents.row_shapes

    stages: tuple[Stage, ...] = (
        lambda m, v: {"product": v["total"] * v["factor"]},
        lambda m, v: {"double": v["product"] >> contents.row_least >> v["shift"]},
        lambda m, v: {"x": ((v["double"] + 1) >> 1) + v["bias"]},
    )
    inputs: dict[str, Shape] = {"total": signed(plan.sum_bits), "factor": factor, "shift": shift, "bias": bias}
    return Pipeline(stages, inputs, {"x": signed(plan.x_bits)})


def requantize(contents: Contents) -> Pipeline:
    """An activation, transformed or not, as the few bits that the next layer multiplies."""
    plan = contents.program
    m, shift, low, high = contents.step_shapes

    stages: tuple[Stage, ...] = (
        lambda _, v: {"product": v["y"] * v["m"]},
        lambda _, v: {"near": ((v["product"] >> contents.step_least >> v["shift"]) + 1) >> 1},
        lambda _, v: {"few": clamped(v["near"], v["low"], v["high"])},
    )
    wide = max(plan.y_bits, plan.turned_bits if plan.rotated else 0)
    inputs: dict[str, Shape] = {"y": signed(wide), "m": m, "shift": shift, "low": low, "high": high}
    return Pipeline(stages, inputs, {"few": signed(plan.few_bits)})


def colour(contents: Contents) -> Pipeline:
    """A byte: -1 is 0 and 1 is 255."""
    fraction = contents.program.fraction_bits
    one = 1 << fraction

    stages: tuple[Stage, ...] = (
        lambda m, v: {"shown": (clamped(v["x"], -one, one) + one)[: fraction + 2]},
        lambda m, v: {"colour": Value.cast(2 * 255 * v["shown"] + 2 * one) >> (fraction + 2)},
    )
    return Pipeline(stages, {"x": signed(contents.program.x_bits)}, {"colour": unsigned(8)})
