"""Activations side by side under one protocol, omega swept for sine and quad; writes results/fields.json.

The central squares of the eight Kodak photographs beside the checkout, 512 x 512 averaged to SIZE x SIZE, a network of
three hidden layers on each, full-batch Adam, learning rate falling tenfold. PSNR of the fitted photo, mean and spread
over the photos, steps to 30 dB. All photos of an activation are fitted in one batch. The learning rate of each
activation is its default, which was chosen on 64 x 64 crops of kodim01 and kodim03 at 300 steps.

    python benchmarks/fields.py [--size 64] [--steps 300] [--width 48] [--seeds 1]
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from survival import processor
from torch.nn.functional import avg_pool2d

import hardy
from hardy.core.files import write_json
from hardy.fields import (
    Activation,
    Field,
    Finer,
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
)

RESULT = Path(__file__).parent / "results" / "fields.json"
PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "images" / "kodak"
OMEGAS = (10.0, 19.1, 30.0, 45.0, 60.0)
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
    return Signal.on_grid(avg_pool2d(pixels.movedim(-1, 0), 512 // size).movedim(0, -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("size", 64), ("steps", 300), ("width", 48), ("seeds", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    seeds = range(options.seeds)
    torch.set_num_threads(1)
    files = sorted(PHOTOS.glob("*.png"))
    signals = [shrunk(file, options.size) for file in files]
    schedule = Schedule(steps=options.steps, check_every=10)
    begun, rows = time.monotonic(), []
    print(f"{'activation':44} {'PSNR':>6} {'spread':>6} {'of seeds':>8} {'to 30 dB':>9} {'seconds':>8}")
    for kind in ROWS:
        psnr, steps, seconds = [], [], []
        for seed in seeds:
            fields = [Field(2, 3, hidden_features=options.width, activation=kind, seed=seed) for _ in signals]
            fits = fit_many(fields, signals, schedule=schedule)
            psnr.append([round(result.psnr, 3) for result in fits])
            steps.append([result.steps_to(TARGET) for result in fits])
            seconds.append(round(fits[0].seconds, 2))
        photos = [statistics.mean(values) for values in zip(*psnr, strict=True)]
        reached = [step for of_seed in steps for step in of_seed if step is not None]
        row = {
            "activation": str(kind),
            "learning_rate": kind.learning_rate,
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
        "seconds": round(time.monotonic() - begun, 1),
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"{result['seconds']:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
