"""HPD on tiny-mamba: which parts noise hurts, and perplexity under three kinds of noise with and without the split.

    python benchmarks/hpd.py
    python benchmarks/hpd.py rwkv ../shared/data/lm    # the same on a published model, an RWKV of bytes, from outside

Conditions: every projection on the chip as it is; the last output projection split (the paper's choice); the output
projection split that the sensitivity scan ranks first; one of another, random layer, the control at equal cost; all of
them. On the RWKV the last output projection of its time mixing is split, a random layer's, or all. For each with the
columns scaled (ours) and plain (the paper's). Ten chip instances each; figures on the evaluation text, the scan on the
calibration text.
"""

import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rwkv
import torch

import hardy
from hardy.analog import Deploy, HybridProjection, noise_sensitivity
from hardy.core import Ranking
from hardy.core.rng import generator
from hardy.evaluate import mean_loss
from hardy.files import read_json, write_json
from hardy.hardware import AdditiveNoise, Chip, ProportionalNoise
from hardy.hardware.noise import Scale

RESULTS = Path(__file__).parent / "results" / "hpd.json"
SEEDS = range(10)
SCAN_SEEDS = range(100, 103)  # other chip instances than those measured


def _additive(cell: float, relative_to: Scale) -> tuple[float, Chip]:
    """The noise that cells with this much of it give a weight, a pair of them: strength to three digits, and chip."""
    strength = cell * math.sqrt(2)
    return float(f"{strength:.3g}"), Chip.with_noise(AdditiveNoise(strength=strength, relative_to=relative_to))


NOISES = {
    "proportional": [(s, Chip.with_noise(ProportionalNoise(strength=s))) for s in (0.1, 0.3, 0.6)],
    "relative to the tensor's largest weight": [_additive(cell, "tensor-absmax") for cell in (0.02, 0.05)],
    "relative to each output's largest weight": [_additive(cell, "channel-absmax") for cell in (0.05, 0.1)],
    "ReRAM (Wan et al.)": [(1.0, Chip.preset("reram-wan").without_periphery())],
}


def measured(model: Any, batches: list[torch.Tensor], chip: Chip, split: HybridProjection | None) -> dict[str, Any]:
    """Perplexity over chip instances."""
    values = []
    for seed in SEEDS:
        change = split.apply(model) if split is not None else None
        with torch.inference_mode(), Deploy(chip=chip, seed=seed).apply(model):
            values.append(mean_loss(model, batches).exp().item())
        if change is not None:
            change.undo()
    return {"perplexity": statistics.fmean(values), "std": statistics.stdev(values), "instances": values}


def scan(model: Any, batches: list[torch.Tensor], noise: Deploy) -> dict[str, Ranking]:
    """By projection and by block."""
    return {
        unit: noise_sensitivity(model, batches, noise=noise, unit=unit, seeds=SCAN_SEEDS)
        for unit in ("projection", "block")
    }


def main(tokens: int) -> None:
    begin = time.monotonic()
    torch.set_num_threads(1)
    model, tokenizer = hardy.zoo.load("tiny-mamba")
    parts = {
        part: hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(part), window=256, tokens=count)
        for part, count in (("evaluation", tokens), ("calibration", 1024))
    }
    with torch.inference_mode():
        intact = mean_loss(model, parts["evaluation"]).exp().item()
    found: dict[str, Any] = {"unmodified": intact, "tokens": tokens, "noises": {}}
    count = model.config.num_hidden_layers
    for name, strengths in NOISES.items():
        entry: dict[str, Any] = {}
        chip = strengths[len(strengths) // 2][1]
        rankings = scan(model, parts["calibration"], Deploy(chip=chip))
        entry["sensitivity"] = {unit: ranking.to_dict() for unit, ranking in rankings.items()}
        outputs = [part for part in rankings["projection"].order() if part.endswith("out_proj")]
        by_scan, last = outputs[0], f"backbone.layers.{count - 1}.mixer.out_proj"
        random = next(part for part in rankings["projection"].sample(len(rankings["projection"]), 0)
                      if part.endswith("out_proj") and part not in {last, by_scan})  # fmt: skip
        entry["chosen"] = {"last": last, "by sensitivity": by_scan, "random": random}
        entry["strengths"] = {}
        for strength, kind in strengths:
            rows = {"noisy": measured(model, parts["evaluation"], kind, None)}
            for where, site in entry["chosen"].items():
                rows[f"HPD {where}"] = measured(
                    model, parts["evaluation"], kind, HybridProjection(select=site, layers=None)
                )
            for columns in ("scaled", "plain"):
                rows[f"HPD all output projections, {columns}"] = measured(
                    model, parts["evaluation"], kind, HybridProjection(layers=None, columns=columns)
                )
            rows["HPD last, plain"] = measured(model, parts["evaluation"], kind, HybridProjection(columns="plain"))
            rows["HPD every input and output projection, scaled"] = measured(
                model, parts["evaluation"], kind, HybridProjection(select="ssm.in,ssm.out", layers=None)
            )
            for label, row in rows.items():
                print(f"{name} {strength}: {label}: {row['perplexity']:.2f} ± {row['std']:.2f}", flush=True)
            entry["strengths"][str(strength)] = rows
        found["noises"][name] = entry
    inputs = int(model.config.intermediate_size)
    found["cost"] = {"digital MACs per token and layer": int(model.config.hidden_size) * inputs,
                     "SRAM bits per layer": 16 * int(model.config.hidden_size) * inputs}  # fmt: skip
    found["chips"] = {name: [kind.to_dict() for _, kind in entry] for name, entry in NOISES.items()}
    found["versions"] = {"torch": torch.__version__, "hardy": hardy.__version__, "python": sys.version.split()[0]}
    found["seconds"] = time.monotonic() - begin
    kept = read_json(RESULTS).get("rwkv") if RESULTS.is_file() else None
    write_json(RESULTS, found | ({"rwkv": kept} if kept else {}))


def outside(folder: Path, count: int = 16, width: int = 128) -> None:
    """The part on the RWKV, on the language reference of Python, which it never saw; added to the results."""
    from pydoc_data.topics import topics

    begin = time.monotonic()
    torch.set_num_threads(1)
    model = rwkv.Rwkv(rwkv.read(folder / "tiny-rwkv-5v2-730K-FP32.bin"))
    expected = torch.from_numpy(np.fromfile(folder / "expected-logits-5v2-730K.bin", "<f4"))
    with torch.inference_mode():
        error = (model(torch.tensor([list(b'"in')])).logits[0, -1] - expected).abs().max().item()
        assert error < 1e-4, f"the forward pass is {error} away from the published logits"
        batches = [rwkv.windows("\n".join(topics[name] for name in sorted(topics)), width, count)]
        found: dict[str, Any] = {"unmodified": mean_loss(model, batches).exp().item(), "bytes": count * width}
    outputs = [f"layers.{layer}.time.output" for layer in range(len(model.layers))]

    def conditions(seed: int) -> dict[str, HybridProjection | None]:
        random = int(torch.randint(len(outputs) - 1, (), generator=generator(seed, "random layer")))
        splits: dict[str, HybridProjection | None] = {"noisy": None}
        for name, chosen in (
            ("last", outputs[-1:]),
            ("random", [outputs[random]]),
            ("all output projections", outputs),
        ):
            for columns in ("scaled", "plain"):
                splits[f"HPD {name}, {columns}"] = HybridProjection(select=tuple(chosen), layers=None, columns=columns)
        return splits

    found |= {"largest error of the logits": error, "noises": {}}
    for name, strengths in NOISES.items():
        found["noises"][name] = entry = {}
        for strength, chip in strengths:
            values: dict[str, list[float]] = {}
            for seed in SEEDS:
                for label, split in conditions(seed).items():
                    change = split.apply(model) if split is not None else None
                    with torch.inference_mode(), Deploy(chip=chip, seed=seed).apply(model):
                        values.setdefault(label, []).append(mean_loss(model, batches).exp().item())
                    if change is not None:
                        change.undo()
            entry[str(strength)] = {
                label: {"perplexity": statistics.fmean(each), "std": statistics.stdev(each), "instances": each}
                for label, each in values.items()
            }
            for label, row in entry[str(strength)].items():
                print(f"{name} {strength}: {label}: {row['perplexity']:.3f} ± {row['std']:.3f}", flush=True)
    results = read_json(RESULTS)
    write_json(RESULTS, results | {"rwkv": found | {"seconds": time.monotonic() - begin}})


if __name__ == "__main__":
    if sys.argv[1:2] == ["rwkv"]:
        outside(Path(sys.argv[2]))
    else:
        main(2048)
