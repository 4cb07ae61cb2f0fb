"""Teaching pixels: INT's and NINT's choice of points for a field, beside uniform sampling and all points.

Four Kodak photographs (beside the checkout), averaged to 48 x 48, a SIREN of three layers on each, one step on a fifth
of the pixels each time. INT takes the largest errors and keeps its choice for 1 to 50 steps (each step anew for the
first quarter), with a fifth of the pixels or with a share that grows in ten stages to all; soft draws by the same
errors; NINT adds the kernel's score and 70 % random pixels. Two arms choose anew in every step.

Controls: fresh uniform pixels in every step, as many; random pixels by INT's schedule; all pixels in every step.
Seconds are CPU seconds of the whole fit: choosing, scoring and, alike for all, the checks every 20 steps.

    python -m benchmarks run teach_pixels
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import Result, Value, mean_of, rows
from hardy.fields import Field, Schedule, Signal, fit
from hardy.teach import Teacher, schedules, selectors

CHECK = 20
FIFTH = schedules.Constant(ratio=0.2)
INT = schedules.Growing(first=1, last=50, dense=0.25)
ARMS: Mapping[str, Mapping[str, Any]] = {
    "all pixels": {"selector": "full", "interval": schedules.Every()},
    "uniform": {"selector": "random", "ratio": FIFTH, "interval": schedules.Every()},
    "random, INT's schedule": {"selector": "random", "ratio": FIFTH, "interval": INT},
    "INT": {"selector": "hard", "ratio": FIFTH, "interval": INT},
    "INT, growing share": {"selector": "hard", "ratio": schedules.Staircase(start=0.2, stages=10), "interval": INT},
    "INT, each step anew": {"selector": "hard", "ratio": FIFTH, "interval": schedules.Every()},
    "soft, each step anew": {"selector": "soft", "ratio": FIFTH, "interval": schedules.Every()},
    "INT, soft": {"selector": "soft", "ratio": FIFTH, "interval": INT},
    "NINT": {"selector": selectors.KernelGuided(), "ratio": FIFTH, "interval": INT},
}
CONTROL = "uniform"


class Clocked:
    """A teacher that notes the CPU seconds at each step."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.updates = teacher, teacher.updates
        self.begun, self.clock = time.process_time(), []

    def choose(self, examples: Any) -> torch.Tensor:
        self.clock.append(time.process_time() - self.begun)
        return self.teacher.choose(examples)

    def state_dict(self) -> dict[str, Any]:
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.teacher.load_state_dict(state)


def course(arm: str, photo: Signal, width: int, steps: int, seed: int) -> tuple[list[float], list[float], float]:
    """CPU seconds and PSNR at each check, and the share of the time that choosing took."""
    field = Field(2, 3, hidden_features=width, activation="sine", seed=seed)
    teacher = Clocked(Teacher(steps, seed=seed, **ARMS[arm]))
    fitted = fit(field, photo, teacher=teacher, schedule=Schedule(steps=steps, check_every=CHECK))
    clock = [*teacher.clock, time.process_time() - teacher.begun]
    psnr = [value for _, value in fitted.history]
    seconds = [clock[step] for step, _ in fitted.history]
    return seconds, psnr, teacher.teacher.seconds / fitted.seconds


def run(*, size: int = 48, width: int = 48, steps: int = 250, photos: int = 4, seeds: int = 2) -> Result:
    signals = [shrunk(file, size) for file in photographs(photos)]
    ends: dict[str, list[tuple[float, float, float, float]]] = {arm: [] for arm in ARMS}
    reached: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for index, photo in enumerate(signals):
        for seed in range(seeds):
            curves = {arm: course(arm, photo, width, steps, seed) for arm in ARMS}
            least = min(seconds[-1] for seconds, _, _ in curves.values())
            goal = curves[CONTROL][1][-1]
            for arm, (seconds, psnr, choosing) in curves.items():
                reached[arm] += [at for at, value in zip(seconds, psnr, strict=True) if value >= goal][:1]
                ends[arm].append((psnr[-1], float(np.interp(least, seconds, psnr)), seconds[-1], choosing))
            shown = ", ".join(f"{arm} {of[-1][0]:.1f} dB in {of[-1][2]:.1f} s" for arm, of in ends.items())
            print(f"photo {index}, seed {seed}: {shown}", flush=True)
    made = []
    for arm, of_runs in ends.items():
        psnr, equal, seconds, choosing = (list(values) for values in zip(*of_runs, strict=True))
        gain = [here - there[1] for here, there in zip(equal, ends[CONTROL], strict=True)]
        times = reached[arm]
        made += rows(
            arm,
            {"reached": len(times), "runs": len(of_runs)},
            seeds=range(seeds),
            baseline=None if arm == CONTROL else CONTROL,
            psnr=mean_of(psnr, "dB"),
            psnr_at_equal_seconds=mean_of(equal, "dB"),
            better_than_uniform_at_equal_seconds=None if arm == CONTROL else mean_of(gain, "dB"),
            cpu_seconds=mean_of(seconds, "s"),
            cpu_seconds_to_what_uniform_ends_with=Value(statistics.mean(times), "s", n=len(times)) if times else None,
            share_of_choosing=mean_of(choosing, "share"),
        )
    return Result(rows=made, settings={"check_every": CHECK, "photos": photos}, seeds=range(seeds), raw=ends)
