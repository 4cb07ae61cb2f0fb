"""Quantizers that look at data: what each choice buys on tiny-llama, and their cost; writes results/calibrated.json.

Loss (mean cross-entropy, nats per token) on the evaluation text and, for whatever was chosen by looking, on the
calibration text, 20 windows of 512 tokens of each. Calibrated on 8,192 tokens of the text the model was trained on,
another quarter of it for every seed; mean and standard deviation over seeds. Methods without data need no seeds.

Seconds per million weights on one thread, for a Gaussian 1024 x 1024 weight and inputs that depend on each other, the
Gram matrix given: methods in turn, five times; best and median. hqq and llm-compressor are
measured where they can be imported.

    python benchmarks/calibrated.py [quality] [speed]
"""

import contextlib
import io
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from survival import processor

import hardy
from hardy.core.method import ALL_SELECTED, Method
from hardy.evaluate import batches, token_losses
from hardy.files import read_json, write_json
from hardy.ops.rounding import grouped, uniform_grid
from hardy.quant import (
    GPTQ,
    AsymmetricTrits,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    TritPlanes,
    calibrated_trit_planes,
    clipped_round_to_nearest,
    gptq,
    trit_planes,
)
from hardy.zoo.text import training_documents

RESULT = Path(__file__).parent / "results" / "calibrated.json"
SEEDS = (0, 1, 2)

# Groups of 43 bring codes of 3 bits to 3.45 bits per weight here; two planes with groups of 128 take 3.49.
METHODS: list[Method] = [
    TritPlanes(planes=1),
    AsymmetricTrits(),
    CalibratedTritPlanes(planes=1),
    CalibratedTritPlanes(planes=1, order="given"),
    CalibratedTritPlanes(planes=1, iterations=1),
    ClippedRoundToNearest(bits=2),
    GPTQ(bits=2),
    TritPlanes(planes=2),
    CalibratedTritPlanes(planes=2),
    CalibratedTritPlanes(planes=2, order="given"),
    CalibratedTritPlanes(planes=2, iterations=1),
    ClippedRoundToNearest(bits=3, group_size=43),
    GPTQ(bits=3, group_size=43),
    GPTQ(bits=3, group_size=43, order="given"),
    GPTQ(bits=3, group_size=43, order="given", range="full"),
    TritPlanes(planes=3),
    CalibratedTritPlanes(planes=3),
    ClippedRoundToNearest(bits=5),
    GPTQ(bits=5),
]


def quality() -> dict[str, Any]:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    texts = {
        part: batches(tokenizer, hardy.zoo.held_out_text(part), tokens=10240) for part in ("evaluation", "calibration")
    }
    training = "\n\n".join(training_documents()[0])
    quarter = len(training) // 4
    data = [batches(tokenizer, training[seed * quarter : (seed + 1) * quarter], tokens=8192) for seed in SEEDS]

    def losses() -> dict[str, float]:
        return {
            part: torch.cat([token_losses(model, ids, window=512) for windows in found for ids in windows])
            .double()
            .mean()
            .item()
            for part, found in texts.items()
        }

    intact = losses()
    print(f"{'unmodified':62}{'':6}  {intact['evaluation']:.4f}            {intact['calibration']:.4f}")
    rows = []
    for method in METHODS:
        seeds = SEEDS if hasattr(method, "damping") else SEEDS[:1]
        each, bits = [], 0.0
        for seed in seeds:
            with method.apply(model, data[seed]) as change:
                bits = change.report.value("bits_per_weight", ALL_SELECTED)
                each.append(losses())
        row: dict[str, Any] = {"method": str(method), "bits_per_weight": bits, "seeds": list(seeds)}
        for part in texts:
            values = [loss[part] for loss in each]
            row[part] = {"loss": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
        rows.append(row)
        shown = "   ".join(
            f"{row[part]['loss']:.4f} {'' if row[part]['sd'] is None else format(row[part]['sd'], '.4f'):7}"
            for part in texts
        )
        print(f"{method!s:62}{bits:6.3f}  {shown}", flush=True)
    return {"unmodified": intact, "tokens_per_draw": 8192, "rows": rows}


def hqq_fit(weight: torch.Tensor) -> Callable[[], object]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from hqq.core.quantize import Quantizer
    return lambda: Quantizer.quantize(
        weight.clone(), nbits=3, group_size=64, optimize=True, device="cpu", compute_dtype=torch.float32
    )


def llm_compressor_fit(weight: torch.Tensor, gram: torch.Tensor) -> Callable[[], object]:
    """Its GPTQ with scales to the full range, which it takes as given; making them is part of what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from compressed_tensors.quantization import QuantizationArgs
        from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
    settings = QuantizationArgs(num_bits=3, symmetric=False, strategy="group", group_size=128)

    def act() -> object:
        scale, zero_point = uniform_grid(grouped(weight, 128), 3)
        codes_from = torch.tensor(4.0)  # its codes are signed
        return quantize_weight(
            weight[None].clone(),
            gram[None].float(),
            scale[None, ..., 0],
            (zero_point - codes_from)[None, ..., 0],
            None,
            settings,
        )

    return act


def speed() -> dict[str, Any]:
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(1024, 1024, generator=draw)
    inputs = torch.randn(4096, 1024, generator=draw) @ torch.randn(1024, 1024, generator=draw)
    gram = (inputs.T @ inputs).double()
    work: dict[str, Callable[[], object]] = {
        "TritPlanes(planes=1)": lambda: trit_planes.fit(weight, 1),
        "TritPlanes()": lambda: trit_planes.fit(weight),
        "CalibratedTritPlanes(planes=1)": lambda: calibrated_trit_planes.fit(weight, gram, 1),
        "CalibratedTritPlanes()": lambda: calibrated_trit_planes.fit(weight, gram),
        "ClippedRoundToNearest(bits=3)": lambda: clipped_round_to_nearest.fit(weight, 3, 128, False),
        "GPTQ(bits=3)": lambda: gptq.fit(weight, gram, 3),
        "GPTQ(bits=3, range='full')": lambda: gptq.fit(weight, gram, 3, range="full"),
    }
    notes = []
    peers: dict[str, Callable[[], Callable[[], object]]] = {
        "hqq, 3 bits in groups of 64": lambda: hqq_fit(weight),
        "llm-compressor's GPTQ, 3 bits in groups of 128": lambda: llm_compressor_fit(weight, gram),
    }
    for name, fit in peers.items():
        try:
            work[name] = fit()
        except ImportError as error:
            notes.append(f"{name}: not measured ({error})")
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(5):
        for name, act in work.items():
            begun = time.perf_counter()
            act()
            seconds[name].append((time.perf_counter() - begun) * 1e6 / weight.numel())
    rows = [{"method": name, "best": min(times), "median": statistics.median(times)} for name, times in seconds.items()]
    for row in rows:
        print(f"{row['method']:62}best {row['best']:.3f}  median {row['median']:.3f} s per million weights")
    print("\n".join(notes))
    return {"rows": rows, "notes": notes, "threads": 1, "load": os.getloadavg()[0]}


def main() -> None:
    wanted = sys.argv[1:] or ["quality", "speed"]
    result = read_json(RESULT) if RESULT.exists() else {}
    for part in wanted:
        begun = time.monotonic()
        result[part] = {"quality": quality, "speed": speed}[part]()
        result[part]["seconds"] = round(time.monotonic() - begun, 1)
    result |= {
        "command": "python benchmarks/calibrated.py",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
    }
    write_json(RESULT, result)
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
