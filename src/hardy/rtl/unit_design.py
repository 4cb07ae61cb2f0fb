"""What a unit is: stages for the hardware, a reference in integers, and the function that both approximate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from amaranth import Shape, signed

from hardy import checks
from hardy.errors import InputError
from hardy.rtl.pipeline import Pipeline, Stage


@dataclasses.dataclass(frozen=True)
class Format:
    """Signed fixed point: so many `bits` in all, `fraction` of them behind the point.

    Raises:
        InputError: bits are not from 4 to 32, or fewer than two are left before the point: 1 is then no code.
    """

    bits: int
    fraction: int

    def __post_init__(self) -> None:
        checks.integer("bits", self.bits, at_least=4, at_most=32)
        checks.integer("fraction", self.fraction, at_least=1)
        if self.fraction > self.bits - 2:
            raise InputError(
                f"fraction must be at most bits - 2 = {self.bits - 2}, so that -1 to 1 and a whole period fit; got "
                f"{self.fraction} of {self.bits} bits"
            )

    @property
    def one(self) -> int:
        """The code of 1."""
        return 1 << self.fraction

    @property
    def shape(self) -> Shape:
        """Of a port."""
        return signed(self.bits)

    def codes(self, most: int, seed: int = 0) -> np.ndarray:
        """All codes where they are at most `most`, else one period's edges and random ones: (n,) int64."""
        low, high = -(1 << (self.bits - 1)), 1 << (self.bits - 1)
        if high - low <= most:
            return np.arange(low, high, dtype=np.int64)
        near = np.arange(-2, 3)
        quarters = np.arange(low, high, self.one, dtype=np.int64)
        if len(quarters) > most // 10:
            quarters = quarters[:: len(quarters) // (most // 10) + 1]
        edges = np.concatenate([(quarters[:, None] + near).reshape(-1), [high - 1]]).clip(low, high - 1)
        random = np.random.default_rng(seed).integers(low, high, most - len(edges))
        return np.concatenate([edges, random])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """An activation as hardware and as what it has to compute.

    Attributes:
        name: as `hardy.rtl.unit` knows it, with the squarer where there is a choice.
        format: of the input x and of every output.
        stages: as fine as they come; see `Pipeline`.
        outputs: names of the output ports, and of what `reference` returns.
        reference: codes (n,) int64 to codes by output, in integers only.
        exact: numbers (n,) float64 to the numbers by output that the codes stand for.
    """

    name: str
    format: Format
    stages: tuple[Stage, ...]
    outputs: tuple[str, ...] = ("y",)
    reference: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    exact: Callable[[np.ndarray], Mapping[str, np.ndarray]]

    def pipeline(self, ranks: int | None = None) -> Pipeline:
        """The hardware, with one rank of registers per stage or with fewer."""
        ports = dict.fromkeys(self.outputs, self.format.shape)
        return Pipeline(self.stages, {"x": self.format.shape}, ports, ranks)

    def error(self, codes: np.ndarray) -> float:
        """The largest distance of the reference from the exact function at `codes`, in units of the last place."""
        got, wanted = self.reference(codes), self.exact(codes / self.format.one)
        return max(float(np.abs(got[name] - wanted[name] * self.format.one).max()) for name in self.outputs)
