"""How far to trust calibration text: calibrated planes by their damping, on the kind of text they saw and on another.

The texts of `benchmarks.real_quantizers` ("own + prose": 4,096 tokens of the model's own samples and 4,096 of
WikiText-2's validation text; judged on WikiText-2's test text and on Python's language reference, a kind that nothing
is calibrated on; embedding and head at 8 bits), for two calibrated planes, corrected and not rotated. A stronger
damping follows the error less far along directions that few tokens of the calibration text have.

    HARDY_REAL_MODELS=... python -m benchmarks run damping
"""

import dataclasses
from pathlib import Path

from benchmarks.harness import NotMeasuredError, Result, real_models, rows
from benchmarks.real_quantizers import OWN_AND_PROSE, Arm, Bench
from hardy.quant import CalibratedTritPlanes
from hardy.report import Row

DAMPINGS = (0.01, 0.1, 0.3)


def run(*, models: str = "", tokens: int = 2048, only: str = "smollm2-135m", work: Path | None = None) -> Result:
    """
    Args:
        models: folders, as HARDY_REAL_MODELS.
        tokens: of each text.
        only: names of models, with commas between them.
        work: where finished arms are kept.
    """
    assert work is not None
    work.mkdir(parents=True, exist_ok=True)
    found: list[Row] = []
    for name, folder in real_models(models).items():
        if name not in only.split(","):
            continue
        bench = Bench(name, folder, work, tokens)
        intact = bench.kept(f"unmodified-{tokens}", lambda bench=bench: bench.measure(bench.intact()))
        details = {"model": name, "tokens_judged": tokens}
        found += rows("unmodified", details, seeds=(0,), **intact)
        arm = Arm(CalibratedTritPlanes(correction=0.3), OWN_AND_PROSE)
        for damping in DAMPINGS:
            spec = dataclasses.replace(arm, method=dataclasses.replace(arm.method, damping=damping))
            (line,) = bench.lines(f"damping {damping:g}", spec)
            line.pop("embedding_bits")
            print(f"{name} damping {damping:g}: {line}", flush=True)
            found += rows(f"damping {damping:g}", details | {"damping": damping}, seeds=(0,), **line)
    if not found:
        raise NotMeasuredError(f"none of {only} is among the models")
    return Result(rows=found, seeds=[0])
