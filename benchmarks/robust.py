"""Fields under weight noise after plain and robust training; writes results/robust.json.

SIRENs of three hidden layers on photographs as in fields.py. Noise on all weight matrices: additive, relative to the
standard deviation of each matrix, and proportional to each weight; PSNR, mean over photos and chip instances, spread
over instances (mean of the photos' standard deviations). Strengths of a loss were not tuned on these photos.

    python benchmarks/robust.py [--size 48] [--steps 400] [--width 48] [--photos 8] [--instances 10]
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from fields import PHOTOS, shrunk
from survival import processor

import hardy
from hardy.fields import (
    Field,
    GradientNorm,
    Schedule,
    SharpnessAware,
    SquaredError,
    WeightPerturbation,
    fit_many,
    noisy_psnr,
)
from hardy.files import write_json
from hardy.hardware import AdditiveNoise, ProportionalNoise

RESULT = Path(__file__).parent / "results" / "robust.json"
STRENGTHS = (0.01, 0.02, 0.05, 0.1)
LOSSES = (
    SquaredError(),
    GradientNorm(strength=3e-3),
    GradientNorm(strength=3e-2),
    GradientNorm(strength=1e-3, norm="l1"),
    SharpnessAware(radius=0.02),
    WeightPerturbation(noise=AdditiveNoise(strength=0.02, relative_to="tensor-std")),
    WeightPerturbation(noise=AdditiveNoise(strength=0.05, relative_to="tensor-std")),
    WeightPerturbation(noise=AdditiveNoise(strength=0.1, relative_to="tensor-std")),
)
NOISES = [
    *(AdditiveNoise(strength=strength, relative_to="tensor-std", seed=1000) for strength in STRENGTHS),
    *(ProportionalNoise(strength=strength, seed=1000) for strength in STRENGTHS),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("size", 48), ("steps", 400), ("width", 48), ("photos", 8), ("instances", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(PHOTOS.glob("*.png"))[: options.photos]
    signals = [shrunk(file, options.size) for file in files]
    begun, rows = time.monotonic(), []
    print(f"{'clean':>87} {'additive 1, 2, 5, 10 %':>27} {'proportional 1, 2, 5, 10 %':>27}")
    for loss in LOSSES:
        fields = [Field(2, 3, hidden_features=options.width) for _ in signals]
        fits = fit_many(fields, signals, loss=loss, schedule=Schedule(steps=options.steps))
        row = {"loss": str(loss), "clean": statistics.mean(fit.psnr for fit in fits), "seconds": fits[0].seconds}
        row["noisy"] = []
        for noise in NOISES:
            pairs = zip(fields, signals, strict=True)
            values = torch.stack([noisy_psnr(field, signal, noise, options.instances) for field, signal in pairs])
            spread = values.std(1).mean().item()
            row["noisy"].append({"noise": str(noise), "psnr": values.mean().item(), "spread": spread})
        rows.append(row)
        shown = " ".join(f"{found['psnr']:6.2f}" for found in row["noisy"])
        print(f"{loss!s:80.80} {row['clean']:6.2f} {shown}  {row['seconds']:.0f} s", flush=True)
    result = {
        "command": "python benchmarks/robust.py "
        + " ".join(f"--{name} {value}" for name, value in vars(options).items()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "photos": [file.name for file in files],
        "seeds": [0],
        "chip_seeds": [1000, 1000 + options.instances - 1],
        "seconds": round(time.monotonic() - begun, 1),
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"{result['seconds']:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
