"""Full, taught, and taught at random by the same schedule: the same network and data, several seeds, one page."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.report import Report
from hardy.runs.checkpoint import digest
from hardy.runs.conditions import Condition
from hardy.runs.study import Study
from hardy.teach import schedules
from hardy.teach.graphs import GraphSet, Task
from hardy.teach.networks import network
from hardy.teach.page import CURVES, FULL, RANDOM, SHOWN, made_report
from hardy.teach.scores import SCORES
from hardy.teach.selectors import SELECTORS, Batch, Proportional, Selector
from hardy.teach.teacher import Teacher
from hardy.teach.training import Protocol, Training, train


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
        orders: of the flexible GCN's layers, powers of the adjacency that each sees, that of 0 included.
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
    orders: tuple[int, ...] = (3, 2)
    test: float = 0.2
    training: Training = dataclasses.field(default_factory=Training)

    def __post_init__(self) -> None:
        for name in self.selectors:
            checks.one_of("teacher", name, SELECTORS)
        checks.one_of("score", self.score, SCORES)
        checks.one_of("schedule", self.ratio, schedules.RATIOS)
        checks.number("test", self.test, above=0, below=1)
        for order in self.orders:
            checks.integer("orders", order, at_least=1)
        self.schedule()

    @classmethod
    def of_protocol(
        cls,
        protocol: Protocol | str,
        task: Task | str,
        *,
        training: Mapping[str, Any] = MappingProxyType({}),
        **fields: Any,
    ) -> Plan:
        """The defaults of a protocol, with other fields of `Training` and of the plan.

        "minibatch" has those of the classes, and 200 epochs. "paper" has GraNT's for its generated sets (arXiv
        2505.14170, the table in its code): flexible GCN of width 10, learning rate 2e-4, one step each epoch, batches
        and proportions. Regression: 250 epochs, orders 3 and 2, batches of 100; classification: 500, 4 and 3, 200.

        Raises:
            InputError: a name is unknown or a number out of range.
        """
        if checks.one_of("protocol", protocol, get_args(Protocol)) == "minibatch":
            return cls(training=Training(**{"epochs": 200, **training}), **fields)
        regression = str(task).endswith("regression")
        steps = {"epochs": 250, "batch_size": 100} if regression else {"epochs": 500, "batch_size": 200}
        defaults = {
            "model": "flexible", "selectors": ("batch", "proportional"), "width": 10,
            "orders": (3, 2) if regression else (4, 3),
        }  # fmt: skip
        made = Training(**{**steps, "learning_rate": 2e-4, "protocol": "paper"} | dict(training))
        return cls(training=made, **{**defaults, **fields})

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Plan:
        """The plan whose `dataclasses.asdict` this is, or was before it was JSON."""
        lists = {name: tuple(record[name]) for name in ("selectors", "orders")}
        return cls(**{**record, **lists, "training": Training(**record["training"])})

    def schedule(self) -> Any:
        """The ratio's schedule."""
        field = {"constant": "ratio", "reverse-cosine": "end"}.get(self.ratio, "start")
        return schedules.RATIOS[self.ratio](**{field: self.start})

    def teacher(self, selector: str, seed: int) -> Teacher:
        """The teacher of one arm."""
        paper, epochs = self.training.protocol == "paper", self.training.epochs
        interval = schedules.CatchingUp(dense=self.start) if paper else schedules.Growing.within(epochs, self.start)
        size = self.training.batch_size
        sized: dict[str, Selector] = {"batch": Batch(size=size), "proportional": Proportional(size=size)}
        return Teacher(
            epochs, selector=sized.get(selector, selector), score=self.score, ratio=self.schedule(), interval=interval,
            seed=seed,
        )  # fmt: skip


def run_arm(data: GraphSet, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One training of one arm: what the page is made of, by name and "name@epoch"."""
    plan = Plan.of_record(arguments["plan"])
    return lesson(data, plan, seed, lambda *_: plan.teacher(arguments["selector"], seed))


def lesson(
    data: GraphSet, plan: Plan, seed: int, teacher_of: Callable[[GraphSet, Sequence[int]], Teacher]
) -> dict[str, float]:
    """One training with the split, the start and the order of `seed`.

    Args:
        data: what is learned.
        plan: of network and training; its selectors do not matter here.
        seed: of everything.
        teacher_of: the teacher, made of the data as they are learned (real labels in standard deviations) and of the
            ids that are measured on.
    """
    train_ids, test_ids = data.split(plan.test, seed)
    scaled, unit = standardised(data, train_ids)
    net = network(plan.model, scaled, width=plan.width, orders=plan.orders, seed=seed)
    teacher = teacher_of(scaled, test_ids)
    course = train(net, scaled, train_ids, test_ids, teacher, plan.training)
    values = {"selection": course.selection_seconds}
    for name in CURVES:
        for epoch, value in zip(course.epochs, getattr(course, name), strict=True):
            values[f"{name}@{epoch}"] = value * unit if name == "metric" else value
        values[name] = values[f"{name}@{course.epochs[-1]}"]
    values |= {f"final {name}": value * unit for name, value in course.final.items()}
    for selection in teacher.selections:
        values |= {f"overlap@{selection.time}": selection.overlap, f"contrast@{selection.time}": selection.contrast}
    values["contrast"] = statistics.fmean(selection.contrast for selection in teacher.selections)
    if teacher.scores is not None:
        order = teacher.scores.argsort(descending=True, stable=True)[:SHOWN].tolist()
        ends = {"first": order[:SHOWN], "last": teacher.scores.argsort(stable=True)[:SHOWN].tolist()}
        for end, places in ends.items():
            for rank, place in enumerate(places):
                values |= {f"{end} {rank}": train_ids[place], f"{end} {rank} score": teacher.scores[place].item()}
    return values


def standardised(data: GraphSet, train_ids: Sequence[int]) -> tuple[GraphSet, float]:
    """Real labels in standard deviations of the training part around its mean, and that deviation; classes as they are.

    Raises:
        InputError: the labels of the training part are all missing, or all the same.
    """
    if not data.task.endswith("regression"):
        return data, 1.0
    alone = len(data) == 1
    values = data.graphs[0].y[list(train_ids)] if alone else torch.cat([data.graphs[i].y for i in train_ids])
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
    settings = {
        "data": data.name, "task": data.task, "graphs": len(data), "plan": dataclasses.asdict(plan), "seeds": seeds,
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
            {"selector": arm, "plan": settings["plan"]},
            range(seeds),
            baseline=None if arm == FULL else FULL if arm == RANDOM else RANDOM,
        )
        for arm in arms
    ]
    # Seed by seed, so that a machine that slows down slows all arms down, and an interrupt leaves whole seeds.
    results = study.results([cell for cells in zip(*(arm.cells for arm in grid), strict=True) for cell in cells])
    results.needed(grid[0])
    report = made_report(data, plan.model, grid, results, settings)
    if out is not None:
        report.save(Path(out))
    return report
