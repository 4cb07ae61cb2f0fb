"""Full, taught, and taught at random by the same schedule: the same network and data, several seeds, one page."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.report import Report, Row
from hardy.report.figures import Lines, Series
from hardy.runs.checkpoint import digest
from hardy.runs.conditions import Condition, Results, curve
from hardy.runs.study import Study
from hardy.teach import schedules
from hardy.teach.graphs import GraphSet
from hardy.teach.networks import network
from hardy.teach.scores import SCORES
from hardy.teach.selectors import SELECTORS
from hardy.teach.teacher import Teacher
from hardy.teach.training import Training, metric_of, train

FULL, RANDOM = "full", "random"
_CURVES = ("seconds", "cpu_seconds", "samples", "steps", "metric")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is compared.

    Args:
        model: "flexible", "gcn" or "gin".
        selectors: names, compared beside full training and the random control.
        score: a name of `hardy.teach.scores`.
        ratio: a name of `hardy.teach.schedules.RATIOS`.
        start: its first share (the only one of "constant", the last one of "reverse-cosine").
        width: of the network's hidden layers.
        test: share of the graphs that is measured on.
        training: how each arm is trained.

    Raises:
        InputError: a name is unknown or a number out of range.
    """

    model: str = "gin"
    selectors: tuple[str, ...] = ("soft",)
    score: str = "gradient-norm"
    ratio: str = "staircase"
    start: float = 0.05
    width: int = 64
    test: float = 0.2
    training: Training = dataclasses.field(default_factory=Training)

    def __post_init__(self) -> None:
        for name in self.selectors:
            checks.one_of("teacher", name, SELECTORS)
        checks.one_of("score", self.score, SCORES)
        checks.one_of("schedule", self.ratio, schedules.RATIOS)
        checks.number("test", self.test, above=0, below=1)
        self.schedule()

    def schedule(self) -> Any:
        """The ratio's schedule."""
        field = {"constant": "ratio", "reverse-cosine": "end"}.get(self.ratio, "start")
        return schedules.RATIOS[self.ratio](**{field: self.start})

    def teacher(self, selector: str, seed: int) -> Teacher:
        """The teacher of one arm."""
        kind = schedules.CatchingUp if self.training.protocol == "paper" else schedules.Growing
        return Teacher(
            self.training.epochs, selector=selector, score=self.score, ratio=self.schedule(),
            interval=kind(dense=self.start), seed=seed,
        )  # fmt: skip


def run_arm(data: GraphSet, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One training of one arm: what the page is made of, by name and "name@epoch"."""
    training = Training(**arguments["training"])
    plan = Plan(**{**arguments["plan"], "selectors": tuple(arguments["plan"]["selectors"]), "training": training})
    train_ids, test_ids = data.split(plan.test, seed)
    scaled, unit = standardised(data, train_ids)
    net = network(plan.model, scaled, width=plan.width, seed=seed)
    teacher = plan.teacher(arguments["selector"], seed)
    course = train(net, scaled, train_ids, test_ids, teacher, training)
    values = {"selection": course.selection_seconds}
    for name in _CURVES:
        for epoch, value in zip(course.epochs, getattr(course, name), strict=True):
            values[f"{name}@{epoch}"] = value * unit if name == "metric" else value
        values[name] = values[f"{name}@{course.epochs[-1]}"]
    for selection in teacher.selections:
        values |= {f"overlap@{selection.time}": selection.overlap, f"contrast@{selection.time}": selection.contrast}
    values["contrast"] = statistics.fmean(selection.contrast for selection in teacher.selections)
    return values


def standardised(data: GraphSet, train_ids: Sequence[int]) -> tuple[GraphSet, float]:
    """Real labels in standard deviations of the training part around its mean, and that deviation; classes as they are.

    Raises:
        InputError: the labels of the training part are all missing, or all the same.
    """
    if not data.task.endswith("regression"):
        return data, 1.0
    values = torch.cat([data.graphs[i].y for i in train_ids])
    known = values[~values.isnan()]
    if len(known) < 2 or not (deviation := known.std().item()) > 0:
        raise InputError(f"{data.name}: the labels of the training part are missing or all the same")
    graphs = []
    for graph in data.graphs:
        graphs.append(changed := graph.clone())
        changed.y = (graph.y - known.mean()) / deviation
    return dataclasses.replace(data, graphs=graphs), deviation


def experiment(
    data: GraphSet,
    plan: Plan,
    *,
    seeds: int = 3,
    out: str | Path | None = None,
    workers: int | None = 1,
) -> Report:
    """Compare full training, the plan's teachers, and random choice by the same schedule.

    A seed is one split, one start of the network and one order; every arm has the same ones.

    Args:
        data: what is learned.
        plan: how.
        seeds: how many.
        out: a folder; the same call goes on from what is finished there, and leaves report.json, .md and .html.
        workers: processes at once; seconds are comparable only if they do not wait for each other.

    Raises:
        InputError: the folder holds another study, or no arm could be trained.
    """
    checks.integer("seeds", seeds, at_least=1)
    plain = dataclasses.asdict(plan)
    training = plain.pop("training")
    settings = {
        "data": data.name, "task": data.task, "graphs": len(data), "plan": plain, "training": training, "seeds": seeds,
        "digest": digest(tensor for graph in data.graphs for tensor in (graph.x, graph.edge_index, graph.y)),
    }  # fmt: skip
    arms = list(dict.fromkeys((FULL, *plan.selectors, RANDOM)))
    study = Study(
        name="teach", run=run_arm, settings=settings, subject=data, out=None if out is None else Path(out),
        workers=workers,
    )  # fmt: skip
    grid = [
        Condition.of(
            arm,
            {"selector": arm, "plan": plain, "training": training},
            range(seeds),
            baseline=None if arm == FULL else FULL if arm == RANDOM else RANDOM,
        )
        for arm in arms
    ]
    # Seed by seed, so that a machine that slows down slows all arms down, and an interrupt leaves whole seeds.
    results = study.results([cell for cells in zip(*(arm.cells for arm in grid), strict=True) for cell in cells])
    results.needed(grid[0])
    report = _report(data, plan, grid, results, settings)
    if out is not None:
        report.save(Path(out))
    return report


def _report(
    data: GraphSet, plan: Plan, grid: Sequence[Condition], results: Results, settings: Mapping[str, Any]
) -> Report:
    metric = metric_of(data)
    sign = -1 if metric == "MAE" else 1
    goals = {  # what full training of the same seed ends with
        result.cell.seed: result.values["metric"] for result in results.of(grid[0]) if result.values is not None
    }
    rows: list[Row] = []
    for arm in grid:
        for name, label, unit in (
            ("metric", metric, ""), ("seconds", "seconds", "s"), ("cpu_seconds", "CPU seconds", "s"),
            ("selection", "selection seconds", "s"), ("samples", "samples", ""), ("steps", "steps", ""),
        ):  # fmt: skip
            row = arm.row(results, lambda values, name=name: values[name], metric=label)
            rows += [] if row is None else [dataclasses.replace(row, unit=unit)]
        share = arm.row(results, lambda values: values["selection"] / values["seconds"], metric="selection share")
        contrast = arm.row(results, lambda values: values["contrast"], metric="contrast")
        rows += [row for row in (share, contrast) if row is not None]
        rows += _time_to(arm, results, goals, sign)
    for arm in grid[1:]:
        rows += _differences(arm, grid, results, metric, sign)
    label = f"{metric} on the test part"
    return Report(
        title=f"Teaching {data.name}: {plan.model}, {data.task}",
        summary=_summary(rows, grid, metric),
        rows=(*rows, *results.failures()),
        figures=(
            _lines("Metric against time", "CPU seconds, with selection", label, "metric", "cpu_seconds", grid, results),
            _lines("Metric against samples", "graphs that gradients were taken of", label, "metric", "samples", grid,
                   results),
            _overlap(grid, results),
        ),
        settings=settings,
        notes=(
            "seconds leave out measuring the test part; CPU seconds are those of this process alone",
            "contrast is the mean score of the chosen graphs over the mean of all: 1 is what random choice has",
            *results.notes(),
        ),
    )  # fmt: skip


def _time_to(arm: Condition, results: Results, goals: Mapping[int, float], sign: int) -> list[Row]:
    """CPU seconds until the metric is first what full training of the same seed ends with, and how many seeds are."""
    found, total = [], 0
    for result in results.of(arm):
        if result.values is None or result.cell.seed not in goals:
            continue
        total += 1
        values = result.values
        epochs = sorted(int(name.partition("@")[2]) for name in values if name.startswith("metric@"))
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


def _differences(arm: Condition, grid: Sequence[Condition], results: Results, metric: str, sign: int) -> list[Row]:
    """Seed by seed: time saved against full training, and how much better than the random control the arm is."""
    by_seed = {
        condition.name: {result.cell.seed: result.values for result in results.of(condition) if result.values}
        for condition in grid
    }
    rows = []
    pairs = (("CPU time saved", FULL, "%"), ("better than random", RANDOM, ""), ("better than full", FULL, ""))
    for name, other, unit in pairs:
        if other == arm.name:
            continue
        seeds = [seed for seed in by_seed[arm.name] if seed in by_seed[other]]
        here, there = by_seed[arm.name], by_seed[other]
        if unit == "%":
            values = [100 * (1 - here[seed]["cpu_seconds"] / there[seed]["cpu_seconds"]) for seed in seeds]
        else:
            values = [sign * (here[seed]["metric"] - there[seed]["metric"]) for seed in seeds]
        if not values:
            continue
        mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
        details: dict[str, float] = {}
        if spread and mean and unit == "":
            # Two standard errors below the difference itself: what it takes to tell the two apart.
            details["seeds_needed"] = math.ceil((2 * spread / mean) ** 2)
        label = name if unit else f"{name} ({metric})"
        rows.append(
            Row(metric=label, condition=arm.name, value=mean, spread=spread, n=len(values), unit=unit, baseline=other,
                seeds=tuple(seeds), details=details)
        )  # fmt: skip
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
            sentence += (
                f"; than random by the same schedule {'better' if row.value > 0 else 'worse'} by {abs(row.value):.3g}"
            )
            sentence += ", beyond two standard errors" if clear else f", which {n} seeds do not establish"
        told.append(sentence + ".")
    return tuple(told)


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
