"""What a benchmark gives back, and the short way to make its rows."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardy.report import Report, Row


@dataclass(frozen=True)
class Value:
    """One figure: its standard deviation over `n` repetitions, if it has any, and its unit."""

    value: float
    unit: str = ""
    spread: float | None = None
    n: int = 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything a benchmark found.

    Args:
        rows: every figure, controls included.
        settings: what it was measured with, beside the options of the run.
        seeds: of whatever was drawn; empty if nothing was.
        notes: what was left out, and why.
        raw: what the rows were made of, where more than the rows is worth keeping: anything that JSON can hold.
        report: where the benchmark is a study that writes a report itself: its title, summary, figures and settings.
    """

    rows: Sequence[Row]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    notes: Sequence[str] = ()
    raw: Any = None
    report: Report | None = None


def mean_of(values: Sequence[float], unit: str = "") -> Value:
    """Mean and standard deviation of repetitions; one value alone has no spread."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Value(statistics.mean(values), unit, spread, len(values))


def median_of(values: Sequence[float], unit: str = "") -> Value:
    """Median of repetitions, with half the distance between their quartiles: for values with a long tail.

    So a perplexity over chips, whose mean and deviation are those of its worst chip.
    """
    if len(values) < 2:
        return Value(values[0], unit)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Value(middle, unit, (high - low) / 2, len(values))


def rows(
    condition: str,
    details: Mapping[str, float | int | str | bool | None] | None = None,
    /,
    *,
    seeds: Sequence[int] = (),
    baseline: str | None = None,
    **metrics: Value | float | None,
) -> list[Row]:
    """A row for each metric under one condition; None is a metric that this condition does not have."""
    known = {metric: value for metric, value in metrics.items() if value is not None}
    found = {metric: value if isinstance(value, Value) else Value(value) for metric, value in known.items()}
    return [
        Row(
            metric=metric,
            condition=condition,
            value=value.value,
            spread=value.spread,
            n=value.n,
            unit=value.unit,
            seeds=tuple(seeds),
            baseline=baseline,
            details=details or {},
        )
        for metric, value in found.items()
    ]
