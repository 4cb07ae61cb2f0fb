"""HPD on tiny-mamba: which parts noise hurts, and perplexity under three kinds of noise with and without the split.

    python -m benchmarks run hpd

Conditions: every projection on the chip as it is; the last output projection split (the paper's choice); the output
projection split that the sensitivity scan ranks first; one of another, random layer, the control at equal cost; all of
them. With the columns scaled (ours) and plain (the paper's); and all by a Hadamard matrix. Ten chip instances each,
their median with half the distance between the quartiles; figures on the evaluation text, the scan on the calibration
text. hpd_rwkv.py does the same on a published model.
"""

import dataclasses
import math
from typing import Any

import torch

import hardy
from benchmarks.harness import Result, median_of, rows
from hardy.analog import Deploy, HybridProjection, noise_sensitivity
from hardy.core import Ranking
from hardy.evaluate import mean_loss
from hardy.hardware import AdditiveNoise, Chip, ProportionalNoise
from hardy.hardware.noise import Scale

TOKENS = 2048
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


def measured(model: Any, batches: list[torch.Tensor], chip: Chip, split: HybridProjection | None) -> list[float]:
    """Perplexity over chip instances."""
    values = []
    for seed in SEEDS:
        change = split.apply(model) if split is not None else None
        with torch.inference_mode(), Deploy(chip=chip, seed=seed).apply(model):
            values.append(mean_loss(model, batches).exp().item())
        if change is not None:
            change.undo()
    return values


def scan(model: Any, batches: list[torch.Tensor], noise: Deploy) -> dict[str, Ranking]:
    """By projection and by block."""
    return {
        unit: noise_sensitivity(model, batches, noise=noise, unit=unit, seeds=SCAN_SEEDS)
        for unit in ("projection", "block")
    }


def conditions(count: int, outputs: list[str], drawn: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Which output projections are split alone, and every split by name.

    Args:
        count: of layers.
        outputs: output projections, the most sensitive first.
        drawn: all projections in random order.
    """
    last, by_scan = f"backbone.layers.{count - 1}.mixer.out_proj", outputs[0]
    random = next(part for part in drawn if part.endswith("out_proj") and part not in {last, by_scan})
    chosen = {"last": last, "by sensitivity": by_scan, "random": random}
    splits: dict[str, Any] = {"noisy": None}
    singular = HybridProjection(basis="singular")
    splits |= {f"HPD {where}": dataclasses.replace(singular, select=site) for where, site in chosen.items()}
    for columns in ("scaled", "plain"):
        splits[f"HPD all output projections, {columns}"] = dataclasses.replace(singular, columns=columns)
    splits["HPD last, plain"] = dataclasses.replace(singular, layers="last", columns="plain")
    splits["HPD every input and output projection, scaled"] = dataclasses.replace(singular, select="ssm.in,ssm.out")
    splits["all output projections, Hadamard"] = HybridProjection(basis="hadamard")
    return chosen, splits


def run() -> Result:
    model, tokenizer = hardy.zoo.load("tiny-mamba")
    parts = {
        part: hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(part), window=256, tokens=count)
        for part, count in (("evaluation", TOKENS), ("calibration", 1024))
    }
    with torch.inference_mode():
        found = rows("unmodified", perplexity=mean_loss(model, parts["evaluation"]).exp().item())
    raw: dict[str, Any] = {"sensitivity": {}, "chosen": {}, "instances": []}
    for noise, strengths in NOISES.items():
        rankings = scan(model, parts["calibration"], Deploy(chip=strengths[len(strengths) // 2][1]))
        raw["sensitivity"][noise] = {unit: ranking.to_dict() for unit, ranking in rankings.items()}
        ranked = rankings["projection"]
        outputs = [part for part in ranked.order() if part.endswith("out_proj")]
        chosen, splits = conditions(model.config.num_hidden_layers, outputs, ranked.sample(len(ranked), 0))
        raw["chosen"][noise] = chosen
        for strength, chip in strengths:
            details = {"noise": noise, "strength": strength}
            for name, split in splits.items():
                values = measured(model, parts["evaluation"], chip, split)
                median = median_of(values)
                found += rows(name, details, seeds=SEEDS, baseline="noisy", perplexity=median)
                raw["instances"].append({"condition": name, **details, "perplexity": values})
                print(f"{noise} {strength}: {name}: {median.value:.2f} ± {median.spread:.2f}", flush=True)
    inputs, outside = int(model.config.intermediate_size), int(model.config.hidden_size)
    settings = {
        "tokens": TOKENS,
        "cost": {
            "digital MACs per token and layer": outside * inputs,
            "SRAM bits per layer": 16 * outside * inputs,
        },
        "chips": {name: [chip.to_dict() for _, chip in strengths] for name, strengths in NOISES.items()},
    }
    return Result(rows=found, settings=settings, seeds=SEEDS, raw=raw)
