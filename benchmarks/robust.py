"""Fields under weight noise: each robust loss at its best for a width, a level and a kind of noise.

SIRENs of three hidden layers, STEPS steps of 384 drawn points, fitted plainly and with three robust losses. Signals:

  photographs  the central squares of Kodak 1-8 at 48 x 48, widths 48 and 128; chosen on squares of the two
               photographs that scikit-learn brings along
  sounds       three passages of 4096 samples of one recording, width 64, first omega 200; chosen on two others
  shapes       distances to a ring, a cup and a gyroid on 24 x 24 x 24, width 64; chosen on two others

Noise is on all weight matrices: additive, relative to the standard deviation or to the largest weight of each matrix,
and proportional to each weight. A loss has a strength for each kind and level of noise: the one with the most PSNR
there on the choosing signals, at their own chips. So PSNR, the gain over plain training (mean and spread over signals,
each the mean over chips) and what that strength costs without any noise are those of one net. Where the strength
chosen is at an end of the range that was tried, the row says so.

    python -m benchmarks run robust [--steps 300] [--instances 6]
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.fields import choosing, photographs, shrunk
from benchmarks.harness import SHARED, NotMeasuredError, Result, mean_of, rows
from hardy.fields import (
    Field,
    GradientNorm,
    Schedule,
    SharpnessAware,
    Signal,
    Sine,
    SquaredError,
    WeightPerturbation,
    audio,
    distance,
    fit_many,
    noisy_psnr,
)
from hardy.fields.losses import Loss, Noise
from hardy.files import write_text
from hardy.hardware import AdditiveNoise, ProportionalNoise
from hardy.report import Row

POINTS, SIZE, SAMPLES, GRID = 384, 48, 4096, 24
LEVELS = (0.01, 0.02, 0.05, 0.1)
CHIPS = {"chosen on": 5000, "judged on": 1000}
"""The first seeds of chips."""
NOISES: dict[str, Callable[[float, int], Noise]] = {
    "additive, of the deviation": lambda level, seed: AdditiveNoise(
        strength=level, relative_to="tensor-std", seed=seed
    ),
    "additive, of the largest": lambda level, seed: AdditiveNoise(
        strength=level, relative_to="tensor-absmax", seed=seed
    ),
    "proportional": lambda level, seed: ProportionalNoise(strength=level, seed=seed),
}
FAMILIES: dict[str, tuple[Loss, ...]] = {
    "gradient norm": (
        *(GradientNorm(strength=strength) for strength in (0.01, 0.03, 0.1)),
        GradientNorm(strength=0.001, norm="l1"),
    ),
    "sharpness-aware": tuple(SharpnessAware(radius=radius) for radius in (0.01, 0.03, 0.1)),
    "perturbed weights": tuple(
        WeightPerturbation(noise=AdditiveNoise(strength=level, relative_to="tensor-std"))
        for level in (0.01, 0.02, 0.05, 0.1, 0.2)
    ),
}
ENDS = {
    str(loss)
    for losses in FAMILIES.values()
    for loss in (losses[0], next(loss for loss in reversed(losses) if getattr(loss, "norm", "l2") == "l2"))
}


@dataclasses.dataclass(frozen=True)
class Task:
    """Signals of one kind, and the networks for them."""

    name: str
    width: int
    chosen_on: Sequence[Signal]
    judged_on: Sequence[Signal]
    activation: Sine = Sine()  # noqa: RUF009 - frozen

    def fields(self, count: int) -> list[Field]:
        signal = self.judged_on[0]
        sizes = signal.coordinates.shape[1], signal.values.shape[1]
        return [Field(*sizes, hidden_features=self.width, activation=self.activation, seed=i) for i in range(count)]


def ball(x: torch.Tensor, radius: float) -> torch.Tensor:
    return x.norm(dim=-1) - radius


def box(x: torch.Tensor, sides: Sequence[float]) -> torch.Tensor:
    away = x.abs() - torch.tensor(sides)
    return away.clamp(min=0).norm(dim=-1) + away.amax(-1).clamp(max=0)


def ring(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[:, :2].norm(dim=-1) - 0.6, x[:, 2]], -1).norm(dim=-1) - 0.2


def cup(x: torch.Tensor) -> torch.Tensor:
    return torch.maximum(ball(x, 0.8), -ball(x - torch.tensor([0.0, 0.0, 0.4]), 0.6))


def gyroid(x: torch.Tensor) -> torch.Tensor:
    sines, cosines = torch.sin(6 * x), torch.cos(6 * x)
    return ((sines * cosines.roll(1, -1)).sum(-1).abs() - 0.3) / 8


def house(x: torch.Tensor) -> torch.Tensor:
    return torch.minimum(box(x, (0.6, 0.6, 0.4)), ball(x - torch.tensor([0.0, 0.0, 0.4]), 0.4))


def frame(x: torch.Tensor) -> torch.Tensor:
    return torch.maximum(box(x, (0.7, 0.7, 0.7)), -box(x, (0.9, 0.5, 0.5)))


def shapes(*functions: Callable[[torch.Tensor], torch.Tensor]) -> list[Signal]:
    return [distance(function, (GRID, GRID, GRID), truncation=0.3) for function in functions]


def sounds(count: int) -> list[Signal]:
    """Passages, evenly over the recording, each as loud as it can be."""
    file = SHARED / "audio" / "gt_bach.wav"
    if not file.is_file():
        raise NotMeasuredError(f"no sound: {file} is not there")
    whole = audio(file).values
    starts = torch.linspace(0.1, 0.9, count) * (len(whole) - SAMPLES)
    passages = [whole[start : start + SAMPLES] for start in starts.long().tolist()]
    return [Signal.on_grid(passage / passage.abs().max()) for passage in passages]


def tasks() -> list[Task]:
    photos = [shrunk(file, SIZE) for file in photographs()]
    passages = sounds(5)
    of_shapes = (shapes(house, frame), shapes(ring, cup, gyroid))
    return [
        *(Task("photographs", width, choosing(SIZE)[::2], photos) for width in (48, 128)),
        Task("sounds", 64, passages[1::2], passages[::2], Sine(first_omega=200.0)),
        Task("shapes", 64, *of_shapes),
    ]


def measured(task: Task, part: str, loss: Loss, steps: int, instances: int) -> dict[str, list[float]]:
    """PSNR of each signal without noise and, mean over chips, at each noise."""
    signals = task.chosen_on if part == "chosen on" else task.judged_on
    fields = task.fields(len(signals))
    schedule = Schedule(steps=steps, points=POINTS, check_every=steps)
    fits = fit_many(fields, signals, loss=loss, schedule=schedule)
    found = {"none": [fit.psnr for fit in fits], "seconds": [fits[0].seconds]}
    for kind, noise in NOISES.items():
        for level in LEVELS:
            drawn = noise(level, CHIPS[part])
            pairs = zip(fields, signals, strict=True)
            found[f"{kind}, {level:.0%}"] = [
                noisy_psnr(field, signal, drawn, instances).mean().item() for field, signal in pairs
            ]
    return found


def compared(task: Task, arm: Callable[[str, Loss], dict[str, list[float]]]) -> list[Row]:
    """Rows of plain training and, for every noise, of each loss at the strength chosen for it."""
    plain, found = arm("judged on", SquaredError()), []
    details: dict[str, Any] = {"signals": task.name, "width": task.width}
    for noise, values in plain.items():
        if noise != "seconds":
            found += rows("plain", {**details, "noise": noise}, psnr=mean_of(values, "dB"))
    for family, losses in FAMILIES.items():
        tried = {str(loss): arm("chosen on", loss) for loss in losses}
        by_name = {str(loss): loss for loss in losses}
        for noise in plain:
            if noise in ("none", "seconds"):
                continue
            best = max(tried, key=lambda name: statistics.mean(tried[name][noise]))
            judged = arm("judged on", by_name[best])
            gains = [a - b for a, b in zip(judged[noise], plain[noise], strict=True)]
            costs = [b - a for a, b in zip(judged["none"], plain["none"], strict=True)]
            more = {**details, "noise": noise, "strength": short(by_name[best]), "at_an_end": best in ENDS}
            found += rows(
                family,
                more,
                psnr=mean_of(judged[noise], "dB"),
                gain=mean_of(gains, "dB"),
                lost_without_noise=mean_of(costs, "dB"),
                seconds_of_a_plain_fit=judged["seconds"][0] / plain["seconds"][0],
            )
    return found


def short(loss: Loss) -> str:
    if isinstance(loss, GradientNorm):
        return f"{loss.strength:g} {loss.norm}"
    if isinstance(loss, SharpnessAware):
        return f"{loss.radius:g}"
    assert isinstance(loss, WeightPerturbation)
    return f"{loss.noise.strength:.0%}"


def run(*, steps: int = 300, instances: int = 6, work: Path | None = None) -> Result:
    found: list[Row] = []
    for task in tasks():

        def arm(part: str, loss: Loss, task: Task = task) -> dict[str, list[float]]:
            name = "plain" if isinstance(loss, SquaredError) else f"{type(loss).__name__}-{short(loss)}"
            file = f"{task.name}-{task.width}-{part}-{name}".replace(" ", "_").replace("%", "")
            return kept(work, file, lambda: measured(task, part, loss, steps, instances))

        found += compared(task, arm)
    settings = {
        "photos": [file.name for file in photographs()],
        "tried": {family: [short(loss) for loss in losses] for family, losses in FAMILIES.items()},
        "chip_seeds": [CHIPS["judged on"], CHIPS["judged on"] + instances - 1],
        "spread": "over signals, each the mean over chips",
    }
    return Result(rows=found, settings=settings, seeds=(0,))


def kept(work: Path | None, name: str, make: Callable[[], dict[str, list[float]]]) -> dict[str, list[float]]:
    """What an earlier run of this arm left, or what it gives now; made once."""
    if name not in _MADE:
        file = None if work is None else work / f"{name}.json"
        if file is not None and file.exists():
            _MADE[name] = json.loads(file.read_text())
        else:
            _MADE[name] = make()
            means = " ".join(f"{statistics.mean(values):.1f}" for values in _MADE[name].values())
            print(f"{name:60} {means}", flush=True)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(_MADE[name]))
    return _MADE[name]


_MADE: dict[str, dict[str, list[float]]] = {}
