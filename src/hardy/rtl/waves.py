"""Periodic units: the quadratic wave, and the sine by tables, interpolation, a polynomial or CORDIC.

Sources: QuadINR (arXiv 2508.14374) for the wave and its squarer; Volder (1959) for CORDIC. The phase has the period
2^(F+2), so a quarter is 2^F codes and what overflows is dropped. Bit F + 1 is the sign, bit F mirrors the quarter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from amaranth import signed, unsigned

from hardy.fields.tables import sine_table
from hardy.rtl.hdl import Cat, Const, Module, Mux, Value
from hardy.rtl.pipeline import Stage, Values, lookup
from hardy.rtl.unit_design import Format, Unit

POLYNOMIAL = (1.57062678, -0.64322897, 0.07271024)
"""u, u^3 and u^5 of sin(pi u / 2) on [0, 1] with the least largest error, 1.1e-4."""


def quad(format: Format, squarer: str = "folded") -> Unit:
    """The quadratic wave: one squarer ("generic" for DSP blocks, "folded" with half the partial products)."""
    fraction, one = format.fraction, format.one
    square = folded_square if squarer == "folded" else _generic_square

    def reference(x: np.ndarray) -> dict[str, np.ndarray]:
        sign, from_zero = _split(x, fraction)
        distance = one - from_zero
        return {"y": sign * (one - ((distance * distance + one // 2) >> fraction))}

    def exact(x: np.ndarray) -> dict[str, np.ndarray]:
        p = (x + 2) % 4 - 2
        return {"y": p * (2 - np.abs(p))}

    return Unit(
        name=f"quad-{squarer}",
        format=format,
        stages=(
            fold_to_top(fraction),
            lambda m, v: {"square": square(v["t"])},
            lambda m, v: {"y": signed_wave(one - rounded(v["square"], fraction), v["negative"])},
        ),
        reference=reference,
        exact=exact,
    )


def sine_by_table(format: Format, address_bits: int | None = None) -> Unit:
    """A quarter wave of 2^A samples at the middle of their intervals; A is at most 8 by default."""
    fraction, one = format.fraction, format.one
    a = min(fraction, 8) if address_bits is None else address_bits
    table = [_rounded_sine((k + 0.5) / (1 << a), one) for k in range(1 << a)]

    def index(m: Module, v: Values) -> dict[str, Value]:
        low = v["x"][:fraction]
        return {"k": Mux(v["x"][fraction], ~low, low)[fraction - a :], "negative": v["x"][fraction + 1]}

    def reference(x: np.ndarray) -> dict[str, np.ndarray]:
        low = x & (one - 1)
        k = np.where(x & one, one - 1 - low, low) >> (fraction - a)
        y = np.array(table)[k]
        return {"y": np.where(x & (2 * one), -y, y)}

    return Unit(
        name="sine-table",
        format=format,
        stages=(
            index,
            lambda m, v: {"size": lookup(m, table, unsigned(fraction + 1), v["k"])},
            lambda m, v: {"y": signed_wave(v["size"], v["negative"])},
        ),
        reference=reference,
        exact=sine,
    )


def sine_by_interpolation(format: Format) -> Unit:
    """A quarter wave of 2^A lines, A = F / 2 rounded up and at most 10."""
    stages, of_quarter = interpolated_sine(format.fraction)

    def reference(x: np.ndarray) -> dict[str, np.ndarray]:
        sign, r = _split(x, format.fraction)
        return {"y": sign * of_quarter(r)}

    return Unit(
        name="sine-interpolated",
        format=format,
        stages=(fold(format.fraction), *stages),
        reference=reference,
        exact=sine,
    )


def interpolated_sine(fraction: int):
    """Stages from "r" and "negative" to "y", and the quarter wave (n,) of r from 0 to 2^F."""
    a, one = min((fraction + 1) // 2, 10), 1 << fraction
    rest = fraction - a
    knots = [_rounded_sine(k / (1 << a), one) for k in range((1 << a) + 1)]
    slopes = [after - before for before, after in itertools.pairwise(knots)]
    narrow = unsigned(max(slopes).bit_length())

    def read(m: Module, v: Values) -> dict[str, Value]:
        k = v["r"][rest:fraction]
        base = lookup(m, knots[:-1], unsigned(fraction + 1), k)
        return {"base": base, "slope": lookup(m, slopes, narrow, k), "part": v["r"][:rest], "top": v["r"][fraction]}

    stages: tuple[Stage, ...] = (
        read,
        lambda m, v: {"rise": v["slope"] * v["part"]},
        lambda m, v: {"y": signed_wave(Mux(v["top"], one, v["base"] + rounded(v["rise"], rest)), v["negative"])},
    )

    def of_quarter(r: np.ndarray) -> np.ndarray:
        k = np.minimum(r >> rest, (1 << a) - 1)
        rise = np.array(slopes)[k] * (r - (k << rest))
        return np.array(knots)[k] + ((rise + (1 << rest >> 1)) >> rest)

    return stages, of_quarter


def sine_by_polynomial(format: Format) -> Unit:
    """An odd polynomial of degree 5 by Horner's rule: four multipliers; its own error is 1.1e-4."""
    fraction, one = format.fraction, format.one
    first, third, fifth = (round(c * (1 << fraction)) for c in POLYNOMIAL)

    def near(value: Any) -> Any:
        return (value + (1 << (fraction - 1))) >> fraction

    def reference(x: np.ndarray) -> dict[str, np.ndarray]:
        sign, r = _split(x, fraction)
        square = near(r * r)
        return {"y": sign * near((near((near(square * fifth) + third) * square) + first) * r).clip(0, one)}

    return Unit(
        name="sine-polynomial",
        format=format,
        stages=(
            fold(fraction),
            lambda m, v: {"square": near(v["r"] * v["r"])},
            lambda m, v: {"inner": near(v["square"] * fifth) + third},
            lambda m, v: {"outer": near(v["inner"] * v["square"]) + first},
            lambda m, v: {"size": near(v["outer"] * v["r"])},
            lambda m, v: {"y": signed_wave(Mux(v["size"] > one, one, v["size"])[: fraction + 1], v["negative"])},
        ),
        reference=reference,
        exact=sine,
    )


def cordic(format: Format, angle: str = "turns") -> Unit:
    """The sine by F + 2 rotations with two guard bits; of "radians" after one more product, by 2 / pi."""
    fraction, rotations, guard = format.fraction, format.fraction + 2, 2
    fine = fraction + guard
    angles = [round(math.atan(2.0**-i) / (math.pi / 2) * (1 << fine)) for i in range(rotations)]
    gain = math.prod(math.cos(math.atan(2.0**-i)) for i in range(rotations))
    start, limit = round(gain * (1 << fine)), 1 << fraction
    inverse = round(2 / math.pi * (1 << format.bits))
    wide = signed(fine + 2)

    def rotation(i: int) -> Stage:
        def rotate(m: Module, v: Values) -> dict[str, Value]:
            a, b, z = v["a"], v["b"], v["z"]
            back = z[-1]
            new = (
                Mux(back, a + (b >> i), a - (b >> i)),
                Mux(back, b - (a >> i), b + (a >> i)),
                Mux(back, z + angles[i], z - angles[i]),
            )
            return {name: value[: wide.width].as_signed() for name, value in zip("abz", new, strict=True)}

        return rotate

    def end(m: Module, v: Values) -> dict[str, Value]:
        near = rounded(v["b"], guard)
        size = Mux(near < 0, 0, Mux(near > limit, limit, near))[: fraction + 1]
        return {"y": signed_wave(size, v["negative"])}

    def first(m: Module, v: Values) -> Mapping[str, Value]:
        angle = Cat(Const(0, guard), v["r"], Const(0, 1)).as_signed()
        return rotation(0)(m, {"a": Const(start, wide), "b": Const(0, wide), "z": angle})

    def reference(x: np.ndarray) -> dict[str, np.ndarray]:
        if angle == "radians":
            x = (x * inverse + (1 << (format.bits - 1))) >> format.bits
        sign, r = _split(x, fraction)
        a, b, z = np.full_like(r, start), np.zeros_like(r), r << guard
        for i, turn in enumerate(angles):
            way = np.where(z < 0, -1, 1)
            a, b, z = a - way * (b >> i), b + way * (a >> i), z - way * turn
        return {"y": sign * ((b + (1 << guard >> 1)) >> guard).clip(0, limit)}

    def scale(m: Module, v: Values) -> dict[str, Value]:
        return {"x": rounded(v["x"] * Const(inverse), format.bits)[: fraction + 2]}

    stages = (fold(fraction), first, *(rotation(i) for i in range(1, rotations)), end)
    in_radians = angle == "radians"
    return Unit(
        name=f"cordic-{angle}",
        format=format,
        stages=(scale, *stages) if in_radians else stages,
        reference=reference,
        exact=(lambda x: {"y": np.sin(x)}) if in_radians else sine,
    )


def fold(fraction: int) -> Stage:
    """From "x" to "r", 0 to 2^F from the zero of its half period, and "negative"."""
    one = 1 << fraction

    def stage(m: Module, v: Values) -> dict[str, Value]:
        low = v["x"][:fraction]
        return {"r": Mux(v["x"][fraction], one - low, low)[: fraction + 1], "negative": v["x"][fraction + 1]}

    return stage


def fold_to_top(fraction: int) -> Stage:
    """From "x" to "t", 0 to 2^F from the top of its half period, and "negative"."""
    one = 1 << fraction

    def stage(m: Module, v: Values) -> dict[str, Value]:
        low = v["x"][:fraction]
        return {"t": Mux(v["x"][fraction], low, one - low)[: fraction + 1], "negative": v["x"][fraction + 1]}

    return stage


def rounded(value: Value, shift: int) -> Value:
    """`value / 2^shift` to the nearest integer, halves up."""
    return (value + (1 << (shift - 1))) >> shift if shift else value


def signed_wave(size: Value | int, negative: Value) -> Value:
    """`size`, or its negative."""
    return Mux(negative, -size, size)


def folded_square(t: Value) -> Value:
    """t * t with each product of two different bits once: t_i (1 + 4 (t >> i + 1)) 4^i summed over i."""
    rows: list[Any] = [Mux(t[i], Cat(Const(1, 2), t[i + 1 :]) << (2 * i), 0) for i in range(len(t))]
    while len(rows) > 1:
        rows = [sum(rows[i + 1 : i + 2], rows[i]) for i in range(0, len(rows), 2)]
    return rows[0][: 2 * len(t)]


def _generic_square(t: Value) -> Value:
    return t * t


def _split(x: np.ndarray, fraction: int) -> tuple[np.ndarray, np.ndarray]:
    """Sign (1, -1) and distance from the zero of the half period, 0 to 2^F, of phases."""
    one = 1 << fraction
    low = x & (one - 1)
    return np.where(x & (2 * one), -1, 1), np.where(x & one, one - low, low)


def _rounded_sine(quarters: float, one: int) -> int:
    return round(math.sin(math.pi / 2 * quarters) * one)


def sine(x: np.ndarray) -> dict[str, np.ndarray]:
    """The sine of quarter periods."""
    return {"y": np.sin(np.pi / 2 * x)}


def full_sine(fraction: int) -> list[int]:
    """The sine at distances 0 to 2^F from its top, as the integer model has it."""
    return sine_table(fraction).tolist()
