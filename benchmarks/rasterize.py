"""How fast the rasterizer is on the garden's points, at three sizes.

Real points and cameras (138,766 of them at 648 x 420; 30,000 at 324 x 210; 10,000 at 162 x 105), scales from the mean
distance to three neighbours, random opacities and rotations, plain colors. Times are medians over interleaved
repetitions, forward and backward apart, of everything between the Gaussians and the image. Pairs: 256 for each Gaussian
that a tile of 16 x 16 pixels went through before all its pixels were opaque.

    python -m benchmarks run rasterize

`reference` times the reference in torch too, at the smallest size only: it looks at every Gaussian at every pixel.
"""

import os
import statistics
import time

import numpy as np
import torch

from benchmarks.harness import SHARED, NotMeasuredError, Result, Value, rows
from hardy.core.rng import generator
from hardy.ops import kernels
from hardy.report import Row
from hardy.splat import rasterization
from hardy.splat.points import neighbour_distances

GARDEN = SHARED / "splat" / "garden_points.npz"
CASES = {"S": (10_000, 162, 105), "M": (30_000, 324, 210), "L": (138_766, 648, 420)}


class Case:
    """One size: its Gaussians, its camera and its times by (path, threads)."""

    def __init__(self, points: int, width: int, height: int) -> None:
        garden = np.load(GARDEN)
        random = generator(0, "rasterize", points)
        order = torch.randperm(len(garden["means3d"]), generator=random)[:points]
        means = torch.from_numpy(garden["means3d"]).float()[order]
        self.width, self.height = width, height
        self.inputs = [
            means,
            torch.randn(points, 4, generator=random),
            neighbour_distances(means)[:, None].expand(-1, 3).contiguous(),
            torch.rand(points, generator=random),
            torch.from_numpy(garden["colors"]).float()[order] / 255,
        ]
        for tensor in self.inputs:
            tensor.requires_grad_()
        self.view = torch.from_numpy(garden["viewmats"]).float()[:1]
        self.K = torch.from_numpy(garden["Ks"]).float()[:1].clone()
        self.K[:, :2] *= width / 648
        self.wanted = torch.rand(1, height, width, 3, generator=random)
        self.times: dict[tuple[str, int], list[tuple[float, float]]] = {}
        self.pairs = 0

    def measure(self, path: str, threads: int) -> None:
        os.environ[kernels.VARIABLE] = path
        torch.set_num_threads(threads)
        begun = time.perf_counter()
        image, _, info = rasterization(*self.inputs, self.view, self.K, self.width, self.height)
        rendered = time.perf_counter()
        image.backward(self.wanted)
        done = time.perf_counter()
        self.times.setdefault((path, threads), []).append((rendered - begun, done - rendered))
        if path != "torch":
            self.pairs = info["pairs"]
        for tensor in self.inputs:
            tensor.grad = None

    def rows(self, name: str) -> list[Row]:
        found = []
        for (path, threads), times in self.times.items():
            forward, backward = (statistics.median(part) for part in zip(*times, strict=True))
            spread, speed = statistics.pstdev(sum(pair) for pair in times), self.pairs / (forward + backward) / 1e6
            found += rows(
                path,
                {
                    "case": name,
                    "gaussians": len(self.inputs[0]),
                    "width": self.width,
                    "height": self.height,
                    "threads": threads,
                },
                forward_ms=Value(round(1000 * forward, 2), "ms", n=len(times)),
                backward_ms=Value(round(1000 * backward, 2), "ms", n=len(times)),
                spread_ms=Value(round(1000 * spread, 2), "ms", n=len(times)),
                pairs=self.pairs,
                million_pairs_per_second=round(speed, 1),
            )
            print(
                f"{name} {path:>7}, {threads} threads: forward {1000 * forward:8.1f} ms, backward "
                f"{1000 * backward:8.1f} ms, {speed:.1f} M/s"
            )
        return found


def run(*, repetitions: int = 9, reference: bool = False) -> Result:
    if not GARDEN.is_file():
        raise NotMeasuredError(f"the garden's points are not at {GARDEN}")
    found = []
    for name, sizes in CASES.items():
        case = Case(*sizes)
        for repetition in range(repetitions + 1):
            for path in kernels.paths():
                for threads in (1, 2):
                    case.measure(path, threads)
            if reference and name == "S" and repetition < 2:
                case.measure("torch", 1)
            if repetition == 0:  # the rest warmed up
                case.times = {key: times for key, times in case.times.items() if key[0] == "torch"}
        found += case.rows(name)
    return Result(rows=found, seeds=(0,))
