"""Redundancy on tiny-llama: shallow, middle and deep layers copied, at equal arrays, under three kinds of noise.

    python benchmarks/redundancy.py

Two of eight layers get three copies each, so every condition has as many extra arrays as the others; "all" spends
twice as many, two copies of every layer. Ten chip instances, perplexity on the evaluation text.
"""

import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import hardy
from hardy.analog import Deploy, Redundancy
from hardy.evaluate import mean_loss
from hardy.files import write_json
from hardy.hardware import AdditiveNoise, Chip, ProportionalNoise, model_cost

RESULTS = Path(__file__).parent / "results" / "redundancy.json"
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


def main(tokens: int) -> None:
    begin = time.monotonic()
    torch.set_num_threads(1)
    model: Any
    model, tokenizer = hardy.zoo.load("tiny-llama")
    batches = hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(), window=256, tokens=tokens)
    with torch.inference_mode():
        results: dict[str, Any] = {"unmodified": mean_loss(model, batches).exp().item(), "noises": {}}
    for name, chip in NOISES.items():
        rows = results["noises"][name] = {}
        for label, layers in WHERE.items():
            copies = 2 if label.startswith("all") else 3
            change = Redundancy(copies=copies, layers=layers).apply(model) if layers else None
            arrays = model_cost(model, COUNTED).value("arrays", "all selected weights")
            values = []
            for seed in SEEDS:
                with torch.inference_mode(), Deploy(chip=chip, seed=seed).apply(model):
                    values.append(mean_loss(model, batches).exp().item())
            if change is not None:
                change.undo()
            rows[label] = {"perplexity": statistics.fmean(values), "std": statistics.stdev(values),
                           "arrays": arrays, "instances": values}  # fmt: skip
            print(f"{name}: {label}: {arrays:.0f} arrays, {statistics.fmean(values):.2f} ± "
                  f"{statistics.stdev(values):.2f}", flush=True)  # fmt: skip
    results |= {"tokens": tokens, "seconds": time.monotonic() - begin}
    results["versions"] = {"torch": torch.__version__, "hardy": hardy.__version__, "python": sys.version.split()[0]}
    write_json(RESULTS, results)


if __name__ == "__main__":
    main(1024)
