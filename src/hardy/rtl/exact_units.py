"""The activations of an integer field as stages: equal to `hardy.fields.IntegerModel` code for code."""

from __future__ import annotations

from amaranth import signed, unsigned

from hardy.fields.integer_model import LARGEST_TURN, UnitCodes
from hardy.fields.tables import TABLE_REACH, gauss_table, relu_table, wavelet_tables
from hardy.rtl.hdl import Module, Mux, Value
from hardy.rtl.pipeline import Stage, Values, lookup
from hardy.rtl.unit_design import Format
from hardy.rtl.waves import fold_to_top, full_sine, quad, rounded, signed_wave


def stages_of(unit: UnitCodes, fraction: int) -> tuple[Stage, ...]:
    """From "x" (and the imaginary "i" of a wavelet) to "y" (and "im")."""
    if unit.kind == "quad":
        return quad(Format(fraction + 2, fraction), "generic").stages
    if unit.kind == "sine":
        return _sine(fraction)
    if unit.kind == "triangle":
        return (fold_to_top(fraction), lambda m, v: {"y": signed_wave((1 << fraction) - v["t"], v["negative"])})
    if unit.kind == "finer":
        return (*_finer(unit, fraction), *_sine(fraction))
    if unit.kind == "wavelet":
        return _wavelet(unit, fraction)
    made = {"gauss": gauss_table, "relu": relu_table}
    table = made[unit.kind](fraction) if unit.kind in made else unit.table
    assert table is not None
    values = table.tolist()
    width = max(abs(value) for value in values).bit_length() + 1
    return (
        lambda m, v: {"place": (clamped(v["x"], -TABLE_REACH, TABLE_REACH - 1) + TABLE_REACH)[:16]},
        lambda m, v: {"y": lookup(m, values, signed(width), v["place"])},
    )


def clamped(value: Value, low: int, high: int) -> Value:
    """`value`, but not below `low` nor above `high`."""
    return Mux(value < low, low, Mux(value > high, high, value))


def _sine(fraction: int) -> tuple[Stage, ...]:
    table = full_sine(fraction)
    return (
        fold_to_top(fraction),
        lambda m, v: {"size": lookup(m, table, unsigned(fraction + 1), v["t"])},
        lambda m, v: {"y": signed_wave(v["size"], v["negative"])},
    )


def _finer(unit: UnitCodes, fraction: int) -> tuple[Stage, ...]:
    factor, shift = unit.numbers
    limit = LARGEST_TURN << fraction
    return (
        lambda m, v: {"x": clamped(v["x"], -limit, limit)},
        lambda m, v: {"square": rounded(v["x"] * Mux(v["x"] < 0, -v["x"], v["x"]), 8)},
        lambda m, v: {"x": (v["x"] + rounded(v["square"] * factor, shift))[: fraction + 2]},
    )


def _wavelet(unit: UnitCodes, fraction: int) -> tuple[Stage, ...]:
    bump, lopsided = (table.tolist() for table in wavelet_tables(unit.numbers[0], fraction))
    last, table = len(bump) // 2, full_sine(fraction)

    def places(m: Module, v: Values) -> dict[str, Value]:
        folded = fold_to_top(fraction)
        made: dict[str, Value] = {
            "real": (clamped(v["x"], -last, last) + last)[: len(bump).bit_length()],
            "imaginary": (clamped(v["i"], -last, last) + last)[: len(bump).bit_length()],
        }
        for name, first in (("cosine", 1 << fraction), ("sine", 0)):
            phase = folded(m, {"x": (v["x"] + first)[: fraction + 2]})
            made |= {f"{name}.{key}": value for key, value in phase.items()}
        return made

    def read(m: Module, v: Values) -> dict[str, Value]:
        made: dict[str, Value] = {
            "bump": lookup(m, bump, unsigned(max(bump).bit_length()), v["real"]),
            "lopsided": lookup(m, lopsided, unsigned(max(lopsided).bit_length()), v["imaginary"]),
        }
        for name in ("cosine", "sine"):
            size = lookup(m, table, unsigned(fraction + 1), v[f"{name}.t"])
            made[name] = signed_wave(size, v[f"{name}.negative"])
        return made

    return (
        places,
        read,
        lambda m, v: {"size": rounded(v["bump"] * v["lopsided"], fraction)},
        lambda m, v: {
            "y": rounded(v["size"] * v["cosine"], fraction),
            "im": rounded(v["size"] * v["sine"], fraction),
        },
    )
