"""Teaching graph networks (GraNT): full, soft, hard and, by the same schedule, random; same seeds, honest metrics.

Controls: full training, and random choice of as many graphs at the same times. Made graphs have labels without noise;
MUTAG and PTC (beside the checkout) have real ones. The published saving is what the schedule alone gives: the mean
ratio is about half.

    python -m benchmarks run teach
"""

import dataclasses
from pathlib import Path

from benchmarks.harness import SHARED, NotMeasuredError, Result
from hardy.errors import InputError
from hardy.teach import graphs
from hardy.teach.experiment import Plan, experiment
from hardy.teach.training import Training

PEERS = ("torch-geometric",)


def run(*, made: int = 200, epochs: int = 30, seeds: int = 5, sets: str = "made,MUTAG", work: Path) -> Result:
    plan = Plan(selectors=("soft", "hard"), width=32, training=Training(epochs=epochs, batch_size=32, checks=15))
    found, notes, settings = [], [], {}
    try:
        for name in sets.split(","):
            if name == "made":
                data = graphs.generated("graph-regression", made, nodes=(8, 16), features=10)
            elif (file := SHARED / "graphs" / f"{name}.txt").is_file():
                data = graphs.read(file)
            else:
                notes.append(f"{name} was not measured: its file is not beside the checkout")
                continue
            report = experiment(data, plan, seeds=seeds, out=work / name)
            print(*report.summary, sep="\n", flush=True)
            found += [
                dataclasses.replace(
                    row,
                    condition=f"{data.name}: {row.condition}",
                    baseline=None if row.baseline is None else f"{data.name}: {row.baseline}",
                )
                for row in report.rows
            ]
            notes += [f"{data.name}: {sentence}" for sentence in report.summary]
            settings[name] = dict(report.settings)
    except InputError as error:
        if "torch-geometric" in str(error):
            raise NotMeasuredError(str(error)) from error
        raise
    return Result(rows=found, settings=settings, seeds=range(seeds), notes=notes)
