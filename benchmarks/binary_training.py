"""Binary weights and few-bit activations in a trained ResNet-20: BWMA, its parts, and the rules before it.

ResNet-20 on CIFAR-10 from its trained weights, all convolutions but the first with binary weights, the head left dense;
a short fine-tuning, the same steps, images and schedule for every rule, the learning rate of each rule chosen from
two (--choose) at 4 bits on training images that no run trains on. Accuracy on 2,000 test images. The first condition is
the float network, and the control is the float network fine-tuned as long.

A short fine-tuning is no training from scratch: it orders rules by how quickly they take over a float network, and its
accuracies are far below the papers'. Each cell is kept, and the same command goes on where it was stopped.

    python -m benchmarks run binary_training [--choose --out FOLDER]
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import Result, Value, mean_of, rows
from benchmarks.noise_aware import DATA, ResNet20, Vision
from hardy.quant import Annealing, BinaryWeights
from hardy.runs import Cell, Condition, Study

STEPS, CALIBRATION = 80, 256
RATES = (1e-3, 3e-3)
CHOSEN: dict[str, float] = {}
"""Method -> the better of `RATES` in --choose; 1e-3 where it is not named."""

FLOAT, TUNED = "float", "float, fine-tuned"
BITS = (1, 2, 3, 4, 6, 8)
BEFORE = ("xnor", "irnet", "reactnet", "lsq-a", "dorefa")
PARTS: dict[str, dict[str, Any]] = {
    "bwma weights, LSQ activations": {"method": "bwma", "activation": "lsq"},
    "XNOR weights, staircase activations": {"method": "xnor", "activation": "staircase"},
    "bwma, one scale and offset per layer": {"method": "bwma", "per": "layer"},
    "bwma, the best two levels (Lloyd)": {"method": "bwma-lloyd"},
    "bwma without annealing": {"method": "bwma", "annealed": False},
}


def model() -> nn.Module:
    """The trained network, laid out so that it trains a quarter faster on a CPU."""
    network = ResNet20()
    network.load_state_dict(load_file(DATA / "resnet20.safetensors"), strict=False)
    return network.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]


def cell(settings: Any, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Accuracy in per cent of one fine-tuning, and what it was before."""
    task = Vision(judged=not arguments.get("choose", False))
    if not arguments.get("choose", False):
        task.judge = judged()
    network, steps = model(), arguments["steps"]
    if arguments.get("method") is not None:
        fields = {name: arguments[name] for name in ("method", "activation", "per") if name in arguments}
        method = BinaryWeights(activation_bits=arguments["bits"], **fields)
        method.apply(network, [task.x[:CALIBRATION]])
    before = task.score(network)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=arguments["rate"])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    binary = arguments.get("method") is not None and arguments.get("annealed", True)
    annealing = Annealing(network, steps) if binary else None
    for step in range(steps):
        task.loss(network, seed, step).backward()
        optimizer.step()
        schedule.step()
        if annealing is not None:
            annealing.step()
        optimizer.zero_grad(set_to_none=True)
    network.eval()
    return {"accuracy": task.score(network), "before": before}


def judged() -> tuple[torch.Tensor, torch.Tensor]:
    from benchmarks.noise_aware import images

    x, y = images("cifar10_test.npz")
    return x[:2000], y[:2000]


def conditions(steps: int, seeds: int) -> list[Condition]:
    def arguments(method: str | None, **fields: Any) -> dict[str, Any]:
        return {"method": method, "steps": steps, "rate": CHOSEN.get(str(method), RATES[0]), **fields}

    found = [Condition.of(TUNED, arguments(None), (0,))]
    for bits in BITS:
        found.append(Condition.of(f"bwma, {bits} bits", arguments("bwma", bits=bits), range(seeds)))
    for bits in (4, 2, 1):
        for name in BEFORE:
            found.append(
                Condition.of(f"{name}, {bits} bits", arguments(name, bits=bits), (0,), baseline=f"bwma, {bits} bits")
            )
    for name, fields in PARTS.items():
        found.append(
            Condition.of(f"{name}, 4 bits", arguments(**fields, bits=4), (0,), baseline="bwma, 4 bits")
        )
    return found


def choices(steps: int, work: Path | None) -> Result:
    """What each rate gives each method at 4 bits on images for choosing."""
    grid = [
        Condition.of(f"{name}, {rate:g}", {"method": name, "bits": 4, "steps": steps, "rate": rate, "choose": True})
        for name in ("bwma", *BEFORE, "bwma-lloyd")
        for rate in RATES
    ]
    study = Study(name="binary training", run=cell, settings={"steps": steps, "choose": True}, out=work, workers=2)
    results = study.results(grid)
    lines = []
    for condition in grid:
        row = condition.row(results, lambda values: values["accuracy"], metric="accuracy")
        if row is not None:
            print(condition.name, row.value, flush=True)
            lines.append(row)
    return Result(rows=lines, notes=results.notes())


def run(*, steps: int = STEPS, seeds: int = 3, choose: bool = False, work: Path | None = None) -> Result:
    if choose:
        return choices(steps, work)
    grid = conditions(steps, seeds)
    study = Study(
        name="binary training", run=cell, settings={"steps": steps, "rates": CHOSEN or {"all": RATES[0]}}, out=work,
        workers=2,
    )  # fmt: skip
    # Seed by seed, so that what is stopped early has something of everything.
    cells: list[Cell] = [c.cells[seed] for seed in range(seeds) for c in grid if seed < len(c.cells)]
    results = study.results(cells)
    task = Vision(judged=True)
    task.judge = judged()
    lines = rows(FLOAT, accuracy=Value(task.score(model()), "%"))
    for condition in grid:
        row = condition.row(results, lambda values: values["accuracy"], metric="accuracy", facts=("before",))
        if row is None:
            continue
        facts = dict(condition.cells[0].arguments) | dict(row.details)
        lines.append(dataclasses.replace(row, unit="%", details={k: v for k, v in facts.items() if v is not None}))
    lines += ahead(grid, results)
    return Result(
        rows=lines,
        settings={
            "steps": steps, "batch": Vision.batch, "optimizer": "Adam, cosine to zero", "rates": CHOSEN or RATES[0],
            "test images": len(task.judge[1]), "workers": 2,
        },
        seeds=tuple(range(seeds)),
        notes=(
            "The first convolution and the head stay dense; every rule has the same steps, images and schedule.",
            *results.notes(),
        ),
    )  # fmt: skip


def ahead(grid: list[Condition], results: Any) -> list[Any]:
    """How many points BWMA is ahead of each rule before it, with the same seed and bits."""
    by_name = {condition.name: condition for condition in grid}

    def accuracies(name: str) -> dict[int, float]:
        return {r.cell.seed: r.values["accuracy"] for r in results.of(by_name[name]) if r.values is not None}

    found = []
    for bits in (4, 2, 1):
        ours = accuracies(f"bwma, {bits} bits")
        for name in BEFORE:
            theirs = accuracies(f"{name}, {bits} bits")
            gains = [ours[seed] - theirs[seed] for seed in theirs if seed in ours]
            if gains:
                found += rows(
                    f"bwma against {name}, {bits} bits", {"bits": bits, "against": name}, points=mean_of(gains, "%")
                )
        all_gains = [row.value for row in found if row.details["bits"] == bits]
        if all_gains:
            found += rows(f"bwma against the mean of all, {bits} bits", {"bits": bits, "against": "all"},
                          points=Value(statistics.mean(all_gains), "%"))  # fmt: skip
    return found
