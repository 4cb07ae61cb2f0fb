"""Reasoning on a noisy chip: written steps, examples and copied layers on tiny-reasoner, under two kinds of noise.

    python -m benchmarks run reasoning

Every condition has the same ten chip instances and the same held-out problems, ten of each length. Two of six layers
get three copies each, at one of three places. The levels double up to where answers are guesses: a look at one chip
instance, before the first run of this, showed that a narrower grid would not get there.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import hardy
from benchmarks.harness import Result
from hardy.studies import reasoning

LEVELS: dict[Any, tuple[float, ...]] = {
    "proportional": (0.2, 0.4, 0.8),
    "additive": tuple(math.sqrt(2) * cell for cell in (0.05, 0.1, 0.2)),  # a weight is a pair of cells
}
PROBLEMS = 40
SEEDS = 10


def run(*, work: Path) -> Result:
    found, notes, settings = [], [], {"problems": PROBLEMS, "card": hardy.zoo.card("tiny-reasoner")["held_out"]}
    for noise, levels in LEVELS.items():
        report = reasoning(noise=noise, levels=levels, problems=PROBLEMS, n_seeds=SEEDS, workers=1, out=work / noise)
        report.print(metrics=("accuracy", "tokens", "unfinished"))
        found += [dataclasses.replace(row, details={**row.details, "noise": noise}) for row in report.rows]
        notes += report.notes
        settings[noise] = {"levels": list(levels), "summary": list(report.summary), **report.settings}
    return Result(rows=found, settings=settings, seeds=range(SEEDS), notes=notes)
