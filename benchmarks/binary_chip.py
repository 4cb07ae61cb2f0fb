"""Binary weights on noisy arrays, against 8-bit and float weights on the same chips, and what activation bits cost.

The zoo's CNN for handwritten digits, fine-tuned for as many steps in three forms: all float, 8-bit weights (rounded
afterwards), binary weights (BWMA) with 4-bit activations; the same three inner convolutions on the arrays of a chip,
the first and the last layer digital for all. Six chip instances each, right after programming and for two presets that
drift a day later; then stuck cells. Energy of the binary layers for one image against the bits of activations, beside
the accuracy that two trainings of each reach.

    python -m benchmarks run binary_chip
"""

import dataclasses
import math
import statistics
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import Result, Value, mean_of, rows
from hardy.analog import Deploy
from hardy.analog.deploy import drift, program
from hardy.hardware import Chip
from hardy.quant import Annealing, BinaryWeights, Pack, RoundToNearest
from hardy.studies.binary_cost import TILE, image_cost, stored_bytes
from hardy.zoo import digits, tiny_cnn

SELECT = "conv2,conv3,conv4"
BITS, STEPS, INSTANCES, SEEDS = (1, 2, 3, 4, 6, 8), 150, 6, (0, 1)
CHIPS = ("pcm", "hermes", "reram-wan", "reram-cmo", "sonos")


def trained(bits: int | None, seed: int) -> nn.Module:
    """The zoo's network, fine-tuned; with binary weights at so many bits of activations, or float."""
    data, model = digits.digits(), tiny_cnn()
    if bits is not None:
        BinaryWeights(activation_bits=bits, select=SELECT).apply(model, [data["x_train"][:256]])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    annealing = Annealing(model, STEPS) if bits is not None else None
    model.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        x, y = digits.batch(data, seed, step)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if annealing is not None:
            annealing.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    if bits is not None:
        Pack().apply(model)
    return model


def score(model: nn.Module) -> float:
    data = digits.digits()
    return 100 * digits.accuracy(model, data["x_test"], data["y_test"])


def on_chips(model: nn.Module, chip: Chip, binary: bool, seconds: float) -> Value:
    """Accuracy over chip instances."""
    calibration = [digits.digits()["x_train"][:64]]
    select = ",".join(f"conv{i}.array" for i in (2, 3, 4)) if binary else SELECT
    found = []
    with Deploy(chip=chip, seed=0, select=select).apply(model, calibration):
        for seed in range(INSTANCES):
            drift(model, 0.0)
            program(model, seed)
            if seconds:
                drift(model, seconds)
            found.append(score(model))
    return mean_of(found, "%")


def run() -> Result:
    lines: list[Any] = []
    networks: dict[int | None, list[nn.Module]] = {}
    for bits in (None, *BITS):
        networks[bits] = [trained(bits, seed) for seed in SEEDS]
        name = "float" if bits is None else f"{bits} bits"
        reached = mean_of([score(model) for model in networks[bits]], "%")
        size = stored_bytes(networks[bits][0])
        cost = None if bits is None else image_cost(networks[bits][0], digits.digits()["x_test"][:1], bits)
        lines += rows(
            name, {"part": "energy", "activation_bits": bits}, seeds=SEEDS, accuracy=reached, bytes=Value(size, "B"),
            energy=None if cost is None else Value(cost.energy / 1e3, "nJ/image"),
            latency=None if cost is None else Value(cost.nanoseconds / 1e3, "us/image"),
            area=None if cost is None else Value(cost.area / 1e6, "mm^2"),
        )  # fmt: skip
        print(name, reached, None if cost is None else cost.energy, flush=True)
    eight = trained(None, 0)
    RoundToNearest(bits=8, group_size=None, select=SELECT).apply(eight)
    arms = {"float weights": networks[None][0], "8-bit weights": eight, "binary weights": networks[4][0]}
    settings: list[tuple[str, Chip, float]] = [(name, Chip.preset(name), 0.0) for name in CHIPS]
    settings += [(f"{name}, a day later", Chip.preset(name), 86400.0) for name in ("pcm", "reram-wan")]
    stuck = dataclasses.replace(Chip.preset("ideal"), stuck_low=0.01, stuck_high=0.01)
    settings += [("2 % stuck cells", stuck, 0.0)]
    for adc in (4, 6, 8):
        chip = dataclasses.replace(Chip.preset("ideal"), tile_rows=TILE, tile_columns=TILE, dac_bits=8, adc_bits=adc)
        settings.append((f"{adc}-bit ADC", chip, 0.0))
    for where, chip, seconds in settings:
        shown = []
        for arm, model in arms.items():
            value = on_chips(model, chip, arm == "binary weights", seconds)
            lines += rows(arm, {"part": "chips", "chip": where}, accuracy=value, baseline="float weights")
            shown.append(f"{arm} {value.value:.1f}")
        print(f"{where:24}{'  '.join(shown)}", flush=True)
    best = statistics.mean(row.value for row in lines if row.metric == "accuracy" and row.condition == "4 bits")
    return Result(
        rows=lines,
        settings={"steps": STEPS, "instances": INSTANCES, "test images": digits.TEST, "accuracy at 4 bits": best},
        seeds=SEEDS,
        notes=("One network of each kind is on the chips; the spread is over chip instances.",),
    )
