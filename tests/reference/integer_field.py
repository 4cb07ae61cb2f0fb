"""A field in integers with Python's own integers, one product at a time: nothing can round or overflow."""

import math
from typing import Any

from reference.hadamard import hadamard_matrix

from hardy.fields.integer import IntegerField


def half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def quarter_wave(name: str, phase: int, bits: int) -> int:
    """An odd wave with its top at one quarter, 2^bits, of the period."""
    one = 2**bits
    phase %= 4 * one
    sign, phase = (-1, phase - 2 * one) if phase >= 2 * one else (1, phase)
    distance = abs(one - phase)
    if name == "sine":
        return sign * round(one * math.cos(math.pi / 2 * distance / one))
    return sign * (one - half_up(distance**2, one) if name == "quad" else one - distance)


def unit(module: Any, codes: list[int], bits: int) -> list[int]:
    """One activation; `module` gives its kind and, for tables of a function, the table."""
    name = type(module).__name__
    if name == "WaveUnit":
        return [quarter_wave(module.kind, code, bits) for code in codes]
    if name == "FinerUnit":
        clipped = [max(-module.limit, min(module.limit, code)) for code in codes]
        bent = [half_up(half_up(x * abs(x), 2**8) * module.m, 2**module.shift) for x in clipped]
        return [quarter_wave("sine", x + y, bits) for x, y in zip(clipped, bent, strict=True)]
    if name == "TableUnit":
        table = module.table.tolist()
        return [table[max(-(2**15), min(2**15 - 1, code)) + 2**15] for code in codes]
    half, last = len(codes) // 2, module.last
    bump, lopsided = module.bump.tolist(), module.lopsided.tolist()
    real, imaginary = codes[:half], codes[half:]
    sizes = [
        half_up(bump[max(-last, min(last, a)) + last] * lopsided[max(-last, min(last, b)) + last], 2**bits)
        for a, b in zip(real, imaginary, strict=True)
    ]
    out = [half_up(s * quarter_wave("sine", a + 2**bits, bits), 2**bits) for s, a in zip(sizes, real, strict=True)]
    return out + [half_up(s * quarter_wave("sine", a, bits), 2**bits) for s, a in zip(sizes, real, strict=True)]


def linear(layer: Any, x: list[int]) -> list[int]:
    rows = zip(layer.codes.tolist(), layer.factors.tolist(), layer.shifts.tolist(), layer.bias.tolist(), strict=True)
    return [half_up(sum(w * v for w, v in zip(row, x, strict=True)) * m, 2**s) + b for row, m, s, b in rows]


def value_at(field: IntegerField, numerators: list[int], denominators: list[int]) -> list[int]:
    """The output codes of `field` at one point."""
    bits, layers = field.fraction_bits, list(field.layers)
    first: Any = layers[0]
    if field.model.frequencies:
        one = 2**bits
        pairs = list(zip(numerators, denominators, strict=True))
        phases = [half_up(c * 2**k * 2 * one, n) for c, n in pairs for k in range(field.model.frequencies)]
        features = [half_up(c * one, n) for c, n in pairs]
        features += [quarter_wave("sine", p, bits) for p in phases] + [
            quarter_wave("sine", p + one, bits) for p in phases
        ]
        x = linear(first, features)
    else:
        rows = zip(
            first.codes.tolist(), first.factors.tolist(), first.shifts.tolist(), first.bias.tolist(), strict=True
        )
        x = [
            b + sum(half_up(w * c * m, n * 2**s) for w, c, n in zip(row, numerators, denominators, strict=True))
            for row, m, s, b in rows
        ]
    for module, step, layer in zip(field.units, field.model.requantizations, layers[1:], strict=True):
        x = unit(module, x, bits)
        few: Any = step
        if few.rotated:
            parts = 2 if type(module).__name__ == "WaveletUnit" else 1  # real and imaginary features are turned apart
            half = len(x) // parts
            matrix = hadamard_matrix(half).tolist()
            x = [
                sum(h * v for h, v in zip(row, x[start : start + half], strict=True))
                for start in range(0, len(x), half)
                for row in matrix
            ]
        largest = 2 ** (few.bits - 1)
        codes = [half_up(v * few.m, 2**few.shift) - few.zero for v in x]
        x = linear(layer, [max(-largest, min(largest - 1, code)) + few.zero for code in codes])
    return x
