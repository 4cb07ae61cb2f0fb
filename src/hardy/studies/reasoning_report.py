"""What a reasoning study found: rows, paired differences in words, and curves against noise."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.report import Row
from hardy.report.figures import Lines
from hardy.runs.conditions import Condition, Results, curve

ONCE = "each layer once"
THIRDS = ("shallow", "middle", "deep")
METRICS = ("accuracy", "tokens", "unfinished")
COMPARED = ("direct", "steps")
"""The ways of asking that are measured with copies too."""

Grid = Mapping[tuple[str, str], Condition]


def condition(way: str, place: str, level: str) -> str:
    """The name of a row's condition; no `level` means no noise."""
    parts = (way.replace("_", ", "), "" if place == ONCE else f"{place} copied", level or "no noise")
    return ", ".join(part for part in parts if part)


def _each(metric: str, way: str, group: Condition | None, results: Results) -> dict[int, float]:
    """The figure on each chip instance that was measured."""
    name, found = f"{way}.{metric}", [] if group is None else results.of(group)
    return {result.cell.seed: result.values[name] for result in found if result.values and name in result.values}


def row_of(metric: str, way: str, place: str, level: str, group: Condition, results: Results) -> Row | None:
    """Mean and standard deviation over the chip instances that were measured; None if none was."""
    baseline = condition(way, ONCE, "") if level else None
    named = dataclasses.replace(group, baseline=baseline)
    figure = f"{way}.{metric}"
    return named.row(results, lambda values: values.get(figure), metric=metric, name=condition(way, place, level))


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float]:
    """Mean of first - second over the chip instances in both, and its standard error (0 for one instance).

    Raises:
        InputError: no instance is in both.
    """
    pairs = [first[seed] - second[seed] for seed in first if seed in second]
    if not pairs:
        raise InputError("no chip instance was measured under both conditions")
    return statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0


def _compared(first: Mapping[int, float], second: Mapping[int, float], where: str) -> str | None:
    if not first.keys() & second.keys():
        return None
    mean, error = difference(first, second)
    return f"{mean:+.3f}{f' ± {error:.3f}' if error else ''} {where}"


def sentences(
    ways: Sequence[str], chips: Mapping[str, Chip], places: Mapping[str, Any], grid: Grid, results: Results
) -> list[str]:
    """Differences in accuracy, paired by chip instance, with standard errors."""

    def accuracy(way: str, place: str, level: str) -> dict[int, float]:
        return _each("accuracy", way, grid.get((place, level)), results)

    found = []
    levels = ("", *chips)
    for first, second in (("steps", "direct"), ("examples_direct", "direct"), ("examples_steps", "steps")):
        if first in ways and second in ways:
            parts = [_compared(accuracy(first, ONCE, level), accuracy(second, ONCE, level), level or "without noise")
                     for level in levels]  # fmt: skip
            found.append(f"Accuracy, {first} minus {second}: {', '.join(filter(None, parts))}.")
    for way in ways:
        if way in COMPARED and len(places) > 1:
            for level in chips:
                parts = [_compared(accuracy(way, place, level), accuracy(way, ONCE, level), place) for place in THIRDS]
                found.append(f"Accuracy that copies add to {way}, {level}: {', '.join(filter(None, parts))}.")
    return found


def figures(rows: Sequence[Row], ways: Sequence[str], chips: Mapping[str, Chip], numbered: bool) -> tuple[Lines, ...]:
    """Accuracy, length and unfinished answers against noise; accuracy by where copies are."""
    found = {(row.metric, row.condition): row for row in rows}
    x_of = {level: float(level.split()[-1]) if numbered else 1.0 for level in chips}

    def lines(metric: str, title: str, label: str, series: Sequence[tuple[str, str]]) -> Lines:
        drawn = []
        for way, place in series:
            at = [(0.0, condition(way, ONCE, "")), *((x, condition(way, place, level)) for level, x in x_of.items())]
            points = [(x, found[metric, name]) for x, name in at if (metric, name) in found]
            drawn.append(curve(condition(way, place, "").removesuffix(", no noise"), points))
        x_label = "noise (standard deviation)" if numbered else "0: no noise, 1: on the chip"
        return Lines(title=title, caption="Mean and standard deviation over chip instances.", x_label=x_label,
                     y_label=label, series=tuple(drawn))  # fmt: skip

    asked = [(way, ONCE) for way in ways]
    drawn = [
        lines("accuracy", "Right answers", "share of problems", asked),
        lines("tokens", "Length of answers", "tokens", asked),
        lines("unfinished", "Answers without an end or a number", "share of problems", asked),
    ]
    for way in ways:
        series = [(way, place) for place in (ONCE, *THIRDS)]
        if way in COMPARED and any(("accuracy", condition(way, THIRDS[0], level)) in found for level in chips):
            drawn.append(lines("accuracy", f"Right answers with copies, {way}", "share of problems", series))
    return tuple(drawn)
