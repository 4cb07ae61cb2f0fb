"""Placement: analog, copied or digital, matrix by matrix, beside other rules that spend the same energy.

    python -m benchmarks run placement

On tiny-llama all matrices are placed; on real models (HARDY_REAL_MODELS) those that write to the residual stream, the
others being on the chip in no arm. The choice is made on calibration text and chip instances that do not judge.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import NotMeasuredError, Result, rows
from benchmarks.harness.models import real_models
from hardy.core.selection import LINEAR
from hardy.studies import place

CHIP = "reram-wan"
ENERGIES = (0.2, 0.5)
WRITERS = "attention.o,mlp.down"


def run(*, models: str = "", tokens: int = 512, seeds: int = 2, judged: int = 10, kept: str = "") -> Result:
    arms: dict[str, tuple[str, str]] = {"tiny-llama": ("tiny-llama", LINEAR)}
    notes = []
    try:
        arms |= {name: (str(folder), WRITERS) for name, folder in real_models(models).items()}
    except NotMeasuredError as error:
        notes.append(f"Only the zoo's model: {error}.")
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, (model, select) in arms.items():
            for energy in ENERGIES:
                report = place(
                    model, chip=CHIP, energy=energy, n_seeds=seeds, n_judged=judged, select=select, tokens=tokens,
                    window=256, out=Path(kept or temporary) / name, workers=1,
                )  # fmt: skip
                intact = report.value("loss", "unmodified")
                for row in report.select("loss"):
                    where = {"model": name, "budget": energy}
                    facts = {"lost": row.value - intact}
                    for metric in ("energy", "arrays"):
                        if cost := report.select(metric, condition=row.condition):
                            facts[metric] = cost[0].value
                    found += rows(row.condition, where, baseline="unmodified", **facts)
                    print(name, energy, row.condition, facts, flush=True)
    return Result(
        rows=found, settings={"chip": CHIP, "tokens": tokens, "judged": judged}, seeds=range(seeds), notes=tuple(notes)
    )
