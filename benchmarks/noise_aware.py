"""Noise-aware training: straight through the noise against the full gradient, plain fine-tuning and none at all.

vision: ResNet-20 on CIFAR-10, from its trained weights, on part of the training images; all convolutions and the head
    on arrays. language: tiny-llama on its training text. Equal steps, data, learning rate and noise for all ways of
    training; judged on test images and on the evaluation text over chip instances that training did not draw, at
    several noise strengths including none. Learning rate and noise of training were chosen with --choose on training
    images that no run trains on and on calibration text, for the full gradient, which so has the benefit of the doubt.
cost: step time, interleaved in one process, and peak memory above the model's, each contender in a process of its
    own, with noise that is one line and with the cells of a phase-change chip.

    python -m benchmarks run noise_aware-vision [--choose]
    python -m benchmarks run noise_aware-language [--choose]
    python -m benchmarks run noise_aware-cost
"""

import dataclasses
import gc
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Result, Value, in_own_process, in_turns, mean_of, peak_memory, rows, timed
from benchmarks.noise_tasks import RELATIVE_TO, Language, Task, Vision, noise
from hardy.analog import NoiseAware
from hardy.core.rng import generator
from hardy.hardware import Chip

SEEDS, INSTANCES = (0, 1, 2), 10

WAYS: dict[str, dict[str, str] | None] = {
    "plain fine-tuning": None,
    "full gradient": {"gradient": "full"},
    "straight-through, clean": {"gradient": "straight-through", "input_gradient": "clean"},
    "straight-through, noisy": {"gradient": "straight-through", "input_gradient": "noisy"},
}


def trained(task: Task, way: dict[str, str] | None, seed: int, strength: float, rate: float) -> nn.Module:
    model = task.model()
    where = {} if task.select is None else {"select": task.select}
    if way is not None:
        NoiseAware(chip=noise(strength), seed=seed, warmup_steps=task.steps // 10, **way, **where).apply(model)
    optimizer = task.optimizer(model, rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * task.steps), 1.5 * (1 - step / task.steps))
    )
    model.train()
    for step in range(task.steps):
        task.loss(model, seed, step).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return model.eval()


def scores(task: Task, model: nn.Module, level: float, instances: int, first: int) -> list[float]:
    """The metric on each chip instance; one number without noise."""
    if level == 0:
        return [task.score(model)]
    values = []
    for instance in range(instances):
        with noise(level, first + instance, task.select).apply(model):
            values.append(task.score(model))
    return values


def choices(task: Task) -> Result:
    """What each choice of noise and learning rate gives the full gradient, on data for choosing."""
    lines = []
    for strength, rate in task.choices:
        begun = time.monotonic()
        model = trained(task, WAYS["full gradient"], 100, strength, rate)
        found = [statistics.mean(scores(task, model, level, 4, 5000)) for level in task.levels]
        for level, value in zip(task.levels, found, strict=True):
            details = {"noise": level, "trained_at": strength, "learning_rate": rate}
            lines += rows("full gradient", details, seeds=(100,), **{task.metric: value})
        print(strength, rate, [round(value, 2) for value in found], f"{time.monotonic() - begun:.0f} s", flush=True)
    return Result(rows=lines, seeds=(100,))


def compare(task: Task) -> Result:
    """Every way of training, every seed, every level: mean over seeds and instances, and both spreads."""
    lines, raw = [], []
    for name, way in {"no fine-tuning": None, **WAYS}.items():
        seeds = SEEDS[:1] if name == "no fine-tuning" else SEEDS
        models = [
            task.model() if name == "no fine-tuning" else trained(task, way, seed, task.trained_at, task.rate)
            for seed in seeds
        ]
        shown = []
        for level in task.levels:
            found = [scores(task, model, level, INSTANCES, 1000) for model in models]
            within = [statistics.stdev(values) for values in found if len(values) > 1]
            over_seeds = mean_of([statistics.mean(values) for values in found], task.unit)
            # The spread that is shown is that over chip instances.
            value = Value(over_seeds.value, task.unit, statistics.mean(within) if within else None, over_seeds.n)
            spread = None if over_seeds.spread is None else Value(over_seeds.spread, task.unit)
            metrics = {task.metric: value, f"{task.metric}_sd_over_seeds": spread}
            lines += rows(name, {"noise": level}, seeds=seeds, **metrics)
            raw.append({"way": name, "noise": level, task.metric: found})
            shown.append(f"{level:g}: {value.value:.2f}")
        print(f"{name:26}{'  '.join(shown)}", flush=True)
    return Result(
        rows=lines,
        settings={
            "noise": f"additive, relative to {RELATIVE_TO}",
            "spread": "over chip instances, mean over training seeds",
            "trained_at": task.trained_at,
            "learning_rate": task.rate,
            "steps": task.steps,
            "batch": task.batch,
            "chip_seeds": [1000, 1000 + INSTANCES - 1],
        },
        seeds=SEEDS,
        raw=raw,
    )


PCM_CELLS = dataclasses.replace(Chip.preset("pcm"), dac_bits=None, adc_bits=None)
"""Phase-change cells on tiles of 256 with read noise: a simulator that autograd can follow, but no one-liner."""

NOISES: dict[str, Any] = {
    "additive": noise(0.04),
    "PCM cells, tiles of 256": PCM_CELLS,
    "PCM chip with converters": Chip.preset("pcm"),
}
ROUNDS = 5


class Stack:
    """Four 512 x 512 linear layers and few inputs: nothing but weights."""

    select = None

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(*[nn.Linear(512, 512) for _ in range(4)])

    def loss(self, model: nn.Module, seed: int, step: int) -> torch.Tensor:
        return model(torch.randn(32, 512, generator=generator(seed, "batch", step))).square().mean()


COSTED: dict[str, Callable[[], Any]] = {
    "four 512 x 512 layers, 32 vectors": Stack,
    "ResNet-20, 64 images": lambda: Vision(judged=False),
    "tiny-llama, 4 x 256 tokens": lambda: Language(judged=False),
}


def contenders_of_noise() -> list[tuple[str | None, str]]:
    """(noise, way) of every contender; converters have no full gradient."""
    ways = [way for way in WAYS if way != "plain fine-tuning"]
    noisy = [(kind, way) for kind in NOISES for way in ways if not ("converters" in kind and way == "full gradient")]
    return [(None, "plain fine-tuning"), *noisy]


def prepared(task: Any, kind: str | None, way: str) -> nn.Module:
    model = task.model().train()
    where = {} if task.select is None else {"select": task.select}
    if kind is not None:
        NoiseAware(chip=NOISES[kind], **(WAYS[way] or {}), **where).apply(model)
    return model


def memory(task_name: str, kind: str | None, way: str) -> float:
    """Peak resident memory of three training steps above that before there was a model, MB; Linux only."""
    torch.set_num_threads(1)
    task = COSTED[task_name]()
    before = peak_memory("VmRSS")
    model = prepared(task, kind, way)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: `apply` itself draws once
    for step in range(3):
        model.zero_grad(set_to_none=True)
        task.loss(model, 0, step).backward()
    return peak_memory() - before


def stepping(task: Any, model: nn.Module) -> Callable[[], float]:
    """CPU seconds of the next step each time."""
    steps = itertools.count()

    def step() -> float:
        model.zero_grad(set_to_none=True)
        number = next(steps)
        return timed(lambda: task.loss(model, 0, number).backward(), time.thread_time)()

    return step


def cost() -> Result:
    found, raw = [], []
    for task_name, make in COSTED.items():
        task = make()
        contenders = {key: stepping(task, prepared(task, *key)) for key in contenders_of_noise()}
        for (kind, way), times in in_turns(contenders, rounds=ROUNDS).items():
            seconds, peak = statistics.median(times), in_own_process(memory, task_name, kind, way)
            details = {"task": task_name, "noise": kind or "none"}
            found += rows(way, details, step_s=Value(seconds, "s", n=ROUNDS), peak_mb=Value(peak, "MB"))
            raw.append({"way": way, **details, "step_s": times})
            print(f"{task_name:36}{kind or 'none':26}{way:26}{seconds:8.3f} s{peak:9.0f} MB", flush=True)
    return Result(rows=found, settings={"rounds": ROUNDS}, seeds=(0,), raw=raw)


def run(*, part: str = "vision", choose: bool = False) -> Result:
    if part == "cost":
        return cost()
    task = {"vision": Vision, "language": Language}[part](judged=not choose)
    return choices(task) if choose else compare(task)
