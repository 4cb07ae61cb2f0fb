"""What a chip costs to simulate: a draw of noise against the random numbers alone, a model on a chip against itself.

Both in one run on one thread, every contender in turn in each round, in CPU time of that thread; the figure is the
ratio of the medians.

1. Noise on 5.5 million weights, applied and taken back, beside `torch.randn_like` of the same tensors (twice them for
   a chip, whose weights are pairs of cells).
2. The forward pass of tiny-llama on 512 tokens: plain, and on chips with converters, tiles and read noise.

    python -m benchmarks run chip_speed
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

import hardy
from benchmarks.harness import Result, Value, in_turns, rows, timed
from hardy.analog import Deploy
from hardy.core import Method
from hardy.hardware import AdditiveNoise, Chip, LogNormalNoise, ProportionalNoise
from hardy.report import Row

SIZE, LAYERS = 1024, 5  # and one of half the outputs: 5.5 * 2^20 weights
ROUNDS, TOKENS = 15, 512
PRESETS = ("reram-wan", "pcm", "pcm-foundation")
RANDOM, RANDOM_PAIRS, PLAIN = "torch.randn_like", "torch.randn_like, twice", "plain"


def draws() -> dict[str, tuple[Callable[[], Any], str]]:
    """What is timed, and against what."""
    model = nn.Sequential(*[nn.Linear(SIZE, SIZE) for _ in range(LAYERS)], nn.Linear(SIZE, SIZE // 2))
    weights = [parameter.detach() for parameter in model.parameters() if parameter.ndim == 2]
    cells = Chip.preset("reram-wan").without_periphery()

    def numbers(times: int) -> None:
        for weight in weights * times:
            torch.randn_like(weight)

    def applied(method: Method) -> Callable[[], None]:
        return lambda: method.apply(model).undo()

    everything: Any = {"select": "linear"}
    return {
        RANDOM: (lambda: numbers(1), RANDOM),
        RANDOM_PAIRS: (lambda: numbers(2), RANDOM_PAIRS),
        "additive noise": (applied(AdditiveNoise(strength=0.05, **everything)), RANDOM),
        "proportional noise": (applied(ProportionalNoise(strength=0.05, **everything)), RANDOM),
        "log-normal noise": (applied(LogNormalNoise(strength=0.05, **everything)), RANDOM),
        "programmed on ReRAM cells": (applied(Deploy(chip=cells, **everything)), RANDOM_PAIRS),
    }


def forwards() -> dict[str, tuple[Callable[[], Any], str]]:
    found: dict[str, tuple[Callable[[], Any], str]] = {}
    chips = {name: Chip.preset(name) for name in PRESETS}
    chips["8-bit converters, perfect cells"] = dataclasses.replace(Chip.preset("ideal"), dac_bits=8, adc_bits=8)
    _, tokenizer = hardy.zoo.load("tiny-llama")
    ids = torch.cat(hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(), window=256, tokens=TOKENS))
    for name, chip in {PLAIN: None, **chips}.items():
        model, _ = hardy.zoo.load("tiny-llama")
        if chip is not None:
            Deploy(chip=chip).apply(model, [ids])

        @torch.inference_mode()
        def forward(model: Any = model) -> None:
            model(input_ids=ids, use_cache=False)

        found[name] = (forward, PLAIN)
    return found


def ratios(part: str, contenders: Mapping[str, tuple[Callable[[], Any], str]]) -> list[Row]:
    acts = {name: timed(act, time.thread_time) for name, (act, _) in contenders.items()}
    times = {name: statistics.median(of) for name, of in in_turns(acts, rounds=ROUNDS, warm_up=2).items()}
    found = []
    for name, (_, against) in contenders.items():
        ratio = times[name] / times[against]
        milliseconds = Value(1e3 * times[name], "ms", n=ROUNDS)
        found += rows(name, {"part": part}, baseline=against, milliseconds=milliseconds, ratio_of_median=ratio)
        print(f"{part}: {name:34}{1e3 * times[name]:10.1f} ms {ratio:6.2f} x {against}", flush=True)
    return found


def run() -> Result:
    found = ratios("draw", draws()) + ratios("forward", forwards())
    weights = SIZE * SIZE * LAYERS + SIZE * SIZE // 2
    return Result(rows=found, settings={"weights": weights, "tokens": TOKENS, "rounds": ROUNDS})
