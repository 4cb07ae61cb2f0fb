"""Quantizers that look at data: what each choice buys on tiny-llama, and their cost.

Loss (mean cross-entropy, nats per token) on the evaluation text and, for whatever was chosen by looking, on the
calibration text, 20 windows of 512 tokens of each. Calibrated on 8,192 tokens of the text the model was trained on,
another quarter of it for every seed; mean and standard deviation over seeds. Methods without data need no seeds.

Seconds per million weights on one thread, for a Gaussian 1024 x 1024 weight and inputs that depend on each other, the
Gram matrix given: methods in turn, five times; best and median. hqq and llm-compressor are
measured where they can be imported.

    python -m benchmarks run calibrated-quality
    python -m benchmarks run calibrated-speed
"""

import contextlib
import io
import statistics
import warnings
from collections.abc import Callable

import torch

import hardy
from benchmarks.harness import Result, in_turns, mean_of, rows, timed
from hardy.core.method import ALL_SELECTED, Method
from hardy.evaluate import batches, token_losses
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

PEERS = ("hqq", "llmcompressor")
SEEDS = (0, 1, 2)
UNIT = "nats/token"

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


def quality() -> Result:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    texts = {
        part: batches(tokenizer, hardy.zoo.held_out_text(part), tokens=10240) for part in ("evaluation", "calibration")
    }
    training = "\n\n".join(training_documents()[0])
    quarter = len(training) // 4
    data = [batches(tokenizer, training[seed * quarter : (seed + 1) * quarter], tokens=8192) for seed in SEEDS]

    def losses() -> dict[str, float]:
        return {
            part: torch.cat([token_losses(model, ids, window=512) for batch in batched for ids in batch])
            .double()
            .mean()
            .item()
            for part, batched in texts.items()
        }

    intact = losses()
    print(f"{'unmodified':62}{'':6}  {intact['evaluation']:.4f}            {intact['calibration']:.4f}")
    found = [row for part in texts for row in rows("unmodified", {"text": part}, loss=mean_of([intact[part]], UNIT))]
    for method in METHODS:
        seeds = SEEDS if hasattr(method, "damping") else SEEDS[:1]
        each, bits = [], 0.0
        for seed in seeds:
            with method.apply(model, data[seed]) as change:
                bits = change.report.value("bits_per_weight", ALL_SELECTED)
                each.append(losses())
        losses_of = {part: mean_of([loss[part] for loss in each], UNIT) for part in texts}
        for part, loss in losses_of.items():
            found += rows(str(method), {"text": part, "bits_per_weight": bits}, seeds=seeds, loss=loss)
        shown = "   ".join(
            f"{loss.value:.4f} {'' if loss.spread is None else format(loss.spread, '.4f'):7}"
            for loss in losses_of.values()
        )
        print(f"{method!s:62}{bits:6.3f}  {shown}", flush=True)
    return Result(rows=found, settings={"tokens_per_draw": 8192}, seeds=SEEDS)


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


def speed() -> Result:
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
    found = []
    for name, times in in_turns({name: timed(act) for name, act in work.items()}, rounds=5, warm_up=0).items():
        best, median = (pick(times) * 1e6 / weight.numel() for pick in (min, statistics.median))
        found += rows(name, seconds_best=best, seconds_median=median)
        print(f"{name:62}best {best:.3f}  median {median:.3f} s per million weights")
    print("\n".join(notes))
    return Result(rows=found, settings={"seconds": "per million weights"}, seeds=(0,), notes=notes)


def run(*, part: str = "quality") -> Result:
    return {"quality": quality, "speed": speed}[part]()
