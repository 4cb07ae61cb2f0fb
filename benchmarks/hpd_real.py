"""HPD in a published language model: all its projections on measured ReRAM cells with 8-bit converters.

The published split is of a state space's output projections; here every linear layer but the head is a candidate. As it
is; all split by a Hadamard matrix; and split where that makes the error at the output smaller on calibration text
(`noise=`), by a Hadamard matrix and by singular vectors, their columns scaled. The same ten chip instances for all, so
that gains are paired; text: held-out modules of the standard library.

    HARDY_REAL_MODELS=... python -m benchmarks run hpd_real
"""

import math
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, mean_of, real_models, rows
from hardy.analog import Deploy, HybridProjection
from hardy.core import LINEAR
from hardy.files import read_json, write_json
from hardy.hardware import Chip
from hardy.studies.measure import loss_on
from hardy.zoo import Subject

CHIP = Chip.preset("reram-wan")
GUARD = Deploy(chip=CHIP)
SPLITS: dict[str, HybridProjection | None] = {
    "as it is": None,
    "Hadamard matrix, where it pays": HybridProjection(select=LINEAR, noise=GUARD),
    "singular vectors, where they pay": HybridProjection(select=LINEAR, basis="singular", noise=GUARD),
    "Hadamard matrix, everywhere": HybridProjection(select=LINEAR),
}


def measured(subject: Subject, split: HybridProjection | None, seeds: int) -> dict[str, Any]:
    """Losses over chip instances, and how many layers are split."""
    model, calibration = subject.model, subject.batches("calibration")
    change = None if split is None else split.apply(model, calibration)
    found: dict[str, Any] = {"loss": []}
    if change is not None:
        (row,) = change.report.select("split_layers")
        found |= {"split": row.value, "of": row.details["of"]}
    for seed in range(seeds):
        with Deploy(chip=CHIP, seed=seed).apply(model, calibration, stored=False):
            found["loss"].append(loss_on(model, subject.windows["evaluation"]))
    if change is not None:
        change.undo()
    return found


def run(*, model: str = "smollm2-135m", models: str = "", tokens: int = 512, seeds: int = 10, work: Path) -> Result:
    subject = Subject.of(str(real_models(models)[model]), tokens=tokens, window=256)
    intact = loss_on(subject.model, subject.windows["evaluation"])
    found, raw, plain = rows("unmodified", loss=intact, perplexity=math.exp(intact)), [], []
    for name, split in SPLITS.items():
        file = work / f"{name}.json".replace(" ", "_")
        if not file.is_file():
            work.mkdir(parents=True, exist_ok=True)
            write_json(file, measured(subject, split, seeds))
        cell = read_json(file)
        plain = plain or cell["loss"]
        loss = mean_of(cell["loss"], "nats/token")
        gained = [before - after for before, after in zip(plain, cell["loss"], strict=True)]
        found += rows(
            name, {"layers": cell.get("of")}, seeds=range(seeds), baseline="as it is", loss=loss,
            perplexity=math.exp(loss.value), split_layers=cell.get("split"),
            gained=None if split is None else mean_of(gained, "nats/token"),
        )  # fmt: skip
        raw.append({"condition": name, **cell})
        print(f"{name}: {loss.value:.4f}, {cell.get('split', 0)} split", flush=True)
    settings = {"model": model, "chip": CHIP.to_dict(), "tokens": tokens, "perplexity": "of the mean loss"}
    return Result(rows=found, settings=settings, seeds=range(seeds), raw=raw)
