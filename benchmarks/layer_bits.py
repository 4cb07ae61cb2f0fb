"""Planes where they matter, with calibrated trit-planes: rankings against uniform planes at equal bytes.

tiny-llama, judged on its held-out evaluation modules; blocks are ranked and planes calibrated on text it was trained
on. One, two or three planes by the ranking, under the budget of two planes everywhere, scales counted. Controls: two
planes everywhere, and rankings in random order. lieq.py does the same with plain planes, and much more of it. Writes
results/layer_bits.json.

    python benchmarks/layer_bits.py
"""

import math
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from quantizers import tiny_llama
from survival import processor

import hardy
from hardy.core.method import ALL_SELECTED, Method
from hardy.files import write_json
from hardy.quant import CalibratedTritPlanes, LayerBits, effective_rank, energy_gain, perplexity_drop

RESULT = Path(__file__).parent / "results" / "layer_bits.json"
PLANES = tuple(CalibratedTritPlanes(planes=planes) for planes in (1, 2, 3))
RANDOM = 5


def main() -> None:
    torch.set_num_threads(1)
    begun, subject, rows = time.monotonic(), tiny_llama(), []
    calibration = subject.calibration[0]

    def measured(name: str, method: Method) -> float:
        with method.apply(subject.model, calibration) as change:
            bits, loss = change.report.value("bits_per_weight", ALL_SELECTED), subject.loss()
        rows.append({"planes": name, "bits_per_weight": bits, "loss": loss, "perplexity": math.exp(loss)})
        print(f"{name:28}{bits:7.3f} bits{loss:9.4f} nats{math.exp(loss):8.2f}", flush=True)
        return bits

    budget = measured("two everywhere", PLANES[1])
    drop = perplexity_drop(subject.model, calibration)
    rankings = {
        "by perplexity drop": drop,
        "by effective rank": effective_rank(subject.model, calibration),
        "by energy gain": energy_gain(subject.model, calibration),
    }
    rankings |= {f"random order {seed}": drop.shuffled(seed) for seed in range(RANDOM)}
    for name, ranking in rankings.items():
        measured(name, LayerBits(budget=budget, low=PLANES[0], between=(PLANES[1],), high=PLANES[2], ranking=ranking))
    random = [row["loss"] for row in rows if row["planes"].startswith("random")]
    result = {
        "command": "python benchmarks/layer_bits.py",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "seconds": round(time.monotonic() - begun, 1),
        "random_order": {"mean": statistics.mean(random), "sd": statistics.stdev(random), "n": RANDOM},
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"{result['seconds']:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
