"""Placement: analog, copied or digital, matrix by matrix, beside other rules that spend the same energy.

On tiny-llama all matrices are placed; on real models (HARDY_REAL_MODELS) those that write to the residual stream, the
others being on the chip in no arm. The choice is made on calibration text and chip instances that do not judge; all
placements are judged on the same ten instances. What is measured is kept, and the same command goes on from there.
`-bits` is on the same cells with eight levels, where a weight may be in two pairs of cells.

    python -m benchmarks run placement
    python -m benchmarks run placement-bits
    python -m benchmarks run placement-smollm2      (or -gemma3)
"""

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, Value, real_models, rows
from hardy import zoo
from hardy.core.selection import LINEAR
from hardy.hardware import Chip
from hardy.studies import place

CHIP = "reram-wan"
ENERGIES = (0.2, 0.5)
WRITERS = "attention.o,mlp.down"


def run(*, model: str = "tiny-llama", models: str = "", tokens: int = 512, seeds: int = 2, judged: int = 10,
        levels: int = 0, work: Path) -> Result:  # fmt: skip
    """`levels`: of a cell, which a weight may then have two of; 0 for cells that hold any conductance."""
    real = model not in zoo.names()
    source, select = (str(real_models(models)[model]), WRITERS) if real else (model, LINEAR)
    chip = dataclasses.replace(Chip.preset(CHIP), cell_levels=levels or None)
    found: list[Any] = []
    for energy in ENERGIES:  # one study: what a matrix alone costs is measured once
        report = place(
            source, chip=chip, energy=energy, slices=(2,) if levels else (), n_seeds=seeds, n_judged=judged,
            select=select, tokens=tokens, window=256, out=work / "study", workers=1,
        )  # fmt: skip
        intact = report.value("loss", "unmodified")
        for row in report.select("loss"):
            facts: dict[str, Any] = {"lost": Value(row.value - intact, "nats/token", row.spread, row.n)}
            for metric in ("energy", "arrays", "digital_matrices", "copied_matrices", "sliced_matrices"):
                if of_placement := report.select(metric, condition=row.condition):
                    facts[metric] = of_placement[0].value
            details = {"model": model, "budget": energy}
            found += rows(row.condition, details, seeds=row.seeds, baseline="unmodified", **facts)
            print(f"{energy}: {row.condition}: {row.value - intact:+.4f}", flush=True)
    return Result(rows=found, settings={"chip": chip.to_dict(), "tokens": tokens, "judged": judged}, seeds=range(seeds))
