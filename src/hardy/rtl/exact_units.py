"""The activations of an integer field as stages: equal to `hardy.fields.IntegerModel` code for code."""

from __future__ import annotations

from amaranth import signed, unsigned

from hardy.fields.integer_model import LARGEST_TURN, UnitCodes
from hardy.fields.tables import TABLE_REACH, gauss_table, wavelet_tables
from hardy.rtl.hdl import Module, Mux, Value
from hardy.rtl.pipeline import Stage, Values, lookup
from hardy.rtl.unit_design import Format
from hardy.rtl.waves import fold_to_top, full_sine, quad, rounded, signed_wave


def stages_of(unit: UnitCodes, fraction: int) -> tuple[Stage, ...]:
    """From "x" (and the imaginary "i" of a wavelet) to "y" (and "im")."""
    if unit.kind == "quad":
        return quad(Format(fraction + 2, fraction), "generic").stages
    if unit.kind == "sine":
        return sine(fraction)
    if unit.kind == "triangle":
        return (fold_to_top(fraction), lambda m, v: {"y": signed_wave((1 << fraction) - v["t"], v["negative"])})
    if unit.kind == "finer":
        return (*_finer(unit, fraction), *sine(fraction))
    if unit.kind == "wavelet":
        return _wavelet(unit, fraction)
    if unit.kind == "relu":
        return _relu(fraction)
    if unit.kind == "gauss":
        return _gauss(fraction)
    assert unit.table is not None
    values = unit.table.tolist()
    width = max(abs(value) for value in values).bit_length() + 1
    return (
        lambda m, v: {"place": (clamped(v["x"], -TABLE_REACH, TABLE_REACH - 1) + TABLE_REACH)[:16]},
        lambda m, v: {"y": lookup(m, values, signed(width), v["place"])},
    )


def clamped(value: Value, low: int, high: int) -> Value:
    """`value`, but not below `low` nor above `high`."""
    return Mux(value < low, low, Mux(value > high, high, value))


def divided(value: Value, by: int) -> Value:
    """floor(value / by) for a constant above zero, by one product: exact for every code of the value's width."""
    if by & (by - 1) == 0:
        return value >> (by.bit_length() - 1)
    k, extra = len(value), (by - 1).bit_length()
    bits = k + extra + 1
    magic = -(-(1 << (bits + extra)) // by)
    return (((value + (by << k)).as_unsigned()[:bits] * magic) >> (bits + extra)) - (1 << k)


def _relu(fraction: int) -> tuple[Stage, ...]:
    """The table's own formula: the nearest integer to 2^(F+1) i / (2^15 - 1) for i from 0 up."""
    last = TABLE_REACH - 1
    return (
        lambda m, v: {"i": clamped(v["x"], 0, last)[:15]},
        lambda m, v: {"y": divided((v["i"] << (fraction + 2)) + last, 2 * last)},
    )


def _gauss(fraction: int) -> tuple[Stage, ...]:
    """Half of the table, up to its first zero."""
    half = gauss_table(fraction)[TABLE_REACH:]
    values = half[: int((half > 0).sum()) + 1].tolist()
    last, width = len(values) - 1, values[0].bit_length()

    def place(m: Module, v: Values) -> dict[str, Value]:
        size = Mux(v["x"] < 0, -v["x"], v["x"])
        return {"place": Mux(size > last, last, size)[: last.bit_length()]}

    return place, lambda m, v: {"y": lookup(m, values, unsigned(width), v["place"])}


def sine(fraction: int) -> tuple[Stage, ...]:
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
