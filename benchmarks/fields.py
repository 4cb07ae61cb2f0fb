"""Activations side by side under one protocol, omega swept for sine and quad; writes results/fields.json.

The central squares of the eight Kodak photographs beside the checkout, 512 x 512 averaged to SIZE x SIZE, a network of
three hidden layers on each, full-batch Adam, learning rate falling tenfold. PSNR of the fitted photo, mean and spread
over the photos, steps to 30 dB. All photos of an activation are fitted in one batch.

Learning rates and the "best" omegas are chosen on four crops of the photographs that scikit-learn brings along, of the
same size, seed 0: the Kodak photographs are only judged.

    python benchmarks/fields.py [--size 48] [--steps 300] [--width 48] [--seeds 2]
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from survival import processor
from torch.nn.functional import interpolate

import hardy
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
from hardy.files import write_json

RESULT = Path(__file__).parent / "results" / "fields.json"
PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "images" / "kodak"
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


def chosen(kinds: list[Activation], options: argparse.Namespace) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """PSNR on the choosing photos of each learning rate of each kind, and of each omega, the best of each named."""
    signals = choosing(options.size)
    rates: dict[str, dict[str, float]] = {}
    best: dict[str, tuple[float, str]] = {}
    for kind in kinds:
        if type(kind) in (Sine, Quad) and kind.factor(True) != 30.0:
            continue  # the learning rate of a wave is chosen at omega 30
        for rate in RATES:
            schedule = Schedule(steps=options.steps, check_every=options.steps, learning_rate=rate)
            found = mean_psnr(fitted(kind, signals, schedule, options.width, 0))
            rates.setdefault(str(kind), {})[str(rate)] = round(found, 3)
    for kind in kinds:
        if type(kind) not in (Sine, Quad):
            continue
        schedule = Schedule(steps=options.steps, check_every=options.steps, learning_rate=rate_of(kind, rates))
        found = mean_psnr(fitted(kind, signals, schedule, options.width, 0))
        best[kind.name] = max(best.get(kind.name, (0.0, "")), (found, str(kind)))
    return rates, {name: kind for name, (_, kind) in best.items()}


def rate_of(kind: Activation, rates: dict[str, dict[str, float]]) -> float:
    """The learning rate that was best on the choosing photos; for sine and quad the one of omega 30."""
    of = {Sine: str(Sine()), Quad: str(Quad())}.get(type(kind), str(kind))
    return float(max(rates[of], key=lambda rate: rates[of][rate]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("size", 48), ("steps", 300), ("width", 48), ("seeds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    seeds = range(options.seeds)
    torch.set_num_threads(1)
    files = sorted(PHOTOS.glob("*.png"))
    signals = [shrunk(file, options.size) for file in files]
    begun, rows = time.monotonic(), []
    rates, best = chosen(ROWS, options)
    print("chosen on other photos:", rates, best, flush=True)
    print(f"{'activation':44} {'PSNR':>6} {'spread':>6} {'of seeds':>8} {'to 30 dB':>9} {'seconds':>8}")
    for kind in ROWS:
        psnr, steps, seconds = [], [], []
        for seed in seeds:
            schedule = Schedule(steps=options.steps, check_every=10, learning_rate=rate_of(kind, rates))
            fits = fitted(kind, signals, schedule, options.width, seed)
            psnr.append([round(result.psnr, 3) for result in fits])
            steps.append([result.steps_to(TARGET) for result in fits])
            seconds.append(round(fits[0].seconds, 2))
        photos = [statistics.mean(values) for values in zip(*psnr, strict=True)]
        reached = [step for of_seed in steps for step in of_seed if step is not None]
        row = {
            "activation": str(kind),
            "learning_rate": rate_of(kind, rates),
            "omega_chosen": best.get(kind.name) == str(kind) if kind.name in best else None,
            "psnr": statistics.mean(photos),
            "spread_over_photos": statistics.stdev(photos),
            "spread_of_seeds": statistics.stdev(map(statistics.mean, psnr)) if len(psnr) > 1 else None,
            "reached_30_db": len(reached) / (len(seeds) * len(signals)),
            "median_steps_to_30_db": statistics.median(reached) if reached else None,
            "seconds_for_all_photos": statistics.mean(seconds),
            "psnr_of_photos_by_seed": psnr,
        }
        rows.append(row)
        short = f"{row['median_steps_to_30_db'] or '-'} ({row['reached_30_db']:.0%})"
        print(
            f"{kind!s:44} {row['psnr']:6.2f} {row['spread_over_photos']:6.2f} {row['spread_of_seeds'] or 0:8.2f} "
            f"{short:>9} {row['seconds_for_all_photos']:8.1f}",
            flush=True,
        )
    result = {
        "command": "python benchmarks/fields.py "
        + " ".join(f"--{name} {value}" for name, value in vars(options).items()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "photos": [file.name for file in files],
        "seeds": list(seeds),
        "learning_rates_tried": rates,
        "best_omega_on_other_photos": best,
        "seconds": round(time.monotonic() - begun, 1),
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"{result['seconds']:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
