"""Activations side by side under one protocol, omega swept for sine and quad.

The central squares of the eight Kodak photographs beside the checkout, 512 x 512 averaged to SIZE x SIZE, a network of
three hidden layers on each, full-batch Adam, learning rate falling tenfold. PSNR of the fitted photo, mean and spread
over the photos, steps to 30 dB. All photos of an activation are fitted in one batch.

Learning rates and the "best" omegas are chosen on four crops of the photographs that scikit-learn brings along, of the
same size, seed 0: the Kodak photographs are only judged.

    python -m benchmarks run fields [--size 48] [--steps 300] [--width 48] [--seeds 2]
"""

import dataclasses
import statistics
from pathlib import Path

from torch.nn.functional import interpolate

from benchmarks.harness import SHARED, NotMeasuredError, Result, Value, mean_of, rows
from hardy.fields import (
    Activation,
    Field,
    Finer,
    Fit,
    Gauss,
    Quad,
    Relu,
    Schedule,
    Signal,
    Sine,
    Triangle,
    Wire,
    fit_many,
    image,
    sample_photo,
)
from hardy.report import Row

OMEGAS = (10.0, 19.1, 30.0, 45.0, 60.0)
RATES = (1e-3, 2e-3, 5e-3)
TARGET = 30.0

ROWS: list[Activation] = [
    *(Sine(first_omega=omega, hidden_omega=omega) for omega in OMEGAS),
    *(Quad(first_omega=omega, hidden_omega=omega) for omega in OMEGAS),
    Triangle(),
    Finer(),
    Gauss(),
    Gauss(scale=20.0),
    Relu(),
    Wire(),
]


def photographs(count: int = 8) -> list[Path]:
    """The first of the Kodak photographs beside the checkout."""
    files = sorted((SHARED / "images" / "kodak").glob("*.png"))[:count]
    if len(files) < count:
        raise NotMeasuredError(f"{count} photographs are wanted, {len(files)} are in {SHARED / 'images' / 'kodak'}")
    return files


def shrunk(file: Path, size: int) -> Signal:
    """The central 512 x 512 pixels, averaged in squares to size x size."""
    pixels = image(file, 512).arranged()
    return Signal.on_grid(interpolate(pixels.movedim(-1, 0)[None], (size, size), mode="area")[0].movedim(0, -1))


def choosing(size: int) -> list[Signal]:
    """Two halves of each of scikit-learn's photos, 320 x 320 around their middles averaged to size x size."""
    signals = []
    for name in ("china", "flower"):
        pixels = sample_photo(name).arranged()
        for left in (0, 320):
            square = pixels[53:373, left : left + 320].movedim(-1, 0)[None]
            signals.append(Signal.on_grid(interpolate(square, (size, size), mode="area")[0].movedim(0, -1)))
    return signals


def fitted(kind: Activation, signals: list[Signal], schedule: Schedule, width: int, seed: int) -> list[Fit]:
    """Each signal in a field of this kind."""
    fields = [Field(2, 3, hidden_features=width, activation=kind, seed=seed) for _ in signals]
    return fit_many(fields, signals, schedule=schedule)


def mean_psnr(fits: list[Fit]) -> float:
    return statistics.mean(result.psnr for result in fits)


def chosen(
    kinds: list[Activation], size: int, steps: int, width: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """PSNR on the choosing photos of each learning rate of each kind, and of each omega, the best of each named."""
    signals = choosing(size)
    rates: dict[str, dict[str, float]] = {}
    best: dict[str, tuple[float, str]] = {}
    for kind in kinds:
        if type(kind) in (Sine, Quad) and kind.factor(True) != 30.0:
            continue  # the learning rate of a wave is chosen at omega 30
        for rate in RATES:
            schedule = Schedule(steps=steps, check_every=steps, learning_rate=rate)
            found = mean_psnr(fitted(kind, signals, schedule, width, 0))
            rates.setdefault(str(kind), {})[str(rate)] = round(found, 3)
    for kind in kinds:
        if type(kind) not in (Sine, Quad):
            continue
        schedule = Schedule(steps=steps, check_every=steps, learning_rate=rate_of(kind, rates))
        found = mean_psnr(fitted(kind, signals, schedule, width, 0))
        best[kind.name] = max(best.get(kind.name, (0.0, "")), (found, str(kind)))
    return rates, {name: kind for name, (_, kind) in best.items()}


def rate_of(kind: Activation, rates: dict[str, dict[str, float]]) -> float:
    """The learning rate that was best on the choosing photos; for sine and quad the one of omega 30."""
    of = {Sine: str(Sine()), Quad: str(Quad())}.get(type(kind), str(kind))
    return float(max(rates[of], key=lambda rate: rates[of][rate]))


def run(*, size: int = 48, steps: int = 300, width: int = 48, seeds: int = 2) -> Result:
    files = photographs()
    signals = [shrunk(file, size) for file in files]
    rates, best = chosen(ROWS, size, steps, width)
    print("chosen on other photos:", rates, best, flush=True)
    print(f"{'activation':44} {'PSNR':>6} {'spread':>6} {'of seeds':>8} {'to 30 dB':>9} {'seconds':>8}")
    found, raw = [], {}
    for kind in ROWS:
        psnr, reached, seconds = [], [], []
        for seed in range(seeds):
            schedule = Schedule(steps=steps, check_every=10, learning_rate=rate_of(kind, rates))
            fits = fitted(kind, signals, schedule, width, seed)
            psnr.append([round(result.psnr, 3) for result in fits])
            reached += [step for result in fits if (step := result.steps_to(TARGET)) is not None]
            seconds.append(round(fits[0].seconds, 2))
        raw[str(kind)] = psnr
        over_photos = mean_of([statistics.mean(values) for values in zip(*psnr, strict=True)], "dB")
        over_seeds = mean_of([statistics.mean(values) for values in psnr], "dB")
        details = {
            "kind": kind.name,
            "learning_rate": rate_of(kind, rates),
            "omega_chosen": best[kind.name] == str(kind) if kind.name in best else None,
        }
        found += rows(
            str(kind),
            details,
            seeds=range(seeds),
            psnr=over_photos,
            spread_of_seeds=None if over_seeds.spread is None else Value(over_seeds.spread, "dB", n=seeds),
            reached_30_db=Value(len(reached) / (seeds * len(signals)), "share"),
            median_steps_to_30_db=Value(statistics.median(reached), "steps") if reached else None,
            seconds_for_all_photos=Value(statistics.mean(seconds), "s", n=seeds),
        )
        print(
            f"{kind!s:44} {over_photos.value:6.2f} {over_photos.spread or 0:6.2f} {over_seeds.spread or 0:8.2f} "
            f"{statistics.median(reached) if reached else '-':>9} {statistics.mean(seconds):8.1f}",
            flush=True,
        )
    return Result(
        rows=best_of_each_kind(found),
        settings={
            "photos": [file.name for file in files],
            "learning_rates_tried": rates,
            "best_omega_on_other_photos": best,
        },
        seeds=range(seeds),
        raw={"psnr_of_photos_by_seed": raw},
    )


def best_of_each_kind(found: list[Row]) -> list[Row]:
    """The rows, saying which setting of a kind is shown: the chosen omega, or what has the largest PSNR."""
    allowed = [row for row in found if row.metric == "psnr" and row.details["omega_chosen"] is not False]
    top = {row.details["kind"]: row.condition for row in sorted(allowed, key=lambda row: row.value)}
    return [
        dataclasses.replace(row, details={**row.details, "shown": top[row.details["kind"]] == row.condition})
        for row in found
    ]
