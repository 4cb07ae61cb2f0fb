"""Redundancy on tiny-llama: shallow, middle and deep layers copied, at equal arrays, under three kinds of noise.

    python -m benchmarks run redundancy

Two of eight layers get three copies each, so every condition has as many extra arrays as the others; "all" spends
twice as many, two copies of every layer. Ten chip instances, their median perplexity on the evaluation text with half
the distance between the quartiles.
"""

import math
from typing import Any

import torch

import hardy
from benchmarks.harness import Result, median_of, rows
from hardy.analog import Deploy, Redundancy
from hardy.evaluate import mean_loss
from hardy.hardware import AdditiveNoise, Chip, ProportionalNoise, model_cost

TOKENS = 1024
SEEDS = range(10)
COUNTED = Chip.preset("reram-wan")  # 256 x 256 tiles
NOISES = {
    "proportional 0.3": Chip.with_noise(ProportionalNoise(strength=0.3)),
    # 5 % of each cell, of which a weight is a pair.
    "additive 7.07 % of each output's largest weight": Chip.with_noise(AdditiveNoise(strength=0.05 * math.sqrt(2))),
    "ReRAM (Wan et al.) with 0.5 % of cells stuck": Chip(
        device=COUNTED.device, tile_rows=256, tile_columns=256, stuck_low=0.0025, stuck_high=0.0025, read_noise=0.0
    ),
}
WHERE = {"none": None, "shallow": "0:2", "middle": "3:5", "deep": "6:8", "random": "1,5", "all, two copies": ":"}


def run() -> Result:
    model: Any
    model, tokenizer = hardy.zoo.load("tiny-llama")
    batches = hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(), window=256, tokens=TOKENS)
    with torch.inference_mode():
        found = rows("unmodified", perplexity=mean_loss(model, batches).exp().item())
    raw = []
    for noise, chip in NOISES.items():
        for name, layers in WHERE.items():
            copies = 2 if name.startswith("all") else 3
            change = Redundancy(copies=copies, layers=layers).apply(model) if layers else None
            arrays = model_cost(model, COUNTED).value("arrays", "all selected weights")
            values = []
            for seed in SEEDS:
                with torch.inference_mode(), Deploy(chip=chip, seed=seed).apply(model):
                    values.append(mean_loss(model, batches).exp().item())
            if change is not None:
                change.undo()
            median = median_of(values)
            found += rows(name, {"noise": noise, "arrays": arrays}, seeds=SEEDS, baseline="none", perplexity=median)
            raw.append({"condition": name, "noise": noise, "perplexity": values})
            print(f"{noise}: {name}: {arrays:.0f} arrays, {median.value:.2f} ± {median.spread:.2f}", flush=True)
    return Result(rows=found, settings={"tokens": TOKENS}, seeds=SEEDS, raw=raw)
