"""What a study measures and found: cells, the conditions that repeat them, and rows with mean and spread."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from hardy.errors import InputError
from hardy.report import Row, Series

FAILED = "failed cells"
"""Metric of the rows that say of how many cells a condition lacks the figure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One thing to measure: what is done (`arguments`, plain JSON data) under which name, with which seed."""

    condition: str
    arguments: Mapping[str, Any]
    seed: int = 0

    @property
    def key(self) -> str:
        """Name of the cell's file: the same cell has the same key in every run."""
        text = json.dumps([self.condition, self.arguments, self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a cell gave: its `values`, or the `error` that stopped it."""

    cell: Cell
    values: Mapping[str, float] | None
    error: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """A named state of what is measured: the cells that repeat it, and the condition it is judged against.

    `details` are facts for its rows.
    """

    name: str
    cells: tuple[Cell, ...]
    baseline: str | None = None
    details: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        arguments: Mapping[str, Any] | Callable[[int], Mapping[str, Any]],
        seeds: Iterable[int] = (0,),
        **fields: Any,
    ) -> Condition:
        """The condition of one cell for each seed, all with the same `arguments`, or with those of their seed."""
        cells = tuple(
            Cell(condition=name, arguments=arguments(seed) if callable(arguments) else arguments, seed=seed)
            for seed in seeds
        )
        return cls(name=name, cells=cells, **fields)

    def row(
        self,
        results: Results,
        value: Callable[[Mapping[str, float]], float | None],
        *,
        metric: str,
        facts: Sequence[str] | None = (),
        name: str | None = None,
    ) -> Row | None:
        """Mean and sample standard deviation of a figure over the cells that did not fail; None if all did.

        Args:
            results: of a study of these cells.
            value: the figure, from the values of a cell; None where a cell does not have it.
            metric: what it is called.
            facts: values whose means are details of the row; None for all but the "loss" and those of single layers,
                which have a space in their name ("clipped_share model.layers.0").
            name: of the row's condition, if it is not that of the cells.
        """
        measured = [(result.cell.seed, result.values) for result in results.of(self) if result.values]
        pairs = [(seed, figure) for seed, values in measured if (figure := value(values)) is not None]
        if not pairs:
            return None
        figures = [figure for _, figure in pairs]
        names = dict.fromkeys(key for _, values in measured for key in values if key != "loss")
        means = {
            key: statistics.fmean(values[key] for _, values in measured if key in values)
            for key in names
            if (" " not in key if facts is None else key in facts)
        }
        return Row(
            metric=metric,
            condition=self.name if name is None else name,
            value=statistics.fmean(figures),
            spread=statistics.stdev(figures) if len(figures) > 1 and max(figures) < math.inf else None,
            n=len(figures),
            seeds=tuple(seed for seed, _ in pairs),
            baseline=self.baseline,
            details=means | dict(self.details),
        )


def curve(label: str, points: Iterable[tuple[float, Row]], style: Literal["line", "dashed"] = "line") -> Series:
    """A line through rows at their places on the x axis, in that order, with their spread if any of them has one."""
    pairs = sorted(points, key=lambda pair: pair[0])
    spread = tuple(row.spread or 0.0 for _, row in pairs)
    return Series(
        label=label,
        x=tuple(float(x) for x, _ in pairs),
        y=tuple(row.value for _, row in pairs),
        spread=spread if any(spread) else None,
        style=style,
    )


class Results(Sequence[Result]):
    """What the cells of a study gave, in the order asked for; `+` joins those of two grids."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._found = {result.cell.key: result for result in results}
        self._list = list(self._found.values())

    def __getitem__(self, index: Any) -> Any:
        return self._list[index]

    def __len__(self) -> int:
        return len(self._list)

    def __add__(self, other: Results) -> Results:
        return Results([*self, *other])

    def of(self, condition: Condition) -> list[Result]:
        """The results of the condition's cells, in their order."""
        return [self._found[cell.key] for cell in condition.cells]

    def needed(self, condition: Condition) -> None:
        """Raise `InputError`, with the reason, if every cell of `condition` failed: nothing can be said without it."""
        found = self.of(condition)
        if not any(result.values for result in found):
            raise InputError(f"the {condition.name} model could not be measured: {found[0].error}")

    @property
    def failed(self) -> list[Result]:
        """The cells that gave an error."""
        return [result for result in self if result.values is None]

    def failures(self) -> tuple[Row, ...]:
        """For each condition with failed cells a row of their number; `n` counts all its cells. It belongs in a report,
        and makes `hardy` exit with 3."""
        cells: dict[str, list[Result]] = {}
        for result in self:
            cells.setdefault(result.cell.condition, []).append(result)
        counts = {name: sum(result.values is None for result in group) for name, group in cells.items()}
        return tuple(
            Row(metric=FAILED, condition=name, value=count, unit=f"of {len(cells[name])}")
            for name, count in counts.items()
            if count
        )

    def notes(self) -> tuple[str, ...]:
        """What stopped each failed cell."""
        return tuple(
            f"Failed: {result.cell.condition}, seed {result.cell.seed}: {(result.error or '').strip()}"
            for result in self.failed
        )
