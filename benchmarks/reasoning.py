"""Reasoning on a noisy chip: written steps, examples and copied layers on tiny-reasoner, under two kinds of noise.

    python benchmarks/reasoning.py

Every condition has the same ten chip instances and the same held-out problems, ten of each length. Two of six layers
get three copies each, at one of three places. The levels double up to where answers are guesses: a look at one chip
instance, before the first run of this, showed that a narrower grid would not get there.
"""

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import hardy
from hardy.files import write_json
from hardy.studies import reasoning

RESULTS = Path(__file__).parent / "results" / "reasoning.json"
LEVELS: dict[Any, tuple[float, ...]] = {
    "proportional": (0.2, 0.4, 0.8),
    "additive": tuple(math.sqrt(2) * cell for cell in (0.05, 0.1, 0.2)),  # a weight is a pair of cells
}
PROBLEMS = 40
SEEDS = 10


def main(out: Path) -> None:
    begin = time.monotonic()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"problems": PROBLEMS, "seeds": SEEDS, "noises": {}}
    results["card"] = hardy.zoo.card("tiny-reasoner")["held_out"]
    results["versions"] = {"torch": torch.__version__, "hardy": hardy.__version__, "python": sys.version.split()[0]}
    for noise, levels in LEVELS.items():
        report = reasoning(
            noise=noise, levels=levels, problems=PROBLEMS, seeds=SEEDS, workers=1, out=out / noise
        )  # fmt: skip
        report.print(metrics=("accuracy", "tokens", "unfinished"))
        results["noises"][noise] = {
            "levels": list(levels),
            "longest": report.settings["longest"],
            "summary": list(report.summary),
            "arrays": {row.condition: row.value for row in report.select("arrays")},
            "notes": list(report.notes),
        } | {
            metric: {row.condition: {"mean": row.value, "std": row.spread, "n": row.n} for row in report.select(metric)}
            for metric in ("accuracy", "tokens", "unfinished")
        }
        results["seconds"] = time.monotonic() - begin
        write_json(RESULTS, results)  # at once: the next noise takes as long again


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))  # keeps the study there, and goes on from it
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
