"""What matters, in order: the one result that every locator gives and every budget accepts."""

from __future__ import annotations

import dataclasses
import json
import numbers
import random
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from hardy.checks import integer, text, texts
from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.files import read_json, write_text
from hardy.reading import reading

FORMAT, VERSION = "hardy-ranking", 1
MOST_SHOWN = 100
"""Units in a table or plot that is not told how many."""


def rank_correlation(x: Any, y: Any) -> float:
    """Spearman's correlation of two sequences of n numbers; 0 where one of them is constant.

    Raises:
        InputError: they are of other lengths, or of fewer than two.
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise InputError(f"x and y must be as many numbers, at least two, got {first.shape} and {second.shape}")
    if not np.ptp(first) or not np.ptp(second):
        return 0.0
    found: Any = spearmanr(first, second)
    return float(found[0])


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Spearman rank correlation between two rankings of the same `n` units, and its two-sided p-value."""

    spearman: float
    p_value: float
    n: int


class _Scores(Mapping[str, float]):
    """Names and an array of scores, as a mapping that nobody can change; cheap to hash and to send elsewhere."""

    def __init__(self, names: Iterable[str], array: np.ndarray) -> None:
        self.names = tuple(names)
        self.array = array
        array.setflags(write=False)

    @cached_property
    def descending(self) -> np.ndarray:
        """Places of all scores, the highest first; ties keep their order."""
        return np.argsort(-self.array, kind="stable")

    @cached_property
    def _dict(self) -> dict[str, float]:
        return dict(zip(self.names, self.array.tolist(), strict=True))

    def named(self, places: np.ndarray) -> list[str]:
        """The names at these places."""
        return np.array(self.names, dtype=object)[places].tolist()

    def __getitem__(self, name: str) -> float:
        return self._dict[name]

    def __contains__(self, name: object) -> bool:
        return name in self._dict

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> ItemsView[str, float]:
        return self._dict.items()

    def values(self) -> ValuesView[float]:
        return self._dict.values()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Scores) and self.names == other.names:
            return np.array_equal(self.array, other.array)
        return super().__eq__(other)

    def __hash__(self) -> int:
        return hash((len(self.names), np.sort(self.array + 0.0).tobytes()))  # of any order; -0.0 is 0.0

    def __repr__(self) -> str:
        return repr(self._dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Scores, (self.names, self.array)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """Units and their scores; a higher score always means "matters more", "breaks first".

    Args:
        scores: unit name -> score, finite. Any order; ties keep this order. `from_array` takes an array instead.
        meaning: what the score says, one phrase ("increase in loss when only this layer is at 2 bits").
        unit: of the score ("nats/token", "relative error", ...).
        by: the locator that made it, as users name it ("rtn-2bit").

    Raises:
        InputError: there are no units, or a score is not a finite number.
    """

    scores: Mapping[str, float]
    meaning: str
    unit: str
    by: str

    def __post_init__(self) -> None:
        if not isinstance(self.scores, _Scores):
            object.__setattr__(self, "scores", _Scores(self.scores, _array(self.scores, self.by)))
        if not self.scores:
            raise InputError(f"a ranking by {self.by} needs at least one unit")
        finite = np.isfinite(self._scores.array)
        if not finite.all():
            place = int(finite.argmin())
            raise InputError(
                f"the score of {self._scores.names[place]} by {self.by} is {self._scores.array[place]}; "
                "scores must be finite numbers"
            )

    @classmethod
    def from_array(
        cls, scores: Any, names: Iterable[str] | None = None, *, meaning: str, unit: str, by: str
    ) -> Ranking:
        """The ranking of many units: tokens, Gaussians, training examples.

        Args:
            scores: (units,), a NumPy array, tensor or sequence of finite numbers.
            names: of the units, each of them once; their places "0", "1", ... if not given.
            meaning, unit, by: as of the class.

        Raises:
            InputError: `scores` has another shape or a value that is not finite, or `names` do not fit.
        """
        try:
            plain = scores.detach().double().cpu().numpy() if hasattr(scores, "detach") else scores
            array = np.array(plain, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"scores by {by} must be numbers: {error}") from None
        if array.ndim != 1:
            raise InputError(f"scores by {by} must be (units,), got {array.shape}")
        named = tuple(map(str, range(len(array))) if names is None else names)
        if len(named) != len(array) or len(set(named)) != len(named):
            raise InputError(
                f"{len(array)} scores by {by} need as many different names, got {len(named)}, {len(set(named))} of "
                "them different"
            )
        return cls(scores=_Scores(named, array), meaning=meaning, unit=unit, by=by)

    @property
    def _scores(self) -> _Scores:
        assert isinstance(self.scores, _Scores)
        return self.scores

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        return f"{len(self)} units by {self.by}"

    def order(self) -> list[str]:
        """All names, the one that matters most first."""
        return self.top(len(self))

    def top(self, k: int) -> list[str]:
        """The `k` names that matter most, first the most important."""
        return self._scores.named(self._scores.descending[: self._count(k)])

    def bottom(self, k: int) -> list[str]:
        """The `k` names that matter least, first the least important."""
        return self._scores.named(self._scores.descending[::-1][: self._count(k)])

    def sample(self, k: int, seed: int) -> list[str]:
        """`k` names at random: the control that any use of `top(k)` is judged against."""
        return random.Random(derive(seed, "ranking-sample")).sample(self._scores.names, self._count(k))

    def shuffled(self, seed: int) -> Ranking:
        """The same scores dealt to the units at random: the control for whatever takes a whole ranking."""
        return self._dealt(self.sample(len(self), seed), f"{self.by}, shuffled with seed {seed}")

    def reversed(self) -> Ranking:
        """The same scores, the highest given to the unit that mattered least: the counter-check."""
        return self._dealt(self.bottom(len(self)), f"{self.by}, reversed")

    def agreement(self, other: Ranking) -> Agreement:
        """Spearman rank correlation over the names both rankings hold.

        Raises:
            InputError: fewer than three names are common, or one ranking gives all of them the same score.
        """
        ours, theirs = self._scores, other._scores
        if ours.names == theirs.names:
            pair = [ours.array, theirs.array]
        else:
            common = [name for name in ours.names if name in theirs]
            pair = [np.array([scores[name] for name in common]) for scores in (ours, theirs)]
        n = len(pair[0])
        if n < 3:
            raise InputError(f"agreement needs 3 common units, {self.by} and {other.by} have {n}")
        for ranking, scores in zip((self, other), pair, strict=True):
            if scores.min() == scores.max():
                raise InputError(f"{ranking.by} gives all {n} common units the same score")
        result: Any = spearmanr(pair[0], pair[1])
        return Agreement(float(result.statistic), float(result.pvalue), n)

    def table(self, k: int | None = None) -> Table:
        """The `k` first units as a rich table; by default all, or the first 100 if there are more, which it says."""
        names, scores = self._first(k)
        table = Table(title=f"by {self.by}: {self.meaning}", title_justify="left")
        table.add_column("#", justify="right")
        table.add_column("unit")
        table.add_column(self.unit, justify="right")
        for place, (name, score) in enumerate(zip(names, scores, strict=True), start=1):
            table.add_row(str(place), name, f"{score:.4g}")
        if k is None and len(names) < len(self):
            table.add_row("", f"and {len(self) - len(names)} more", "")
        return table

    def plot(self, axes: Any, k: int | None = None) -> None:
        """Horizontal bars of the `k` first units on matplotlib `axes`; by default as many as `table` shows."""
        names, scores = self._first(k)
        axes.barh(names[::-1], scores[::-1])
        axes.set_xlabel(f"{self.meaning} [{self.unit}]")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; `Ranking(**ranking.to_dict())` is the same ranking."""
        scores = dict(zip(self._scores.names, self._scores.array.tolist(), strict=True))
        return {"scores": scores, "meaning": self.meaning, "unit": self.unit, "by": self.by}

    def save(self, path: str | Path) -> Path:
        """Write the ranking as a JSON file, atomically, its names and scores as two lists.

        Returns:
            The path.
        """
        record = {
            "format": FORMAT, "version": VERSION, "meaning": self.meaning, "unit": self.unit, "by": self.by,
            "names": self._scores.names, "scores": self._scores.array.tolist(),
        }  # fmt: skip
        write_text(path, json.dumps(record) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Ranking:
        """The ranking that `save` wrote, or that `to_dict` gave to a JSON file.

        Raises:
            InputError: the file is missing, damaged, or no ranking.
        """
        if not Path(path).is_file():
            raise InputError(f"no ranking at {path}")
        record = read_json(path)
        if not isinstance(record, dict) or record.get("format", FORMAT) != FORMAT or "scores" not in record:
            raise InputError(f"{path} is not a ranking of hardy")
        if record.get("version", VERSION) != VERSION:
            raise InputError(f"{path} is a ranking of version {record['version']}; this hardy reads version {VERSION}")
        with reading(path):
            facts = {name: text(name, record[name]) for name in ("meaning", "unit", "by")}
            if "names" in record:
                return cls.from_array(record["scores"], texts("names", record["names"]), **facts)
            return cls(scores=dict(record["scores"]), **facts)

    def _dealt(self, names: list[str], by: str) -> Ranking:
        """The scores, highest first, given to `names` in their order, which is then that of the ranking."""
        scores = _Scores(names, self._scores.array[self._scores.descending])
        return dataclasses.replace(self, scores=scores, by=by)

    def _first(self, k: int | None) -> tuple[list[str], list[float]]:
        """Names and scores of the first `k` units, or of as many as are shown to somebody who did not say."""
        places = self._scores.descending[: self._count(min(len(self), MOST_SHOWN if k is None else k))]
        return self._scores.named(places), self._scores.array[places].tolist()

    def _count(self, k: int) -> int:
        return integer(f"k of {len(self)} units", k, at_least=0, at_most=len(self))


def _array(scores: Mapping[str, float], by: str) -> np.ndarray:
    """The values of a mapping; the error names the one that is no number."""
    numbers_only = all(issubclass(kind, numbers.Real) for kind in set(map(type, scores.values())))
    if not numbers_only:
        for name, score in scores.items():
            if not isinstance(score, numbers.Real):
                raise InputError(f"the score of {name} by {by} is {score!r}; scores must be finite numbers")
    return np.fromiter(scores.values(), np.float64, len(scores))
