"""Fields under weight noise after plain and robust training.

SIRENs of three hidden layers on photographs as in fields.py. Noise on all weight matrices: additive, relative to the
standard deviation of each matrix, and proportional to each weight; PSNR, mean over photos and chip instances, spread
over instances (mean of the photos' standard deviations). Strengths of a loss were not tuned on these photos.

    python -m benchmarks run robust [--size 48] [--steps 400] [--width 48] [--photos 8] [--instances 10]
"""

import torch

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import Result, Value, mean_of, rows
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
from hardy.hardware import AdditiveNoise, ProportionalNoise

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


def run(*, size: int = 48, steps: int = 400, width: int = 48, photos: int = 8, instances: int = 10) -> Result:
    files, found = photographs(photos), []
    signals = [shrunk(file, size) for file in files]
    print(f"{'clean':>87} {'additive 1, 2, 5, 10 %':>27} {'proportional 1, 2, 5, 10 %':>27}")
    for loss in LOSSES:
        fields = [Field(2, 3, hidden_features=width) for _ in signals]
        fits = fit_many(fields, signals, loss=loss, schedule=Schedule(steps=steps))
        clean = mean_of([fit.psnr for fit in fits], "dB")
        found += rows(str(loss), {"noise": "none"}, psnr=clean, seconds=Value(fits[0].seconds, "s"))
        shown = []
        for noise in NOISES:
            pairs = zip(fields, signals, strict=True)
            values = torch.stack([noisy_psnr(field, signal, noise, instances) for field, signal in pairs])
            value = Value(values.mean().item(), "dB", values.std(1).mean().item(), instances)
            found += rows(str(loss), {"noise": str(noise)}, seeds=range(1000, 1000 + instances), psnr=value)
            shown.append(f"{value.value:6.2f}")
        print(f"{loss!s:80.80} {clean.value:6.2f} {' '.join(shown)}  {fits[0].seconds:.0f} s", flush=True)
    settings = {
        "photos": [file.name for file in files],
        "chip_seeds": [1000, 1000 + instances - 1],
        "spread": "without noise over photos, with noise over chip instances (mean of the photos' own)",
    }
    return Result(rows=found, settings=settings, seeds=(0,))
