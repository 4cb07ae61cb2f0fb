"""Placement: analog, copied or digital, matrix by matrix, beside other rules that spend the same energy.

On tiny-llama all matrices are placed; on real models (HARDY_REAL_MODELS) those that write to the residual stream, the
others being on the chip in no arm. The choice is made on calibration text and chip instances that do not judge; all
placements are judged on the same ten instances. What is measured is kept, and the same command goes on from there.

    python -m benchmarks run placement
    python -m benchmarks run placement-smollm2      (or -gemma3)
"""

from pathlib import Path
from typing import Any

from benchmarks.harness import Result, Value, real_models, rows
from hardy import zoo
from hardy.core.selection import LINEAR
from hardy.studies import place

CHIP = "reram-wan"
ENERGIES = (0.2, 0.5)
WRITERS = "attention.o,mlp.down"


def run(*, model: str = "tiny-llama", models: str = "", tokens: int = 512, seeds: int = 2, judged: int = 10, work: Path,
) -> Result:  # fmt: skip
    real = model not in zoo.names()
    source, select = (str(real_models(models)[model]), WRITERS) if real else (model, LINEAR)
    found: list[Any] = []
    for energy in ENERGIES:  # one study: what a matrix alone costs is measured once
        report = place(
            source, chip=CHIP, energy=energy, n_seeds=seeds, n_judged=judged, select=select, tokens=tokens, window=256,
            out=work / "study", workers=1,
        )  # fmt: skip
        intact = report.value("loss", "unmodified")
        for row in report.select("loss"):
            facts: dict[str, Any] = {"lost": Value(row.value - intact, "nats/token", row.spread, row.n)}
            for metric in ("energy", "arrays", "digital_matrices", "copied_matrices"):
                if of_placement := report.select(metric, condition=row.condition):
                    facts[metric] = of_placement[0].value
            details = {"model": model, "budget": energy}
            found += rows(row.condition, details, seeds=row.seeds, baseline="unmodified", **facts)
            print(f"{energy}: {row.condition}: {row.value - intact:+.4f}", flush=True)
    return Result(rows=found, settings={"chip": CHIP, "tokens": tokens, "judged": judged}, seeds=range(seeds))
