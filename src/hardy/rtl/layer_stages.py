"""The arithmetic around the lanes as stages: the first layer, scales of rows, requantization and colours.

Source: `hardy.fields.integer_model`, code for code. The integer nearest to x / 2^s, halves up, is
`((x >> (s - 1)) + 1) >> 1` for s above zero; nearest to x / (n 2^s) is `((x >> (s - 1)) + n) >> 1`, over n.
"""

from __future__ import annotations

from amaranth import Shape, signed, unsigned

from hardy.rtl.contents import Contents
from hardy.rtl.exact_units import clamped, divided, sine
from hardy.rtl.hdl import Module, Mux, Value
from hardy.rtl.pipeline import Pipeline, Stage, Values
from hardy.rtl.program import COORDINATE_BITS


def first_layer(contents: Contents) -> Pipeline:
    """A row at the pixel `line`, `column`, or a value that it is encoded as."""
    if contents.program.encoded:
        return _encoder(contents)
    return _counted(contents) if contents.program.order == "raster" else _multiplied(contents)


def _multiplied(contents: Contents) -> Pipeline:
    """For each axis a product, and an exact division by the grid's size."""
    axes = tuple(zip(("by_line", "by_column"), ("line", "column"), contents.program.grid, strict=True))

    stages: tuple[Stage, ...] = (
        lambda m, v: {axis: (2 * v[place].as_unsigned() + 1 - size) * v[axis] for axis, place, size in axes},
        lambda m, v: {axis: ((v[axis] >> contents.first_least >> v["shift"]) + size) >> 1 for axis, _, size in axes},
        lambda m, v: {axis: divided(v[axis], size) for axis, _, size in axes},
        lambda m, v: {"x": v["by_line"] + v["by_column"] + v["bias"]},
    )
    inputs: dict[str, Shape] = dict.fromkeys(("line", "column"), unsigned(COORDINATE_BITS))
    inputs |= contents.first_shapes
    powers = all(size & (size - 1) == 0 for size in contents.program.grid)
    return Pipeline(stages, inputs, {"x": signed(contents.program.x_bits)}, ranks=3 if powers else 4)


def _counted(contents: Contents) -> Pipeline:
    """For each axis a running quotient and remainder, as they were at the pixel before, to which a step is added.

    `line_sum`, `line_rest`, `column_sum` and `column_rest` are those of the row `row`; what comes out replaces them.
    """
    x, line_by, column_by = signed(contents.program.x_bits), *contents.divisors

    def counted(m: Module, v: Values) -> dict[str, Value]:
        new_line = v["column"] == 0
        line, line_rest = _next(v, "line", line_by)
        column, column_rest = _next(v, "column", column_by)
        top = v["line"] == 0
        return {
            "line_sum": Mux(top, v["line_start"], Mux(new_line, line, v["line_sum"])),
            "line_rest": Mux(top, v["line_start_rest"], Mux(new_line, line_rest, v["line_rest"])),
            "column_sum": Mux(new_line, v["column_start"], column),
            "column_rest": Mux(new_line, v["column_start_rest"], column_rest),
        }

    stages: tuple[Stage, ...] = (counted, lambda m, v: {"x": v["line_sum"] + v["column_sum"] + v["bias"]})
    row = unsigned(max((contents.program.widths[0] - 1).bit_length(), 1))
    inputs: dict[str, Shape] = dict.fromkeys(("line", "column"), unsigned(COORDINATE_BITS))
    kept = {**contents.counts, "row": row}
    return Pipeline(stages, {**inputs, **contents.first_shapes, **kept}, {"x": x, **kept})


def _next(v: Values, axis: str, by: int) -> tuple[Value, Value]:
    """Quotient and remainder over `by` a step on."""
    rest = v[f"{axis}_rest"] + v[f"{axis}_step_rest"]
    over = rest >= by
    return v[f"{axis}_sum"] + v[f"{axis}_step"] + over, Mux(over, rest - by, rest)


def _encoder(contents: Contents) -> Pipeline:
    """A coordinate, or the sine or cosine of it in phases that double with the octave."""
    plan = contents.program
    (lines, columns), fraction = plan.grid, plan.fraction_bits

    def doubled(m: Module, v: Values) -> dict[str, Value]:
        place, size = Mux(v["of_line"], v["line"], v["column"]), Mux(v["of_line"], lines, columns)
        return {"double": (((2 * place + 1 - size) << (fraction + 1)) << v["octave"]) + size}

    def nearest(m: Module, v: Values) -> dict[str, Value]:
        by_column = divided(v["double"], 2 * columns)
        by_line = by_column if lines == columns else divided(v["double"], 2 * lines)
        return {"plain": Mux(v["of_line"], by_line, by_column)}

    stages: tuple[Stage, ...] = (
        doubled,
        nearest,
        lambda m, v: {"x": v["plain"] + (v["quarter"] << fraction)},
        *sine(fraction),
        lambda m, v: {"few": Mux(v["is_wave"], v["y"], v["plain"])},
    )
    inputs: dict[str, Shape] = dict.fromkeys(("line", "column"), unsigned(COORDINATE_BITS))
    return Pipeline(stages, inputs | contents.first_shapes, {"few": signed(plan.few_bits)})


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
