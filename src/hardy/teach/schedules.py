"""How many examples are taught, and how often they are chosen anew.

Source: GraNT (arXiv 2505.14170) and its code; INT (2405.10531). `time` counts updates from 0 (epochs, or steps where
there are none), of `total` in all.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

from hardy import checks


class Ratio(Protocol):
    """The share of the examples that is taught."""

    def __call__(self, time: int, total: int) -> float:
        """The share at `time`, above 0 and at most 1."""
        ...


def _check_ratio(name: str, value: float) -> float:
    return checks.number(name, value, above=0, at_most=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """Always the same share; INT's is 0.2.

    Raises:
        InputError: it is not in (0, 1].
    """

    ratio: float = 0.2

    def __post_init__(self) -> None:
        _check_ratio("ratio", self.ratio)

    def __call__(self, time: int, total: int) -> float:
        return self.ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class _From:
    """A share that begins at `start` and ends near 1."""

    start: float = 0.05

    def __post_init__(self) -> None:
        _check_ratio("start", self.start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staircase(_From):
    """GraNT's: min(1, start + floor(time / (total / stages)) * (1 - start) / stages). INT has 10 stages from 0.2.

    Raises:
        InputError: a field is out of range.
    """

    stages: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("stages", self.stages, at_least=1)

    def __call__(self, time: int, total: int) -> float:
        return min(1.0, self.start + (time * self.stages // total) * (1 - self.start) / self.stages)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(_From):
    """start + (1 - start) * time / total, at most 1."""

    def __call__(self, time: int, total: int) -> float:
        return min(1.0, self.start + (1 - self.start) * time / total)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(_From):
    """start + (1 - start) * (1 - cos(pi * time / total)) / 2: slow at both ends."""

    def __call__(self, time: int, total: int) -> float:
        return self.start + (1 - self.start) * (1 - math.cos(math.pi * min(time, total) / total)) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReverseCosine:
    """end + (1 - end) * (1 + cos(pi * time / total)) / 2: all examples first, the share `end` at last.

    Raises:
        InputError: `end` is not in (0, 1].
    """

    end: float = 0.2

    def __post_init__(self) -> None:
        _check_ratio("end", self.end)

    def __call__(self, time: int, total: int) -> float:
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * min(time, total) / total)) / 2


class Interval(Protocol):
    """When examples are chosen anew."""

    def following(self, time: int, total: int, due: int) -> int:
        """The time from which the next choice is due, after one at `time` that was due from `due`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every:
    """Anew every so many updates.

    Raises:
        InputError: `updates` is not a positive integer.
    """

    updates: int = 1

    def __post_init__(self) -> None:
        checks.integer("updates", self.updates, at_least=1)

    def following(self, time: int, total: int, due: int) -> int:
        return time + self.updates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growing:
    """Each time for the share `dense` of the updates, then first + floor((last - first) * time / total) later.

    GraNT's is from 5 to 50, dense as long as its first ratio; INT's from 1 to 50, dense for a quarter. Both are made
    for hundreds or thousands of updates: see `within`.

    Raises:
        InputError: a field is out of range.
    """

    first: int = 5
    last: int = 50
    dense: float = 0.05

    def __post_init__(self) -> None:
        checks.integer("first", self.first, at_least=1)
        checks.integer("last", self.last, at_least=self.first)
        checks.number("dense", self.dense, at_least=0, at_most=1)

    @classmethod
    def within(cls, updates: int, dense: float = 0.05) -> Growing:
        """GraNT's gaps, but at most 1 to 10 % of all updates, as 5 to 50 are of 500: 1 to 4 in 40 epochs, in which 5 to
        50 would choose four times in all and never come to more than two thirds of the examples."""
        return cls(first=min(5, max(1, updates // 100)), last=min(50, max(1, updates // 10)), dense=dense)

    def is_dense(self, time: int, total: int) -> bool:
        return time < math.floor(total * self.dense)

    def gap(self, time: int, total: int) -> int:
        return self.first + (self.last - self.first) * time // total

    def following(self, time: int, total: int, due: int) -> int:
        return time + (1 if self.is_dense(time, total) else self.gap(time, total))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatchingUp(Growing):
    """GraNT's own: gaps are added up from 0, not from the last choice, so after the dense part more choices follow,
    update by update, until the sum has caught up."""

    def following(self, time: int, total: int, due: int) -> int:
        return due if self.is_dense(time, total) else due + self.gap(time, total)


RATIOS = {
    "constant": Constant,
    "staircase": Staircase,
    "linear": Linear,
    "cosine": Cosine,
    "reverse-cosine": ReverseCosine,
}
