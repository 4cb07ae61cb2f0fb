"""Noise-aware training at a fair budget: each way at its own best rate, and a real simulator against an ideal one.

vision: ResNet-20 on CIFAR-10, from its trained weights, 18,000 training images; all convolutions and the head on
    arrays. language: tiny-llama on its training text. Every way of training has the same steps, batches and schedule,
    and the learning rate of three that was best for it on data for choosing, at a third of the steps: for vision 2,000
    training images that no run trains on, for language the calibration text. What it costs stands beside it.
Two kinds of noise. "additive", 10 % of each output channel's largest weight, which the full gradient can go through:
    there straight-through is judged as an estimator. And the paper's own comparison: a simulator that no gradient
    goes through (measured ReRAM cells of few levels, some of them stuck), trained through as it is, against
    training through an ideal differentiable noise of the same size, and both are judged on the simulator.

Judged on 1,000 test images or 2,048 tokens of the evaluation text, ten chip instances that training did not draw,
three training seeds. What is trained is kept, so that the same command goes on where it was stopped.

    python -m benchmarks run noise_trained-vision
    python -m benchmarks run noise_trained-language
"""

import dataclasses
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Result, Value, mean_of, rows
from benchmarks.noise_tasks import RELATIVE_TO, Language, Task, Vision, noise
from hardy.analog import Deploy, NoiseAware
from hardy.core import select
from hardy.core.surgery import weight_of
from hardy.files import read_json, write_json
from hardy.hardware import Chip
from hardy.hardware.crossbar import full_scale

STRENGTH = 0.1
SIMULATOR = dataclasses.replace(
    Chip.preset("reram-wan").without_periphery(), cell_levels=8, stuck_low=0.01, stuck_high=0.002
)
THROUGH: dict[str, dict[str, str]] = {
    "full gradient": {"gradient": "full"},
    "straight-through, clean": {"input_gradient": "clean"},
    "straight-through, noisy": {"input_gradient": "noisy"},
}
RATES = {"vision": (3e-3, 1e-2, 3e-2), "language": (1e-4, 3e-4, 1e-3)}
STEPS = {"vision": 480, "language": 160}
CHOOSING_SEED, CHOOSING_CHIPS, JUDGED_CHIPS = 100, 5000, 1000


def ways(task: Task, ideal: float) -> dict[str, tuple[Any, dict[str, str]]]:
    """What each way trains through, and how; None through nothing."""
    additive = noise(STRENGTH)
    found: dict[str, tuple[Any, dict[str, str]]] = {"plain fine-tuning": (None, {})}
    found |= {name: (additive, fields) for name, fields in THROUGH.items()}
    found["ideal noise of the simulator's size, full gradient"] = (noise(ideal), THROUGH["full gradient"])
    found["the simulator, straight-through"] = (SIMULATOR, THROUGH["straight-through, clean"])
    return found


def size_of_simulator(task: Task) -> float:
    """Strength of the additive noise, relative to each output's largest weight, of the simulator's mean square."""
    model, squares, of = task.model(), 0.0, 0.0
    for site in select(model, task.select or "linear,!head,!router"):
        weight = weight_of(model, site).float()
        held = SIMULATOR.program(weight, seed=CHOOSING_CHIPS, site=site.name)
        squares += (held - weight).square().sum().item()
        of += full_scale(weight, Chip.preset("ideal"))[:, 0].square().sum().item() * weight.shape[1]
    return math.sqrt(squares / of)


def trained(task: Task, through: Any, fields: dict[str, str], seed: int, rate: float, steps: int) -> nn.Module:
    model = task.model()
    where: dict[str, Any] = {} if task.select is None else {"select": task.select}
    change = None
    if through is not None:
        method = NoiseAware(chip=through, seed=seed, warmup_steps=steps // 10, **fields, **where)  # pyright: ignore[reportArgumentType]
        change = method.apply(model)
    optimizer = task.optimizer(model, rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * steps), 1.5 * (1 - step / steps))
    )
    model.train()
    for step in range(steps):
        task.loss(model, seed, step).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    if change is not None:
        change.undo()
    return model.eval()


def scores(task: Task, model: nn.Module, instances: int, first: int) -> dict[str, list[float]]:
    """By noise: the metric on each chip instance; one number without noise."""
    where: dict[str, Any] = {} if task.select is None else {"select": task.select}
    found = {"none": [task.score(model)]}
    for name in ("additive 0.05", "additive 0.1", "simulator"):
        found[name] = []
        for seed in range(first, first + instances):
            if name == "simulator":
                method: Any = Deploy(chip=SIMULATOR, seed=seed, **where)
            else:
                method = noise(float(name.split()[1]), seed, task.select)
            with method.apply(model):
                found[name].append(task.score(model))
    return found


@dataclasses.dataclass
class Trainings:
    """Trains and scores, each once: what is done is kept in `folder`."""

    folder: Path
    chosen_on: Task
    judged_on: Task
    ideal: float

    def scored(self, way: str, seed: int, rate: float, steps: int, judged: bool, instances: int) -> dict[str, Any]:
        """The scores of one training by noise, and the CPU seconds that it took ("seconds")."""
        file = self.folder / f"{way}-{seed}-{rate:g}-{steps}-{instances}.json".replace(" ", "_")
        if file.is_file():
            return read_json(file)
        task = self.judged_on if judged else self.chosen_on
        through, fields = ways(task, self.ideal)[way]
        begun = time.process_time()
        model = trained(task, through, fields, seed, rate, steps)
        found: dict[str, Any] = {"seconds": time.process_time() - begun}
        found |= scores(task, model, instances, JUDGED_CHIPS if judged else CHOOSING_CHIPS)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
        return found


def run(*, part: str = "vision", steps: int = 0, seeds: int = 3, instances: int = 10, work: Path) -> Result:
    make, steps = {"vision": Vision, "language": Language}[part], steps or STEPS[part]
    judged: Any = make(judged=True)
    if part == "vision":
        judged.take(1000)
    ideal = size_of_simulator(judged)
    trainings = Trainings(work, make(judged=False), judged, ideal)
    metric, better = judged.metric, max if part == "vision" else min
    lines, raw, chosen = [], [], {}
    untrained = {"no fine-tuning": [scores(judged, judged.model(), instances, JUDGED_CHIPS) | {"seconds": 0.0}]}
    for way in ("no fine-tuning", *ways(judged, ideal)):
        found = untrained.get(way)
        if found is None:
            tried = {}
            for rate in RATES[part]:
                short = trainings.scored(way, CHOOSING_SEED, rate, max(1, steps // 3), False, 3)
                # Judged by what it is trained for; plain training by the additive noise.
                of = "simulator" if "simulator" in way else "additive 0.1"
                tried[rate] = statistics.fmean(short[of])
            chosen[way] = {"rate": better(tried, key=lambda rate: tried[rate]), "tried": tried}
            found = [trainings.scored(way, seed, chosen[way]["rate"], steps, True, instances) for seed in range(seeds)]
        shown = []
        for name in ("none", "additive 0.05", "additive 0.1", "simulator"):
            of_seeds = [each[name] for each in found]
            within = [statistics.stdev(values) for values in of_seeds if len(values) > 1]
            over = mean_of([statistics.fmean(values) for values in of_seeds], judged.unit)
            value = Value(over.value, judged.unit, statistics.fmean(within) if within else None, over.n)
            spread = None if over.spread is None else Value(over.spread, judged.unit)
            details = {"noise": name, "learning_rate": chosen.get(way, {}).get("rate")}
            cpu = Value(statistics.fmean(each["seconds"] for each in found), "s") if name == "none" else None
            metrics = {metric: value, f"{metric}_sd_over_seeds": spread, "cpu_seconds": cpu}
            lines += rows(way, details, seeds=range(len(found)), baseline="plain fine-tuning", **metrics)
            shown.append(f"{name}: {value.value:.2f}")
        raw.append({"way": way, **chosen.get(way, {}), "scores": found})
        print(f"{way:52}{'  '.join(shown)}", flush=True)
    settings = {
        "noise": f"additive, relative to {RELATIVE_TO}", "trained_at": STRENGTH, "simulator": SIMULATOR.to_dict(),
        "ideal": ideal, "steps": steps, "batch": judged.batch, "spread": "over chip instances, mean over seeds",
        "rates": list(RATES[part]), "chosen": "of three rates, at a third of the steps, on data for choosing",
    }  # fmt: skip
    return Result(rows=lines, settings=settings, seeds=range(seeds), raw=raw)
