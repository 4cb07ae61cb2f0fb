"""The page of `hardy teach`: what each arm ends with, at equal samples and at equal seconds, and what was chosen."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hardy.report import Report, Row
from hardy.report.figures import Bars, BarSeries, Lines, Series
from hardy.runs.conditions import Condition, Results, curve
from hardy.teach.drawing import chosen
from hardy.teach.graphs import GraphSet
from hardy.teach.training import metric_of

FULL, RANDOM = "full", "random"
CURVES = ("seconds", "cpu_seconds", "samples", "steps", "metric")
AXES = {"samples": "samples", "cpu_seconds": "CPU seconds"}
_Arms = Mapping[str, Mapping[int, Mapping[str, float]]]
"""The values of each seed of each arm."""
SHOWN = 4
"""Examples that are drawn of those that teach the most, and of those that teach the least."""


def made_report(
    data: GraphSet, model: str, grid: Sequence[Condition], results: Results, settings: Mapping[str, Any]
) -> Report:
    """The page of arms that were trained, of which the first is full training and one is named RANDOM."""
    metric = metric_of(data)
    sign = -1 if metric == "MAE" else 1
    goals = {  # what full training of the same seed ends with
        result.cell.seed: result.values["metric"] for result in results.of(grid[0]) if result.values is not None
    }
    arms = _by_seed(grid, results)
    rows: list[Row] = []
    for arm in grid:
        for name, label, unit in (
            ("metric", metric, ""), ("seconds", "seconds", "s"), ("cpu_seconds", "CPU seconds", "s"),
            ("selection", "selection seconds", "s"), ("samples", "samples", ""), ("steps", "steps", ""),
        ):  # fmt: skip
            row = arm.row(results, lambda values, name=name: values[name], metric=label)
            rows += [] if row is None else [dataclasses.replace(row, unit=unit)]
        finals = dict.fromkeys(key for values in arms[arm.name].values() for key in values if key.startswith("final "))
        for name in finals:
            if (label := name.removeprefix("final ")) != metric:
                row = arm.row(results, lambda values, name=name: _known(values, name), metric=label)
                rows += [] if row is None else [row]
        share = arm.row(results, lambda values: values["selection"] / values["seconds"], metric="selection share")
        contrast = arm.row(results, lambda values: values["contrast"], metric="contrast")
        rows += [row for row in (share, contrast) if row is not None]
        rows += _time_to(arm, results, goals, sign)
    for axis, label in AXES.items():
        equal = {name: _at_equal(arms, name, axis) for name in arms}
        for arm in grid:
            values = equal[arm.name]
            rows += _row(f"{metric} at equal {label}", arm.name, values, arm.baseline)
        for arm, other in ((arm, other) for arm in grid[1:] for other in (FULL, RANDOM) if arm.name != other):
            if other == RANDOM and axis == "samples":
                continue  # the control sees as many samples all along: that is the row "better than random"
            gains = {
                seed: sign * (value - equal[other][seed])
                for seed, value in equal[arm.name].items()
                if seed in equal[other]
            }
            rows += _row(f"better than {other} at equal {label} ({metric})", arm.name, gains, other, judged=True)
    for arm in grid[1:]:
        rows += _differences(arm, arms, metric, sign)
    label = f"{metric} on the test part"
    axes = (
        ("time", "CPU seconds, with selection", "cpu_seconds"), ("samples", "examples seen", "samples"),
        ("steps", "steps", "steps"),
    )  # fmt: skip
    return Report(
        title=f"Teaching {data.name}: {model}, {data.task}",
        summary=_summary(rows, grid, metric),
        rows=(*rows, *results.failures()),
        figures=(
            *(_lines(f"Metric against {to}", x_label, label, "metric", x, grid, results) for to, x_label, x in axes),
            *_saved(rows, grid),
            _overlap(grid, results),
            *_chosen(data, grid, arms),
        ),
        settings=settings,
        notes=(
            "seconds leave out measuring the test part; CPU seconds are those of this process alone",
            "contrast is the mean score of the chosen examples over the mean of all: 1 is what random choice has",
            "at equal samples or seconds: as many as the arm with the fewest has at its end, with the same seed",
            *data.notes,
            *results.notes(),
        ),
    )


def _by_seed(grid: Sequence[Condition], results: Results) -> _Arms:
    return {arm.name: {result.cell.seed: result.values for result in results.of(arm) if result.values} for arm in grid}


def _known(values: Mapping[str, float], name: str) -> float | None:
    value = values.get(name, math.nan)
    return None if math.isnan(value) else value


def _epochs(values: Mapping[str, float]) -> list[int]:
    """Of the checks."""
    return sorted(int(name.partition("@")[2]) for name in values if name.startswith("metric@"))


def _at_equal(arms: _Arms, arm: str, axis: str) -> dict[int, float]:
    """The metric of an arm, seed by seed, where it has had as much of `axis` as the arm with the least of it in all."""
    found = {}
    for seed, values in arms[arm].items():
        end = min(other[seed][axis] for other in arms.values() if seed in other)
        epochs = _epochs(values)
        x, y = ([values[f"{name}@{epoch}"] for epoch in epochs] for name in (axis, "metric"))
        found[seed] = float(np.interp(end, x, y))
    return found


def _row(
    metric: str, arm: str, values: Mapping[int, float], baseline: str | None, *, unit: str = "", judged: bool = False
) -> list[Row]:
    """Mean and spread over seeds; for a difference also the seeds at which two standard errors are below it."""
    if not values:
        return []
    numbers = list(values.values())
    mean, spread = statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None
    details: dict[str, float] = {}
    if judged and spread and mean and math.isfinite(mean):  # an area is NaN where a test part has one class
        details["seeds_needed"] = math.ceil((2 * spread / mean) ** 2)
    return [
        Row(metric=metric, condition=arm, value=mean, spread=spread, n=len(numbers), unit=unit, baseline=baseline,
            seeds=tuple(values), details=details)
    ]  # fmt: skip


def _time_to(arm: Condition, results: Results, goals: Mapping[int, float], sign: int) -> list[Row]:
    """CPU seconds until the metric is first what full training of the same seed ends with, and how many seeds are."""
    found, total = [], 0
    for result in results.of(arm):
        if result.values is None or result.cell.seed not in goals:
            continue
        total += 1
        values = result.values
        epochs = _epochs(values)
        goal = sign * goals[result.cell.seed]
        first = next((epoch for epoch in epochs if sign * values[f"metric@{epoch}"] >= goal), None)
        found += [] if first is None else [values[f"cpu_seconds@{first}"]]
    if not found:
        return []
    return [
        Row(
            metric="CPU seconds to what full training ends with",
            condition=arm.name,
            value=statistics.fmean(found),
            spread=statistics.stdev(found) if len(found) > 1 else None,
            n=len(found),
            unit="s",
            details={"reached": len(found), "seeds": total},
        )
    ]


def _differences(arm: Condition, arms: _Arms, metric: str, sign: int) -> list[Row]:
    """Seed by seed: time and samples saved against full training, and how much better than the others the arm ends."""
    rows = []
    for other in (FULL, RANDOM):
        if other == arm.name:
            continue
        pairs = {seed: (here, arms[other][seed]) for seed, here in arms[arm.name].items() if seed in arms[other]}
        if other == FULL:
            for name, key in (("CPU time saved", "cpu_seconds"), ("samples saved", "samples")):
                saved = {seed: 100 * (1 - here[key] / there[key]) for seed, (here, there) in pairs.items()}
                rows += _row(name, arm.name, saved, other, unit="%")
        gains = {seed: sign * (here["metric"] - there["metric"]) for seed, (here, there) in pairs.items()}
        rows += _row(f"better than {other} ({metric})", arm.name, gains, other, judged=True)
    return rows


def _summary(rows: Iterable[Row], grid: Sequence[Condition], metric: str) -> tuple[str, ...]:
    by = {(row.metric, row.condition): row for row in rows}
    told = []
    for arm in grid[1:]:
        here, saved = by.get((metric, arm.name)), by.get(("CPU time saved", arm.name))
        if here is None or saved is None:
            continue
        full = by[metric, FULL]
        sentence = (
            f"{arm.name}: {metric} {_shown(here)} against {_shown(full)} of full training, in {saved.value:.0f} % less "
            f"CPU time (spread {saved.spread or 0:.0f})"
        )
        if (row := by.get((f"better than random ({metric})", arm.name))) is not None:
            needed, n = row.details.get("seeds_needed"), row.n
            clear = needed is not None and n > 1 and float(needed) <= n
            how = "better" if row.value > 0 else "worse" if row.value else "no better and no worse"
            how += f" by {abs(row.value):.3g}" if row.value else ""
            sentence += f"; than random by the same schedule {how}"
            sentence += ", beyond two standard errors" if clear else f", which {_seeds(n)} not establish"
        told.append(sentence + ".")
    return tuple(told)


def _seeds(count: int) -> str:
    return "1 seed does" if count == 1 else f"{count} seeds do"


def _shown(row: Row) -> str:
    return f"{row.value:.4g}" + (f" ± {row.spread:.2g}" if row.spread is not None else "")


def _lines(
    title: str, x_label: str, y_label: str, y: str, x: str, grid: Sequence[Condition], results: Results
) -> Lines:
    series = []
    for arm in grid:
        points = []
        first = next((result.values for result in results.of(arm) if result.values), {})
        for epoch in sorted(int(name.partition("@")[2]) for name in first if name.startswith(f"{y}@")):
            where = arm.row(results, lambda values, epoch=epoch: values[f"{x}@{epoch}"], metric=x)
            row = arm.row(results, lambda values, epoch=epoch: values[f"{y}@{epoch}"], metric=y)
            if where is not None and row is not None:
                points.append((where.value, row))
        if points:
            series.append(curve(arm.name, points, "dashed" if arm.name == RANDOM else "line"))
    caption = "Mean over seeds; the band is a standard deviation. The grey line is random choice by the same schedule."
    return Lines(title=title, caption=caption, x_label=x_label, y_label=y_label, series=tuple(series))


def _saved(rows: Iterable[Row], grid: Sequence[Condition]) -> tuple[Bars, ...]:
    found = {row.condition: row for row in rows if row.metric == "CPU time saved"}
    names = [arm.name for arm in grid if arm.name in found]
    if not names:
        return ()
    saved = BarSeries(
        label="CPU time saved",
        values=tuple(found[name].value for name in names),
        spread=tuple(found[name].spread or 0.0 for name in names),
    )
    return (
        Bars(
            title="Time saved",
            caption="Against full training of as many epochs, mean and standard deviation over seeds. Random choice by "
            "the same schedule saves what the schedule saves.",
            y_label="CPU time saved [%]",
            groups=tuple(names),
            series=(saved,),
        ),
    )


def _chosen(data: GraphSet, grid: Sequence[Condition], arms: _Arms) -> tuple[Any, ...]:
    """What the first teacher that scores thinks of the examples at its last choice, in the first seed."""
    for arm in grid:
        for values in arms[arm.name].values():
            if "first 0" in values and len(data) > 1:
                return (chosen(data, arm.name, values, SHOWN),)
    return ()


def _overlap(grid: Sequence[Condition], results: Results) -> Lines:
    series = []
    for arm in grid:
        values: Mapping[str, float] = next((result.values for result in results.of(arm) if result.values), {})
        points = sorted((int(name.partition("@")[2]), value) for name, value in values.items() if "overlap@" in name)
        points = [(float(time), value) for time, value in points if not math.isnan(value)]
        if points:
            style = "dashed" if arm.name == RANDOM else "line"
            x, y = zip(*points, strict=True)
            series.append(Series(label=arm.name, x=x, y=y, style=style))
    if not series:
        series = [Series(label="one choice only", x=(0.0,), y=(math.nan,))]
    return Lines(
        title="Selection overlap",
        caption="Of the chosen graphs, the share that was also chosen the time before (first seed).",
        x_label="epoch",
        y_label="share",
        series=tuple(series),
    )
