"""Binary weights and few-bit activations in a trained ResNet-20: BWMA, its parts, and the rules before it.

ResNet-20 on CIFAR-10 from its trained weights, all convolutions but the first with binary weights, the head left dense.
A short fine-tuning, the same steps, images and schedule for every rule; the learning rate of each is the better of two
at 4 bits on training images that no run trains on. Accuracy on 1,000 test images. Controls: the float network, and the
float network fine-tuned as long.

A short fine-tuning is no training from scratch: it orders rules by how quickly they take over a float network, and its
accuracies are far below the papers'. Each cell is kept, and the same command goes on where it was stopped.

The variant `binary_training-seeds` has as many seeds for the rules before BWMA and for its parts, at 4 bits, and what
may stand around binary layers: ReActNet's RPReLU, and a first and last layer of 8 bits. `binary_training-long` trains
every rule three times as long at 4 bits, the rates chosen at that length too: what is left of their order then.

    python -m benchmarks run binary_training
    python -m benchmarks run binary_training-seeds
    python -m benchmarks run binary_training-long
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import Result, Value, mean_of, rows
from benchmarks.noise_tasks import DATA, Block, ResNet20, Vision, images
from hardy.quant import Annealing, BinaryWeights
from hardy.runs import Cell, Condition, Study

STEPS, CALIBRATION, JUDGED = 50, 256, 1000
RATES = (1e-3, 4e-3)

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


AROUND: dict[str, dict[str, Any]] = {
    "reactnet with RPReLU": {"method": "reactnet", "rectifier": "rprelu"},
    "bwma with RPReLU": {"method": "bwma", "rectifier": "rprelu"},
    "bwma, first and last of 8 bits": {"method": "bwma", "eight_bit": "conv1,linear"},
}
FIELDS = ("method", "activation", "per", "rectifier", "eight_bit")


class RectifiedBlock(Block):
    """With ReLUs that are modules, which RPReLU takes the place of; that behind the first convolution is none."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__(inside, outside, stride)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.missing:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
        return self.relu2(y + x)


def model(rectified: bool = False) -> nn.Module:
    """The trained network, laid out so that it trains a quarter faster on a CPU; see `RectifiedBlock`."""
    network = ResNet20()
    if rectified:
        for name, block in list(network.named_modules()):
            if isinstance(block, Block):
                stage, place = name.split(".")
                made = RectifiedBlock(block.conv1.in_channels, block.conv1.out_channels, block.stride)
                network.get_submodule(stage)[int(place)] = made  # pyright: ignore[reportIndexIssue]
    network.load_state_dict(load_file(DATA / "resnet20.safetensors"), strict=False)
    return network.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]


def cell(settings: Any, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Accuracy in per cent of one fine-tuning, and what it was before."""
    task, network, steps = task_of(arguments["judged"]), model("rectifier" in arguments), arguments["steps"]
    binary = arguments["method"] is not None
    if binary:
        fields = {name: arguments[name] for name in FIELDS if name in arguments}
        BinaryWeights(activation_bits=arguments["bits"], **fields).apply(network, [task.x[:CALIBRATION]])
    before = task.score(network)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=arguments["rate"])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    annealing = Annealing(network, steps) if binary and arguments.get("annealed", True) else None
    for step in range(steps):
        task.loss(network, seed, step).backward()
        optimizer.step()
        schedule.step()
        if annealing is not None:
            annealing.step()
        optimizer.zero_grad(set_to_none=True)
    network.eval()
    return {"accuracy": task.score(network), "before": before}


def task_of(judged: bool) -> Vision:
    """The task of benchmarks/noise_aware.py, judged on test images or on held-out training images."""
    task = Vision(judged)
    x, y = images("cifar10_test.npz") if judged else images("cifar10_train20k.npz")
    task.judge = (x[:JUDGED], y[:JUDGED]) if judged else (x[-JUDGED:], y[-JUDGED:])
    return task


def choices(steps: int) -> list[Condition]:
    """Every method at each of the rates, on images for choosing."""
    return [
        Condition.of(
            f"choosing {rate:g} for {name}",
            {"method": name, "bits": 4, "steps": steps, "rate": rate, "judged": False},
            (100,),
        )
        for name in ("bwma", *BEFORE)
        for rate in RATES
    ]


def conditions(
    steps: int, seeds: int, others: int, around: bool, rates: Mapping[str, float], widths: Sequence[int] = BITS
) -> list[Condition]:
    def arguments(method: str | None, **fields: Any) -> dict[str, Any]:
        rate = rates.get("bwma" if method == "bwma-lloyd" else str(method), RATES[0])
        return {"method": method, "steps": steps, "rate": rate, "judged": True, **fields}

    found = [Condition.of(TUNED, arguments(None), (0,))]
    for bits in widths:
        found.append(Condition.of(f"bwma, {bits} bits", arguments("bwma", bits=bits), range(seeds)))
    for bits in (width for width in (4, 2, 1) if width in widths):
        for name in BEFORE:
            ours = f"bwma, {bits} bits"
            found.append(Condition.of(f"{name}, {bits} bits", arguments(name, bits=bits), range(others), baseline=ours))
    for name, fields in (PARTS | AROUND if around else PARTS).items():
        found.append(
            Condition.of(f"{name}, 4 bits", arguments(**fields, bits=4), range(others), baseline="bwma, 4 bits")
        )
    return found


def run(
    *,
    steps: int = STEPS,
    seeds: int = 3,
    others: int = 1,
    around: bool = False,
    only: int = 0,
    work: Path | None = None,
) -> Result:
    """
    Args:
        steps: of every fine-tuning, the choice of rates included.
        seeds: of BWMA at every width.
        others: seeds of the rules before it and of its parts.
        around: whether what stands around binary layers is measured too.
        only: one width of activations; 0 for all.
        work: where finished cells are kept.
    """
    study = Study(name="binary training", run=cell, settings={"steps": steps}, out=work, workers=2)
    chosen = study.results(choices(steps), title="choosing")
    rates: dict[str, float] = {}
    for result in sorted(chosen, key=lambda r: r.values["accuracy"] if r.values else 0.0):
        rates[result.cell.arguments["method"]] = result.cell.arguments["rate"]
    grid = conditions(steps, seeds, others, around, rates, (only,) if only else BITS)
    # Seed by seed, so that what is stopped early has something of everything.
    cells: list[Cell] = [c.cells[seed] for seed in range(seeds) for c in grid if seed < len(c.cells)]
    results = study.results(cells)
    lines = rows(FLOAT, accuracy=Value(task_of(True).score(model()), "%"))
    for condition in grid:
        row = condition.row(results, lambda values: values["accuracy"], metric="accuracy", facts=("before",))
        if row is not None:
            facts = dict(condition.cells[0].arguments) | dict(row.details)
            lines.append(dataclasses.replace(row, unit="%", details={k: v for k, v in facts.items() if v is not None}))
    return Result(
        rows=[*lines, *ahead(grid, results)],
        settings={
            "steps": steps, "batch": Vision.batch, "optimizer": "Adam, cosine to zero", "rates": rates,
            "test images": JUDGED, "workers": 2,
        },
        seeds=tuple(range(seeds)),
        notes=(
            "The first convolution and the head stay dense; every rule has the same steps, images and schedule.",
            *chosen.notes(),
            *results.notes(),
        ),
        raw=[{"cell": found.cell.condition, "accuracy": found.values["accuracy"]} for found in chosen if found.values],
    )  # fmt: skip


def ahead(grid: list[Condition], results: Any) -> list[Any]:
    """How many points BWMA is ahead of each rule before it, with the same seed and bits."""
    by_name = {condition.name: condition for condition in grid}

    def accuracies(name: str) -> dict[int, float]:
        return {r.cell.seed: r.values["accuracy"] for r in results.of(by_name[name]) if r.values is not None}

    found = []
    for bits in (width for width in (4, 2, 1) if f"bwma, {width} bits" in by_name):
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
