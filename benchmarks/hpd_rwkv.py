"""HPD on a published model, an RWKV of bytes, on the language reference of Python, which it never saw.

The noises of hpd.py. Split are the last output projection of its time mixing, a random layer's (another for every chip
instance; the control at equal cost), or all; with the columns scaled (ours) and plain (the paper's); and all by a
Hadamard matrix. The logits are compared with the published ones first. Figures are medians over chips with half the
distance between their quartiles.

    python -m benchmarks run hpd_rwkv
"""

from pydoc_data.topics import topics

import numpy as np
import torch

from benchmarks import rwkv
from benchmarks.harness import SHARED, NotMeasuredError, Result, median_of, rows
from benchmarks.hpd import NOISES, SEEDS
from hardy.analog import Deploy, HybridProjection
from hardy.core.rng import generator
from hardy.evaluate import mean_loss

FOLDER = SHARED / "lm"
WINDOWS, WIDTH = 16, 128


def splits(outputs: list[str], seed: int) -> dict[str, HybridProjection | None]:
    """By name; the random layer is the seed's."""
    random = int(torch.randint(len(outputs) - 1, (), generator=generator(seed, "random layer")))
    found: dict[str, HybridProjection | None] = {"noisy": None}
    for name, chosen in (("last", outputs[-1:]), ("random", [outputs[random]]), ("all output projections", outputs)):
        for columns in ("scaled", "plain"):
            split = HybridProjection(select=tuple(chosen), columns=columns, basis="singular")
            found[f"HPD {name}, {columns}"] = split
    found["all output projections, Hadamard"] = HybridProjection(select=tuple(outputs), basis="hadamard")
    return found


def run() -> Result:
    if not FOLDER.is_dir():
        raise NotMeasuredError(f"the model is not in {FOLDER}")
    model = rwkv.Rwkv(rwkv.read(FOLDER / "tiny-rwkv-5v2-730K-FP32.bin"))
    expected = torch.from_numpy(np.fromfile(FOLDER / "expected-logits-5v2-730K.bin", "<f4"))
    with torch.inference_mode():
        error = (model(torch.tensor([list(b'"in')])).logits[0, -1] - expected).abs().max().item()
        assert error < 1e-4, f"the forward pass is {error} away from the published logits"
        batches = [rwkv.windows("\n".join(topics[name] for name in sorted(topics)), WIDTH, WINDOWS)]
        found = rows("unmodified", perplexity=mean_loss(model, batches).exp().item())
    outputs, raw = [f"layers.{layer}.time.output" for layer in range(len(model.layers))], []
    for noise, strengths in NOISES.items():
        for strength, chip in strengths:
            values: dict[str, list[float]] = {}
            for seed in SEEDS:
                for name, split in splits(outputs, seed).items():
                    change = split.apply(model) if split is not None else None
                    with torch.inference_mode(), Deploy(chip=chip, seed=seed).apply(model):
                        values.setdefault(name, []).append(mean_loss(model, batches).exp().item())
                    if change is not None:
                        change.undo()
            for name, each in values.items():
                median, details = median_of(each), {"noise": noise, "strength": strength}
                found += rows(name, details, seeds=SEEDS, baseline="noisy", perplexity=median)
                raw.append({"condition": name, **details, "perplexity": each})
                print(f"{noise} {strength}: {name}: {median.value:.3f} ± {median.spread:.3f}", flush=True)
    settings = {"bytes": WINDOWS * WIDTH, "largest error of the logits": error}
    return Result(rows=found, settings=settings, seeds=SEEDS, raw={"instances": raw})
