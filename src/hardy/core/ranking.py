"""What matters, in order: the one result that every locator gives and every budget accepts."""

from __future__ import annotations

import dataclasses
import math
import numbers
import random
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from scipy.stats import spearmanr

from hardy.core.rng import derive
from hardy.errors import InputError


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Spearman rank correlation between two rankings of the same `n` units, and its two-sided p-value."""

    spearman: float
    p_value: float
    n: int


class _Scores(Mapping[str, float]):
    """A mapping that nobody can change, so that a ranking can be hashed, copied and sent to another process."""

    def __init__(self, scores: dict[str, float]) -> None:
        self._scores = scores

    def __getitem__(self, name: str) -> float:
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def __hash__(self) -> int:
        return hash(frozenset(self._scores.items()))

    def __repr__(self) -> str:
        return repr(self._scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """Units and their scores; a higher score always means "matters more", "breaks first".

    Args:
        scores: unit name -> score, finite. Any order; ties keep this order.
        meaning: what the score says, one phrase ("increase in loss when only this layer is at 2 bits").
        unit: of the score ("nats/token", "relative error", ...).
        by: the locator that made it, as users name it ("rtn-2bit").
    """

    scores: Mapping[str, float]
    meaning: str
    unit: str
    by: str

    def __post_init__(self) -> None:
        if not self.scores:
            raise InputError(f"a ranking by {self.by} needs at least one unit")
        for name, score in self.scores.items():
            if not isinstance(score, numbers.Real) or not math.isfinite(score):
                raise InputError(f"the score of {name} by {self.by} is {score!r}; scores must be finite numbers")
        object.__setattr__(self, "scores", _Scores({name: float(score) for name, score in self.scores.items()}))

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        return f"{len(self)} units by {self.by}"

    def order(self) -> list[str]:
        """All names, the one that matters most first."""
        return sorted(self.scores, key=lambda name: -self.scores[name])

    def top(self, k: int) -> list[str]:
        """The `k` names that matter most, first the most important."""
        return self.order()[: self._count(k)]

    def bottom(self, k: int) -> list[str]:
        """The `k` names that matter least, first the least important."""
        return self.order()[::-1][: self._count(k)]

    def sample(self, k: int, seed: int) -> list[str]:
        """`k` names at random: the control that any use of `top(k)` is judged against."""
        return random.Random(derive(seed, "ranking-sample")).sample(list(self.scores), self._count(k))

    def shuffled(self, seed: int) -> Ranking:
        """The same scores dealt to the units at random: the control for whatever takes a whole ranking."""
        return self._dealt(self.sample(len(self), seed), f"{self.by}, shuffled with seed {seed}")

    def reversed(self) -> Ranking:
        """The same scores, the highest given to the unit that mattered least: the counter-check."""
        return self._dealt(self.order()[::-1], f"{self.by}, reversed")

    def agreement(self, other: Ranking) -> Agreement:
        """Spearman rank correlation over the names both rankings hold.

        Raises:
            InputError: fewer than three names are common, or one ranking gives all of them the same score.
        """
        common = [name for name in self.scores if name in other.scores]
        if len(common) < 3:
            raise InputError(f"agreement needs 3 common units, {self.by} and {other.by} have {len(common)}")
        pairs = [[r.scores[name] for name in common] for r in (self, other)]
        for ranking, scores in zip((self, other), pairs, strict=True):
            if min(scores) == max(scores):
                raise InputError(f"{ranking.by} gives all {len(common)} common units the same score")
        result: Any = spearmanr(pairs[0], pairs[1])
        return Agreement(float(result.statistic), float(result.pvalue), len(common))

    def table(self, k: int | None = None) -> Table:
        """The `k` first units (all by default) as a rich table."""
        table = Table(title=f"by {self.by}: {self.meaning}", title_justify="left")
        table.add_column("#", justify="right")
        table.add_column("unit")
        table.add_column(self.unit, justify="right")
        for place, name in enumerate(self.top(len(self) if k is None else min(k, len(self))), start=1):
            table.add_row(str(place), name, f"{self.scores[name]:.4g}")
        return table

    def plot(self, axes: Any, k: int | None = None) -> None:
        """Horizontal bars of the `k` first units (all by default) on matplotlib `axes`."""
        names = self.top(len(self) if k is None else min(k, len(self)))
        axes.barh(names[::-1], [self.scores[name] for name in reversed(names)])
        axes.set_xlabel(f"{self.meaning} [{self.unit}]")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; `Ranking(**ranking.to_dict())` is the same ranking."""
        return {"scores": dict(self.scores), "meaning": self.meaning, "unit": self.unit, "by": self.by}

    def _dealt(self, names: list[str], by: str) -> Ranking:
        """The scores, highest first, given to `names` in their order, which is then that of the ranking."""
        dealt = dict(zip(names, sorted(self.scores.values(), reverse=True), strict=True))
        return dataclasses.replace(self, scores=dealt, by=by)

    def _count(self, k: int) -> int:
        if not 0 <= k <= len(self):
            raise InputError(f"k must be in 0..{len(self)}, the units of this ranking, got {k}")
        return k
