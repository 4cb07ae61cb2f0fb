"""Units that are no plain wave: Gauss, the wavelet of WIRE, FINER and ReLU.

Sources: activations of arXiv 2204.05735 (Gauss), 2301.05187 (WIRE) and 2312.02434 (FINER). x stands for x / 2^F, in
quarter periods where it is a phase.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from amaranth import unsigned

from hardy.rtl.hdl import Const, Module, Mux, Value
from hardy.rtl.pipeline import Stage, Values, lookup
from hardy.rtl.unit_design import Format, Unit
from hardy.rtl.waves import fold, interpolated_sine, rounded, sine_by_interpolation


def relu(format: Format) -> Unit:
    """max(x, 0): the floor of what a unit costs."""
    return Unit(
        name="relu",
        format=format,
        stages=(lambda m, v: {"y": Mux(v["x"] < 0, 0, v["x"])},),
        reference=lambda x: {"y": np.maximum(x, 0)},
        exact=lambda x: {"y": np.maximum(x, 0)},
    )


def gauss(format: Format) -> Unit:
    """exp(-x^2) as 2^-(x^2 log2 e): a square, a product, a table with interpolation of 2^-u, a shift."""
    stages, reference = _gauss(format)
    return Unit(
        name="gauss",
        format=format,
        stages=stages,
        reference=lambda x: {"y": reference(x)},
        exact=lambda x: {"y": np.exp(-(x**2))},
    )


def _gauss(format: Format):
    fraction = format.fraction
    fine = fraction + 2  # two guard bits of the exponent and of the table
    a = min((fine + 1) // 2, 10)
    rest, top = fine - a, 1 << fine
    knots = [round(2.0 ** -(k / (1 << a)) * top) for k in range((1 << a) + 1)]
    falls = [before - after for before, after in itertools.pairwise(knots)]
    log2e = round(math.log2(math.e) * (1 << fraction))
    gone = fraction + 2  # 2^-(F+2) is no code

    def near(value, shift: int):
        return (value + (1 << (shift - 1))) >> shift if shift else value

    def scaled(m: Module, v: Values) -> dict[str, Value]:
        exponent = near(v["square"] * Const(log2e), 2 * fraction - 2)
        whole = exponent[fine:]
        return {"whole": Mux(whole > gone, gone, whole)[: gone.bit_length()], "part": exponent[:fine]}

    def read(m: Module, v: Values) -> dict[str, Value]:
        k = v["part"][rest:]
        return {
            "knot": lookup(m, knots[:-1], unsigned(fine + 1), k),
            "fall": lookup(m, falls, unsigned(max(falls).bit_length()), k),
            "low": v["part"][:rest],
        }

    stages: tuple[Stage, ...] = (
        lambda m, v: {"size": Mux(v["x"] < 0, -v["x"], v["x"])[: format.bits]},
        lambda m, v: {"square": v["size"] * v["size"]},
        scaled,
        read,
        lambda m, v: {"line": (v["knot"] - rounded(v["fall"] * v["low"], rest))[: fine + 1]},
        lambda m, v: {"y": rounded(v["line"] >> v["whole"], 2)},
    )

    def reference(x: np.ndarray) -> np.ndarray:
        size = np.abs(x).astype(object if format.bits > 20 else np.int64)  # 62 bits of square times 30 of log2 e
        exponent = near(size * size * log2e, 2 * fraction - 2)
        whole = np.minimum(exponent >> fine, gone).astype(np.int64)
        part = (exponent & (top - 1)).astype(np.int64)
        k = part >> rest
        line = np.array(knots)[k] - near(np.array(falls)[k] * (part & ((1 << rest) - 1)), rest)
        return near(line >> whole, 2)

    return stages, reference


def finer(format: Format) -> Unit:
    """sin of (|x| + 1) x quarter periods: one more product, then the interpolated sine."""
    fraction = format.fraction
    wave = sine_by_interpolation(format)

    def product(x: np.ndarray) -> np.ndarray:
        return (x * (np.abs(x) + format.one) + format.one // 2) >> fraction

    def grow(m: Module, v: Values) -> dict[str, Value]:
        factor = Mux(v["x"] < 0, -v["x"], v["x"])[: format.bits] + format.one
        return {"x": rounded(v["x"] * factor, fraction)[: fraction + 2]}

    return Unit(
        name="finer",
        format=format,
        stages=(grow, *wave.stages),
        reference=lambda x: wave.reference(product(x)),
        exact=lambda x: {"y": np.sin(np.pi / 2 * (np.abs(x) + 1) * x)},
    )


def wire(format: Format) -> Unit:
    """exp(j pi x / 2 - x^2) of real x: cosine, sine and Gauss side by side, then two products."""
    fraction, one = format.fraction, format.one
    bell, gauss_of = _gauss(format)
    lines, _ = interpolated_sine(fraction)
    waves = {"sine": (fold(fraction), *lines), "cosine": (fold(fraction), *lines)}
    first = {"sine": 0, "cosine": one}

    def beside(rank: int) -> Stage:
        """Rank `rank` of all three, their names kept apart."""

        def stage(m: Module, v: Values) -> dict[str, Value]:
            made = {f"bell.{name}": value for name, value in bell[rank](m, _Part(v, "bell")).items()}
            for name, stages in waves.items():
                if rank < len(stages):
                    view = _Part({"x": (v["x"] + first[name])[: fraction + 2]} if rank == 0 else v, name)
                    made |= {f"{name}.{key}": value for key, value in stages[rank](m, view).items()}
            return made

        return stage

    def product(m: Module, v: Values) -> dict[str, Value]:
        return {"re": v["cosine.y"] * v["bell.y"], "im": v["sine.y"] * v["bell.y"]}

    def reference(x: np.ndarray) -> dict[str, np.ndarray]:
        wave = sine_by_interpolation(format).reference
        size, by = gauss_of(x), {"re": x + one, "im": x}
        return {name: (wave(phase)["y"] * size + one // 2) >> fraction for name, phase in by.items()}

    def exact(x: np.ndarray) -> dict[str, np.ndarray]:
        size = np.exp(-(x**2))
        return {"re": np.cos(np.pi / 2 * x) * size, "im": np.sin(np.pi / 2 * x) * size}

    return Unit(
        name="wire",
        format=format,
        stages=(
            *(beside(rank) for rank in range(len(bell))),
            product,
            lambda m, v: {"re": rounded(v["re"], fraction), "im": rounded(v["im"], fraction)},
        ),
        outputs=("re", "im"),
        reference=reference,
        exact=exact,
    )


class _Part(dict[str, Value]):
    """The values of one of several units side by side: "x" is "sine.x" if there is one, else the common "x"."""

    def __init__(self, values: Values, name: str) -> None:
        super().__init__()
        self.values_of_all, self.name = values, name

    def __getitem__(self, key: str) -> Value:
        own = f"{self.name}.{key}"
        return self.values_of_all[own if own in self.values_of_all else key]
