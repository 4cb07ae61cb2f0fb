"""The published formulas of memory cells for one conductance at a time, in float64: the oracle of `hardy.hardware`.

Each gives (mean, standard deviation) of the Gaussian that is drawn, in uS, before anything is truncated.
"""

import math
from collections.abc import Callable

import numpy as np

DAY = 86400.0


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def pcm(g: float) -> tuple[float, float]:
    r = g / 25
    return g, 0.26348 + 1.9650 * r - 1.1731 * r**2


def pcm_exponent(g: float) -> tuple[float, float]:
    log = math.log(max(g / 25, 1e-7))
    return clip(-0.0155 * log + 0.0244, 0.049, 0.1), clip(-0.0125 * log - 0.0059, 0.008, 0.045)


def pcm_read(programmed: float, held: float, seconds: float) -> float:
    q = min(0.0088 / max((programmed / 25) ** 0.65, 1e-3), 0.2)
    return held * q * math.sqrt(math.log((seconds + 20 + 250e-9) / (2 * 250e-9)))


def hermes(g: float) -> tuple[float, float]:
    r = g / 20.7
    return g, 0.16603 + 4.71806 * r - 8.48101 * r**2 + 4.68961 * r**3


def hermes_one(g: float) -> tuple[float, float]:
    r = g / 10.35
    return g, 0.15782 + 2.32444 * r - 2.16311 * r**2 + 0.68842 * r**3


def hermes_exponent(g: float) -> tuple[float, float]:
    r = max(g / 20.7, 1e-7)
    mean = clip(-0.0387 * math.log(r) - 0.0182, 0.072, 0.13) if r < 0.0945 else -0.0436 * r**2 - 0.0126 * r + 0.0736
    std = clip(-0.0117 * math.log(r) - 0.0057, 0.0091, 0.04) if r < 0.3055 else -0.0118 * r**2 + 0.0093 * r + 0.0073
    return mean, std


def hermes_one_exponent(g: float) -> tuple[float, float]:
    r = max(g / 10.35, 1e-7)
    mean = clip(-0.0387 * math.log(r) - 0.0182, 0.072, 0.13) if r < 0.0945 else -0.0436 * r**2 - 0.0126 * r + 0.0736
    std = clip(-0.0120 * math.log(r) - 0.0023, 0.0124, 0.04) if r < 0.3039 else -0.0165 * r**2 + 0.0116 * r + 0.0104
    return mean, std


def hermes_read(programmed: float, held: float, seconds: float) -> float:
    r = max(programmed / 20.7, 1e-7)
    q = clip(-0.0117 * math.log(r) - 0.0069, 0.015, 0.04)
    if r >= 0.16:
        q = 0.0069 * r**3 - 0.0280 * r**2 + 0.0211 * r + 0.0123
    return held * q * math.sqrt(math.log((seconds + 300 + 512e-9) / (2 * 512e-9)))


def hermes_one_read(programmed: float, held: float, seconds: float) -> float:
    r = max(programmed / 10.35, 1e-7)
    q = clip(-0.0078 * math.log(r) + 0.0038, 0.0179, 0.04)
    if r >= 0.1591:
        q = 0.0664 * r**3 - 0.1352 * r**2 + 0.0768 * r + 0.0088
    return held * q * math.sqrt(math.log((seconds + 200 + 512e-9) / (2 * 512e-9)))


def afm(g: float) -> tuple[float, float]:
    if g < 0.6:
        return 0.0, 0.0
    if g <= 52.5:
        return g, 2.9398e-5 * g**3 - 3.7158e-3 * g**2 + 0.22420 * g + 2.5797
    return g, 1.2330e-5 * g**3 - 3.0550e-3 * g**2 + 0.24535 * g + 2.1103


def wan(g: float) -> tuple[float, float]:
    r = g / 40
    return g, 0.348 + 16.030 * r - 43.853 * r**2 + 45.393 * r**3 - 16.815 * r**4


def wan_one_day(g: float) -> tuple[float, float]:
    r = g / 40
    return g, 0.701 + 22.086 * r - 50.773 * r**2 + 47.095 * r**3 - 16.458 * r**4


def wan_two_days(g: float) -> tuple[float, float]:
    r = g / 40
    return g, 0.782 + 20.274 * r - 43.507 * r**2 + 37.062 * r**3 - 11.934 * r**4


def cmo(g: float) -> tuple[float, float]:
    return g, 0.01122 + 0.01129 * g


def cmo_fine(g: float) -> tuple[float, float]:
    return g, 0.00081 + 0.00107 * g


def cmo_read(programmed: float, held: float, seconds: float) -> float:
    return 0.0277 * math.log10(held) * math.sqrt(math.log((seconds + 1e-6) / 2e-6))


def milo(g: float) -> tuple[float, float]:
    return g, -0.009107 * g + 4.782321


def wan_cubic(g: float) -> tuple[float, float]:
    return g, 1.536e-4 * g**3 - 1.167e-2 * g**2 + 0.2374 * g + 1.053


def joshi(g: float) -> tuple[float, float]:
    return g, -0.0017877 * g**2 + 0.075857 * g + 0.28639


def sonos(g: float) -> tuple[float, float]:
    return g, 19.89 * (1 - math.exp(-100 * g / 176.3)) / 100


def sonos_one_day(g: float) -> tuple[float, float]:
    current = 100 * g
    coefficients = [
        6.83650e-01, 6.51250e-03, -4.03163e-04, 3.37944e-06, -1.87435e-08, 5.88902e-11, -1.07685e-13, 1.17751e-16,
        -7.60016e-20, 2.67255e-23, -3.94954e-27,
    ]  # fmt: skip
    mean = current + sum(c * current**i for i, c in enumerate(coefficients))
    return mean / 100, 25.59102 * (1 - math.exp(-mean / 186.85544)) / 100


def sonos_read(programmed: float, held: float, seconds: float) -> float:
    return 12.58 * (1 - math.exp(-100 * held / 215.4)) / 100


def truncated(mean: float, std: float) -> tuple[float, float]:
    """Mean and standard deviation of max(0, N(mean, std))."""
    if std == 0:
        return max(mean, 0.0), 0.0
    a = mean / std
    density, share = math.exp(-a * a / 2) / math.sqrt(2 * math.pi), 0.5 * (1 + math.erf(a / math.sqrt(2)))
    first = mean * share + std * density
    second = (mean**2 + std**2) * share + mean * std * density
    return first, math.sqrt(max(second - first**2, 0.0))


def power_law_moments(program: tuple[float, float], exponent: tuple[float, float], ratio: float) -> tuple[float, float]:
    """Moments of max(0, N) * ratio ** -|N| by numerical integration over the second Gaussian."""
    mean, std = truncated(*program)
    x = np.linspace(-8, 8, 20001)
    weight = np.exp(-(x**2) / 2)
    weight /= weight.sum()
    factor = ratio ** -np.abs(exponent[0] + exponent[1] * x)
    first, second = float((weight * factor).sum()), float((weight * factor**2).sum())
    return mean * first, math.sqrt((mean**2 + std**2) * second - (mean * first) ** 2)


def solve_crossbar(cells: np.ndarray, resistance: float, voltages: np.ndarray) -> np.ndarray:
    """Currents in uA into the columns of a crossbar, node by node: Kirchhoff's law as a dense system."""
    rows, columns = cells.shape
    wire = 1e6 / resistance
    size = 2 * rows * columns
    matrix, right = np.zeros((size, size)), np.zeros(size)

    def join(a: int, b: int, conductance: float) -> None:
        matrix[a, a] += conductance
        matrix[b, b] += conductance
        matrix[a, b] -= conductance
        matrix[b, a] -= conductance

    for i in range(rows):
        for j in range(columns):
            top, bottom = i * columns + j, rows * columns + i * columns + j
            join(top, bottom, cells[i, j])
            if j == 0:
                matrix[top, top] += wire
                right[top] += wire * voltages[i]
            else:
                join(top - 1, top, wire)
            if i == rows - 1:
                matrix[bottom, bottom] += wire
            else:
                join(bottom, bottom + columns, wire)
    node = np.linalg.solve(matrix, right)
    return wire * node[rows * columns + (rows - 1) * columns :]


Formula = Callable[[float], tuple[float, float]]
