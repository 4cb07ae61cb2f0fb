"""Trit-planes written weight by weight, with exact fractions in the solve: the oracle of `hardy.ops.trits`."""

import itertools
import math
from fractions import Fraction

import numpy as np

Trits = list[tuple[int, ...]]  # one tuple per weight, one trit per plane


def candidates(planes: int) -> Trits:
    """All 3^planes in the order of ties: zero, then sparser, then later planes, then plus before minus."""
    everything = itertools.product((-1, 0, 1), repeat=planes)
    return sorted(everything, key=lambda c: (planes - c.count(0), [abs(t) for t in c], [-t for t in c]))


def nearest(weight: float, scales: list[float]) -> tuple[int, ...]:
    best, best_distance = (0,) * len(scales), abs(weight)
    for candidate in candidates(len(scales)):
        distance = abs(weight - sum(s * t for s, t in zip(scales, candidate, strict=True)))
        if distance < best_distance:
            best, best_distance = candidate, distance
    return best


def inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """By Gauss-Jordan elimination; `matrix` is positive definite, so no pivot is zero."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]


def norm(matrix: list[list[Fraction]]) -> float:
    return math.sqrt(sum(value * value for row in matrix for value in row))


def ridge_scales(weights: list[float], trits: Trits, ridge: float) -> tuple[list[float], float]:
    planes = range(len(trits[0]))
    while True:
        system = [
            [Fraction(sum(t[i] * t[j] for t in trits)) + (i == j) * Fraction(ridge) for j in planes] for i in planes
        ]
        inverted = inverse(system)
        if norm(system) * norm(inverted) <= 1e6 or ridge >= 1.0:
            break
        ridge = min(10 * ridge, 1.0)
    moments = [math.fsum(t[i] * w for t, w in zip(trits, weights, strict=True)) for i in planes]
    return [float(sum(a * Fraction(b) for a, b in zip(row, moments, strict=True))) for row in inverted], ridge


def sign_start(weights: list[float], planes: int) -> Trits:
    return [((w > 0) - (w < 0),) * planes for w in weights]


def magnitude_start(weights: list[float], planes: int) -> Trits:
    rest, columns = list(weights), []
    for _ in range(planes):
        best, column, scale = -1.0, [0] * len(rest), 0.0
        for threshold in sorted({abs(r) for r in rest if r}, reverse=True):
            kept = [((r > 0) - (r < 0)) if abs(r) >= threshold else 0 for r in rest]
            total = sum(k * r for k, r in zip(kept, rest, strict=True))
            count = sum(map(abs, kept))
            if total**2 / count > best:
                best, column, scale = total**2 / count, kept, total / count
        columns.append(column)
        rest = [r - scale * k for r, k in zip(rest, column, strict=True)]
    return list(zip(*columns, strict=True))


def stored_scale(exact: float) -> float:
    """As float16 keeps it; a positive one is never lost to zero."""
    return 0.0 if exact == 0 else max(float(np.float16(exact)), 2.0**-24)


def fit_group(
    weights: list[float], planes: int, starts: tuple[str, ...], iterations: int, tolerance: float = 1e-4
) -> tuple[Trits, list[float], bool]:
    """Trits, scales and convergence of one group without padding, the best of the starts."""
    unit = sum(map(abs, weights)) / len(weights)
    results = []
    for start in starts:
        trits = {"sign": sign_start, "magnitude": magnitude_start}[start](weights, planes)
        old, ridge, converged = [math.inf] * planes, 1e-8, False
        for _ in range(iterations):
            scales, ridge = ridge_scales(weights, trits, ridge)
            converged = math.dist(scales, old) <= tolerance * unit
            old = scales
            if converged:
                break
            trits = [nearest(w, scales) for w in weights]
        stored = [stored_scale(abs(s)) for s in old]
        trits = [nearest(w, stored) for w in weights]
        stored = [s if any(t[k] for t in trits) else 0.0 for k, s in enumerate(stored)]
        rebuilt = [sum(s * t for s, t in zip(stored, c, strict=True)) for c in trits]
        error = sum((w - r) ** 2 for w, r in zip(weights, rebuilt, strict=True))
        results.append((error, trits, stored, converged))
    return min(results, key=lambda result: result[0])[1:]
