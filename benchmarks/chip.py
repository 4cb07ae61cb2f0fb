"""The chip: every preset's cells against their formulas, the same chip on any number of processes, and its overhead.

1. Mean and standard deviation of a million cells at eight levels, against the published formulas as written for the
   tests (tests/reference/devices.py); the weights of the zoo's model on a chip from one process and from four.
2. Forward and backward of a 256 x 1024 x 1024 linear layer on one thread, every contender in turn in each round, in
   CPU time of that thread; the figure is the ratio to nn.Linear in the same run, of the best and of the median
   times. Peers, where they are installed (pip install --no-deps aihwkit==1.1.0 aihwkit-lightning==2.1.0): the
   pure-torch tiles of both. They draw one noisy weight matrix per batch, hardy draws the noise of every read: the
   size is the same, the noise of two vectors in a batch is independent only here.

    python -m benchmarks run chip
"""

import dataclasses
import functools
import hashlib
import statistics
import sys
import time
from collections.abc import Callable

import joblib
import torch
from torch import nn

import hardy
from benchmarks.harness import FOLDER, Result, Value, in_turns, rows
from hardy.analog import Deploy
from hardy.hardware import PCM, AdditiveDevice, Chip, Device
from hardy.report import Row

sys.path.insert(0, str(FOLDER.parent / "tests"))
from reference import devices as published

PEERS = ("aihwkit", "aihwkit-lightning")
MILLION = 1_000_000
SHARES = (0.0, 0.02, 0.09, 0.15, 0.3, 0.5, 0.75, 1.0)
DAY = 86400.0
ROUNDS = 40

# Preset, seconds, its formula, and whether a conductance below zero becomes zero.
FORMULAS: list[tuple[str, float, published.Formula, bool]] = [
    ("pcm", 0.0, published.pcm, True),
    ("hermes", 0.0, published.hermes, True),
    ("hermes-1", 0.0, published.hermes_one, True),
    ("pcm-foundation", 0.0, published.afm, False),
    ("pcm-joshi", 0.0, published.joshi, True),
    ("reram-wan", 1.0, published.wan, True),
    ("reram-wan", DAY, published.wan_one_day, True),
    ("reram-wan", 2 * DAY, published.wan_two_days, True),
    ("reram-wan-cubic", 0.0, published.wan_cubic, False),
    ("reram-milo", 0.0, published.milo, False),
    ("reram-cmo", 0.0, published.cmo, False),
    ("reram-cmo-0.2", 0.0, published.cmo_fine, False),
    ("sonos", 0.0, published.sonos, True),
    ("sonos", DAY, published.sonos_one_day, True),
]
EXPONENTS = {
    "pcm": (published.pcm_exponent, 20.0),
    "hermes": (published.hermes_exponent, 300.0),
    "hermes-1": (published.hermes_one_exponent, 200.0),
}


def moments(device: Device, level: float, seconds: float) -> tuple[float, float]:
    random = torch.Generator().manual_seed(1)
    normals = torch.randn(device.normals, MILLION, generator=random)
    held = device.conductance(torch.full((MILLION,), level), normals, seconds).double()
    return held.mean().item(), held.std().item()


def levels(name: str, seconds: float, expected: Callable[[float], tuple[float, float]]) -> list[Row]:
    """Worst relative error of the standard deviation, and of the mean in standard deviations, over the levels."""
    device = Chip.preset(name).device
    found, worst = [], {"std_error": 0.0, "mean_error": 0.0}
    for share in SHARES:
        level = device.g_min + share * (device.g_max - device.g_min)
        (mean, std), (want_mean, want_std) = moments(device, level, seconds), expected(level)
        error = abs(std / want_std - 1) if want_std else std
        off = abs(mean - want_mean) / want_std if want_std else abs(mean - want_mean)
        details = {"seconds": seconds, "level": level, "formula": want_mean, "formula_std": want_std}
        found += rows(name, details, conductance=Value(mean, "uS", std, MILLION))
        worst = {"std_error": max(worst["std_error"], error), "mean_error": max(worst["mean_error"], off)}
    print(
        f"{name:14} after {seconds:>9g} s: std within {worst['std_error']:.3%}, "
        f"mean within {worst['mean_error']:.4f} std"
    )
    return rows(name, {"seconds": seconds}, **worst) + found


def all_levels() -> list[Row]:
    found = []
    for name, seconds, formula, truncated in FORMULAS:
        found += levels(name, seconds, lambda g, f=formula, t=truncated: published.truncated(*f(g)) if t else f(g))
        if name in EXPONENTS:
            exponent, first = EXPONENTS[name]
            for later in (DAY, 365 * DAY):
                ratio = (later + first) / first
                found += levels(
                    name, later, lambda g, f=formula, e=exponent, r=ratio: published.power_law_moments(f(g), e(g), r)
                )
    return found


def fingerprint(seed: int) -> str:
    """sha256 of the zoo's model as chip instance `seed` holds it after a day."""
    model, _ = hardy.zoo.load("tiny-llama")
    digest = hashlib.sha256()
    with Deploy(chip=Chip.preset("pcm").without_periphery(), seed=seed, seconds=DAY).apply(model):
        for _, tensor in sorted(model.state_dict().items()):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def same_chip() -> list[Row]:
    one = [fingerprint(seed) for seed in range(4)]
    many = joblib.Parallel(n_jobs=4)(joblib.delayed(fingerprint)(seed) for seed in range(4))
    print(f"four chip instances from one process and from four: {'the same bytes' if one == many else 'DIFFERENT'}")
    same = sum(first == second for first, second in zip(one, many, strict=True))
    return rows("four chip instances", {"processes": 4}, seeds=range(4), same=same, different=len(set(one)))


def on_chip(chip: Chip) -> nn.Module:
    model = nn.Sequential(nn.Linear(1024, 1024))
    Deploy(chip=chip, select="linear").apply(model)
    return model.train()


class TorchNoise(nn.Linear):
    """What one would write first: new additive noise on every weight at every forward."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        scale = 0.02 * self.weight.detach().abs().amax(1, keepdim=True)
        return nn.functional.linear(input, self.weight + scale * torch.randn_like(self.weight), self.bias)


def ours() -> dict[str, nn.Module]:
    converters = dataclasses.replace(Chip.preset("ideal"), dac_bits=8, adc_bits=8)
    small = {"tile_rows": 256, "tile_columns": 256}
    return {
        "nn.Linear": nn.Linear(1024, 1024),
        "torch: additive weight noise at every forward": TorchNoise(1024, 1024),
        "hardy: weights as programmed, read exactly": on_chip(Chip.preset("pcm").without_periphery()),
        "hardy: additive weight noise at every forward": on_chip(Chip(device=AdditiveDevice.of_weight(read=0.02))),
        "hardy: level-dependent noise at every forward": on_chip(Chip(device=PCM())),
        "hardy: 8-bit DAC and ADC, tiles of 512": on_chip(converters),
        "hardy: 8-bit DAC and ADC, tiles of 256": on_chip(dataclasses.replace(converters, **small)),
        "hardy: reram-wan (converters, tiles of 256, additive noise)": on_chip(Chip.preset("reram-wan")),
        "hardy: pcm (converters, tiles of 256, level-dependent noise)": on_chip(Chip.preset("pcm")),
    }


def aihwkit_layers() -> dict[str, nn.Module]:
    from aihwkit.nn import AnalogLinear
    from aihwkit.simulator.configs import TorchInferenceRPUConfig
    from aihwkit.simulator.parameters.enums import WeightModifierType

    tiled = TorchInferenceRPUConfig()
    tiled.mapping.max_input_size = tiled.mapping.max_output_size = 256
    tiled.modifier.type, tiled.modifier.std_dev = WeightModifierType.ADD_NORMAL, 0.02
    return {
        "aihwkit torch tile: default converters": AnalogLinear(1024, 1024, rpu_config=TorchInferenceRPUConfig()),
        "aihwkit torch tile: converters, tiles of 256, additive noise": AnalogLinear(1024, 1024, rpu_config=tiled),
    }


def lightning_layers() -> dict[str, nn.Module]:
    from aihwkit_lightning.nn import AnalogLinear
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig
    from aihwkit_lightning.simulator.parameters import WeightNoiseInjectionType

    def config(rows: int, converters: bool) -> TorchInferenceRPUConfig:
        made = TorchInferenceRPUConfig()
        made.mapping.max_input_size = rows
        made.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL_PER_CHANNEL
        made.modifier.std_dev = 0.02
        if converters:
            made.forward.inp_res = made.forward.out_res = 254
            made.forward.out_bound = 14
            made.pre_post.input_range.enable = True
        return made

    return {
        "lightning: additive noise": AnalogLinear(1024, 1024, rpu_config=config(-1, False)),
        "lightning: converters, additive noise": AnalogLinear(1024, 1024, rpu_config=config(-1, True)),
        "lightning: converters, tiles of 256, additive noise": AnalogLinear(1024, 1024, rpu_config=config(256, True)),
    }


def speed() -> tuple[list[Row], list[str]]:
    layers, missing = ours(), []
    for name, make in (("aihwkit", aihwkit_layers), ("aihwkit-lightning", lightning_layers)):
        try:
            layers |= make()
        except ImportError as error:
            missing.append(f"{name}: {error}")
    random = torch.Generator().manual_seed(0)
    x = torch.randn(256, 1024, generator=random, requires_grad=True)
    upstream = torch.randn(256, 1024, generator=random)
    for layer in layers.values():
        for _ in range(3):  # lightning takes its first batches to find the input range
            layer.train()(x).backward(upstream)

    def step(layer: nn.Module) -> tuple[float, float]:
        """Milliseconds of the forward pass, and of both."""
        begun = time.thread_time()
        y = layer(x)
        middle = time.thread_time()
        y.backward(upstream)
        return 1e3 * (middle - begun), 1e3 * (time.thread_time() - begun)

    times = in_turns({name: functools.partial(step, layer) for name, layer in layers.items()}, rounds=ROUNDS, warm_up=0)
    both = {name: [whole for _, whole in of] for name, of in times.items()}
    best, median = min(both["nn.Linear"]), statistics.median(both["nn.Linear"])
    found = []
    print(f"{'':62}{'fwd+bwd ms':>12}{'x best':>8}{'x median':>9}")
    for name, of in times.items():
        of_best, of_median = min(both[name]) / best, statistics.median(both[name]) / median
        found += rows(
            name,
            {"part": "speed"},
            baseline="nn.Linear",
            forward_ms=Value(min(forward for forward, _ in of), "ms", n=ROUNDS),
            forward_backward_ms=Value(min(both[name]), "ms", n=ROUNDS),
            ratio_of_best=of_best,
            ratio_of_median=of_median,
        )
        print(f"{name:62}{min(both[name]):12.1f}{of_best:8.2f}{of_median:9.2f}")
    return found, missing


def run() -> Result:
    cells, same = all_levels(), same_chip()
    timed, missing = speed()
    return Result(
        rows=[*cells, *same, *timed],
        settings={"cells": MILLION, "shape": [256, 1024, 1024], "rounds": ROUNDS},
        seeds=range(4),
        notes=[f"not measured: {name}" for name in missing],
    )
