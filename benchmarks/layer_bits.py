"""Planes where they matter, with calibrated trit-planes: rankings against uniform planes at equal bytes.

tiny-llama, judged on its held-out evaluation modules; blocks are ranked and planes calibrated on text it was trained
on. One, two or three planes by the ranking, under the budget of two planes everywhere, scales counted. Controls: two
planes everywhere, and rankings in random order. lieq.py does the same with plain planes, and much more of it.

    python -m benchmarks run layer_bits
"""

import math

from benchmarks.harness import Result, Value, mean_of, rows
from benchmarks.quantizers import tiny_llama
from hardy.core.method import ALL_SELECTED, Method
from hardy.quant import CalibratedTritPlanes, LayerBits, effective_rank, energy_gain, perplexity_drop

PLANES = tuple(CalibratedTritPlanes(planes=planes) for planes in (1, 2, 3))
RANDOM = 5


def run() -> Result:
    subject, found = tiny_llama(), []
    calibration = subject.calibration[0]

    def measured(name: str, method: Method) -> tuple[float, float]:
        """True bits per weight, and the loss."""
        with method.apply(subject.model, calibration) as change:
            bits, loss = change.report.value("bits_per_weight", ALL_SELECTED), subject.loss()
        found.extend(rows(name, {"bits_per_weight": bits}, loss=Value(loss, "nats/token"), perplexity=math.exp(loss)))
        print(f"{name:28}{bits:7.3f} bits{loss:9.4f} nats{math.exp(loss):8.2f}", flush=True)
        return bits, loss

    budget, _ = measured("two everywhere", PLANES[1])
    drop = perplexity_drop(subject.model, calibration)
    rankings = {
        "by perplexity drop": drop,
        "by effective rank": effective_rank(subject.model, calibration),
        "by energy gain": energy_gain(subject.model, calibration),
    }
    rankings |= {f"random order {seed}": drop.shuffled(seed) for seed in range(RANDOM)}
    losses = {}
    for name, ranking in rankings.items():
        ladder = LayerBits(budget=budget, low=PLANES[0], between=(PLANES[1],), high=PLANES[2], ranking=ranking)
        _, losses[name] = measured(name, ladder)
    random = [loss for name, loss in losses.items() if name.startswith("random order")]
    found += rows("random orders", {"bits_per_weight": budget}, seeds=range(RANDOM), loss=mean_of(random, "nats/token"))
    return Result(rows=found, seeds=range(RANDOM))
