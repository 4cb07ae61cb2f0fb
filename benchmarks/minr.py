"""Many photos in one network: parameters against PSNR, what is shared, a photo more, twice the size.

Squares of CROP pixels from Kodak 1-8, no two of which overlap, averaged to SIZE x SIZE: N = 8 are one of each
photograph, 16 two and 32 four (squares of one photograph have more in common than two photographs). Sine and quad,
three hidden-to-hidden layers, STEPS steps of 256 drawn points:

  shared    own input layer, projection and output; the three hidden layers shared (MINR)
  bare      as `shared` without the projections
  separate  a network for each photo: the same for every N

PSNR is of one square of each photograph, the same eight for all N, so that N changes nothing but the company; mean and
spread over them, seeds averaged (`bare` and other widths of `shared` have one seed). `parameters` are those of a photo:
all that is stored over N. From the curve of `separate` over widths come, by interpolation in the logarithm of
parameters, its PSNR at equal parameters and the parameters that it needs for equal PSNR. Learning rates are chosen for
each activation and structure, of `separate` for narrow and for wide networks, on four squares of the photographs that
scikit-learn brings along.

Then: the network rendered at twice the size beside the photo at twice the size, where cubic interpolation of the pixels
is the control; and two squares of those other photographs added with the shared part frozen, beside fits alone.

    python -m benchmarks run minr [--counts 8,16,32] [--size 96] [--crop 192] [--steps 3000]
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from benchmarks.fields import photographs
from benchmarks.harness import Result, Value, mean_of, rows
from hardy.fields import (
    Activation,
    Field,
    Fit,
    Quad,
    Schedule,
    SharedField,
    Signal,
    Sine,
    add_images,
    fit_many,
    fit_shared,
    image,
    sample_photo,
)
from hardy.files import write_text
from hardy.report import Row

HIDDEN = 3  # hidden-to-hidden layers
POINTS = 256
WIDTH, OTHER_WIDTHS = 48, (32, 64)
SEPARATE = (16, 24, 32, 48)
RATES = {"narrow": (1e-3, 2e-3, 4e-3), "wide": (5e-4, 1e-3, 2e-3)}
NARROW, WIDE = 16, 48
KINDS: dict[str, Activation] = {"sine": Sine(), "quad": Quad()}
SHARED: dict[str, dict[str, Any]] = {
    "shared": {"projections": 1},
    "bare": {"projections": 0},
}
JUDGED = 8
ADDED_AFTER = (300, 1000, 3000)
Arm = dict[str, Any]


def squares(pictures: Sequence[Signal], crop: int) -> list[torch.Tensor]:
    """Squares (3, crop, crop) that do not overlap: the first of each picture, then the second of each, and so on."""
    found: list[list[torch.Tensor]] = []
    for picture in pictures:
        pixels = picture.arranged().movedim(-1, 0)
        starts = [range(0, length - crop + 1, crop) for length in pixels.shape[1:]]
        found.append([pixels[:, top : top + crop, left : left + crop] for top in starts[0] for left in starts[1]])
    return [square for round_ in zip(*found, strict=False) for square in round_]


def averaged(square: torch.Tensor, size: int) -> Signal:
    return Signal.on_grid(interpolate(square[None], (size, size), mode="area")[0].movedim(0, -1))


def album(name: str, kind: Activation, images: int, width: int, seed: int) -> SharedField:
    return SharedField(
        images, 2, 3, hidden_features=width, shared_layers=HIDDEN, activation=kind, seed=seed, **SHARED[name]
    )


def separate(kind: Activation, count: int, width: int, seed: int) -> list[Field]:
    return [
        Field(2, 3, hidden_features=width, hidden_layers=HIDDEN + 1, activation=kind, seed=1000 * seed + index)
        for index in range(count)
    ]


def judged(fields: Sequence[Field], signals: Sequence[Signal], truths: Sequence[torch.Tensor], began: float) -> Arm:
    """PSNR of fields as they were fitted, and at the size of the squares themselves where that is another."""
    found = {"psnr": [field.psnr(signal) for field, signal in zip(fields, signals, strict=True)]}
    if truths[0].shape[-2:] != signals[0].grid:
        found["finer"] = [
            Signal.on_grid(truth.movedim(0, -1)).psnr(field.render(truth.shape[-2:]).flatten(0, 1))
            for field, truth in zip(fields, truths, strict=True)
        ]
    return found | {"seconds": time.process_time() - began}


def numbers(fields: Sequence[Field]) -> int:
    return sum(p.numel() for p in fields[0].parameters())


class Study:
    """The squares, and the arms that are measured on them: each is kept in a file, so that a long run can go on."""

    def __init__(self, *, size: int, crop: int, steps: int, most: int, work: Path | None) -> None:
        self.truths = squares([image(file) for file in photographs()], crop)[:most]
        self.other = squares([sample_photo(name) for name in ("china", "flower")], crop)[:6]
        self.signals = [averaged(square, size) for square in self.truths]
        self.choosing = [averaged(square, size) for square in self.other[:4]]
        self.added = [averaged(square, size) for square in self.other[4:]]
        self.steps, self.work = steps, work

    def schedule(self, rate: float, checks: int = 1) -> Schedule:
        every = self.steps // checks
        return Schedule(steps=self.steps, points=POINTS, check_every=every, learning_rate=rate)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What an earlier run of this arm left, or what it gives now."""
        file = None if self.work is None else self.work / f"{name}.json"
        if file is not None and file.exists():
            return json.loads(file.read_text())
        made = make()
        print(name, json.dumps(made)[:150], flush=True)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(made))
        return made

    def rates(self, name: str, kind: Activation, width: int) -> dict[str, float]:
        """Mean PSNR on the choosing squares by learning rate."""

        def reached(rate: float) -> float:
            if name == "separate":
                fields = separate(kind, len(self.choosing), width, 0)
                return statistics.mean(f.psnr for f in fit_many(fields, self.choosing, schedule=self.schedule(rate)))
            model = album(name, kind, len(self.choosing), width, 0)
            return fit_shared(model, self.choosing, schedule=self.schedule(rate)).psnr

        tried = RATES["narrow" if width == NARROW else "wide"]
        return self.kept(f"rates-{name}-{kind.name}-{width}", lambda: {str(r): round(reached(r), 2) for r in tried})

    def together(self, name: str, kind: Activation, count: int, width: int, seed: int, rate: float) -> Arm:
        def make() -> Arm:
            began = time.process_time()
            model = album(name, kind, count, width, seed)
            fit_shared(model, self.signals[:count], schedule=self.schedule(rate))
            fields = [model.field(index) for index in range(JUDGED)]
            found = judged(fields, self.signals[:JUDGED], self.truths[:JUDGED], began)
            counts = model.parameter_counts()
            found |= {
                "parameters": counts["total"] / count,
                "of_all": statistics.mean(model.psnr(self.signals[:count])),
            }
            if name != "bare" and width == WIDTH and seed == 0:
                before = [field.psnr(signal) for field, signal in zip(fields, self.signals, strict=False)]
                fits = add_images(model, self.added, schedule=self.schedule(rate, checks=30))
                assert before == found["psnr"]
                found |= {"added": at_steps(fits), "added_parameters": counts["per_image"]}
            return found

        return self.kept(f"{name}-{kind.name}-{count}-{width}-{seed}", make)

    def alone(self, kind: Activation, width: int, seed: int, rate: float) -> Arm:
        def make() -> Arm:
            began = time.process_time()
            fields = separate(kind, JUDGED, width, seed)
            fit_many(fields, self.signals[:JUDGED], schedule=self.schedule(rate))
            found = judged(fields, self.signals[:JUDGED], self.truths[:JUDGED], began)
            found["parameters"] = numbers(fields)
            if width == WIDE and seed == 0:
                others = separate(kind, len(self.added), width, seed + 1)
                fits = fit_many(others, self.added, schedule=self.schedule(rate, checks=30))
                found["added"] = at_steps(fits)
            return found

        return self.kept(f"separate-{kind.name}-{width}-{seed}", make)


def at_steps(fits: Sequence[Fit]) -> dict[str, float]:
    """Mean PSNR at some of the checks: thirtieths of the steps."""
    steps = [step for step, _ in fits[0].history]
    every = {str(step): statistics.mean(fit.history[i][1] for fit in fits) for i, step in enumerate(steps)}
    return {step: value for step, value in every.items() if int(step) in (*ADDED_AFTER, steps[-1])}


def best(rates: dict[str, float]) -> float:
    return float(max(rates, key=lambda rate: rates[rate]))


def mean_arm(arms: Sequence[Arm]) -> Arm:
    """The photos' means over seeds, and the spread of seeds."""
    over_photos = [statistics.mean(arm["psnr"]) for arm in arms]
    return arms[0] | {
        key: [statistics.mean(values) for values in zip(*(arm[key] for arm in arms), strict=True)]
        for key in ("psnr", "finer")
        if key in arms[0]
    } | {"of_seeds": statistics.stdev(over_photos) if len(arms) > 1 else None}  # fmt: skip


def rows_of(name: str, details: dict[str, Any], arm: Arm, seeds: int, curve: list[tuple[float, float]]) -> list[Row]:
    found: dict[str, Any] = {"psnr": mean_of(arm["psnr"], "dB"), "parameters": arm["parameters"]}
    found["seconds"] = Value(arm["seconds"], "s")
    if "finer" in arm:
        found["psnr_at_twice_the_size"] = mean_of(arm["finer"], "dB")
    if arm["of_seeds"] is not None:
        found["spread_of_seeds"] = Value(arm["of_seeds"], "dB", n=seeds)
    for step, value in arm.get("added", {}).items():
        found[f"added_after_{step}"] = Value(value, "dB", n=2)
    if name != "separate":
        stored, psnr = zip(*curve, strict=True)
        mean, logs = statistics.mean(arm["psnr"]), np.log(stored)
        if stored[0] <= arm["parameters"] <= stored[-1]:
            equal = float(np.interp(np.log(arm["parameters"]), logs, psnr))
            found["psnr_of_separate_at_equal_parameters"] = Value(equal, "dB")
        if psnr[0] <= mean <= psnr[-1]:
            needed = float(np.exp(np.interp(mean, psnr, logs)))
            found["parameters_saved_at_equal_psnr"] = Value(100 * (1 - arm["parameters"] / needed), "%")
        found["psnr_of_all"] = Value(arm["of_all"], "dB")
    return rows(name, details, seeds=range(seeds), **found)


def run(
    *, counts: str = "8,16,32", size: int = 96, crop: int = 192, steps: int = 3000, seeds: int = 2,
    work: Path | None = None,
) -> Result:  # fmt: skip
    sizes = [int(count) for count in counts.split(",")]
    study = Study(size=size, crop=crop, steps=steps, most=max(sizes), work=work)
    middle = sizes[len(sizes) // 2]
    tried: dict[str, dict[str, float]] = {}
    found: list[Row] = []

    def rate(name: str, kind: Activation, width: int = WIDTH) -> float:
        of = study.rates(name, kind, width)
        tried[f"{name}, {kind.name}, {width}"] = of
        return best(of)

    for label, kind in KINDS.items():
        curve, alone = [], {}
        for width in SEPARATE:
            chosen = rate("separate", kind, NARROW if width < WIDTH / 2 else WIDE)
            alone[width] = mean_arm([study.alone(kind, width, seed, chosen) for seed in range(seeds)])
            curve.append((alone[width]["parameters"], statistics.mean(alone[width]["psnr"])))
            details = {"activation": label, "width": width, "rate": chosen}
            found += rows_of("separate", details, alone[width], seeds, curve)

        def arm(name: str, count: int, width: int, over: int, kind: Activation = kind, label: str = label,
                curve: list[tuple[float, float]] = curve) -> list[Row]:  # fmt: skip
            chosen = rate(name, kind)
            arms = [study.together(name, kind, count, width, seed, chosen) for seed in range(over)]
            details = {"activation": label, "photos": count, "width": width, "rate": chosen}
            return rows_of(name, details, mean_arm(arms), over, curve)

        for count in sizes:
            found += arm("shared", count, WIDTH, seeds)
        found += arm("bare", middle, WIDTH, 1)
        for width in OTHER_WIDTHS:
            found += arm("shared", middle, width, 1)
    if crop != size:
        found += rows("cubic interpolation", psnr_at_twice_the_size=mean_of(interpolated(study), "dB"))
    settings = {"rates_tried": tried, "judged": JUDGED, "points": POINTS, "numbers_of_a_photo": 3 * size * size}
    return Result(rows=found, settings=settings, seeds=range(seeds))


def interpolated(study: Study) -> list[float]:
    """PSNR of the photos' pixels, brought to the size of the squares."""
    found = []
    for signal, truth in zip(study.signals[:JUDGED], study.truths, strict=False):
        small = signal.arranged().movedim(-1, 0)[None]
        larger = interpolate(small, truth.shape[-2:], mode="bicubic", align_corners=False)[0]
        found.append(Signal.on_grid(truth.movedim(0, -1)).psnr(larger.movedim(0, -1).flatten(0, 1)))
    return found
