"""GraNT's four kinds of task and its own protocol: without, batches (B), proportions (S), and random by the schedule.

Generated as in the paper (product graphon, uniform features, labels of a random graph convolution, without noise):
3000 graphs, here of 10 to 29 nodes where the paper has 50 to 149 and 50,000 graphs; a fifth is tested on. Flexible GCN,
one step of AdamW an epoch on all chosen graphs, GraNT's orders, widths, schedule, intervals and batches (those of its
generated sets at both levels, graphs and nodes). Epochs are fewer than its 250 and 500, and the learning rate is higher
than its 2e-4 (`--rate 2e-4`), which is too low for so few steps on so few graphs; it was chosen on graphs of another
seed.

Beside each saving stands what the schedule alone gives: 1 - mean share - choosing / full training. The paper's: 31 to
47 % less time with batches, 30 % with proportions; no random control.

    python -m benchmarks run teach_paper
"""

import dataclasses
from pathlib import Path

from benchmarks.harness import Result, Value, rows
from hardy.report import Row
from hardy.teach import graphs
from hardy.teach.experiment import Plan, experiment

PEERS = ("torch-geometric",)


def law(found: list[Row], task: str) -> list[Row]:
    """The saving that the schedule gives by arithmetic, beside the measured one."""
    by = {(row.metric, row.condition): row.value for row in found}
    full = by["seconds", f"{task}: full"]
    made = []
    for (metric, condition), saved in by.items():
        if metric == "samples saved":
            choosing = 100 * by["selection seconds", condition] / full
            details = {"task": task, "arm": condition.removeprefix(f"{task}: ")}
            made += rows(condition, details, saving_by_the_law=Value(saved - choosing, "%"))
    return made


def run(
    *, count: int = 3000, epochs: int = 120, rate: float = 5e-3, seeds: int = 2,
    tasks: str = ",".join(graphs.TASKS), work: Path,
) -> Result:  # fmt: skip
    found: list[Row] = []
    notes, settings = [], {}
    for task in tasks.split(","):
        data = graphs.generated(task, count, nodes=(10, 29))  # pyright: ignore[reportArgumentType] - checked there
        plan = Plan.of_protocol("paper", data.task, training={"epochs": epochs, "learning_rate": rate})
        report = experiment(data, plan, seeds=seeds, out=work / task)
        print(*report.summary, sep="\n", flush=True)
        of_task = [
            dataclasses.replace(
                row,
                condition=f"{task}: {row.condition}",
                baseline=None if row.baseline is None else f"{task}: {row.baseline}",
                details={**row.details, "task": task, "arm": row.condition},
            )
            for row in report.rows
        ]
        found += [*of_task, *law(of_task, task)]
        notes += [f"{task}: {sentence}" for sentence in report.summary]
        settings[task] = dict(report.settings)
    return Result(rows=found, settings=settings, seeds=range(seeds), notes=notes)
