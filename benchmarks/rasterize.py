"""How fast the rasterizer is on the garden's points, at three sizes; writes results/rasterize.json.

Real points and cameras (138,766 of them at 648 x 420; 30,000 at 324 x 210; 10,000 at 162 x 105), scales from the mean
distance to three neighbours, random opacities and rotations, plain colors. Times are medians over interleaved
repetitions, forward and backward apart, of everything between the Gaussians and the image. Pairs: 256 for each Gaussian
that a tile of 16 x 16 pixels went through before all its pixels were opaque.

    python benchmarks/rasterize.py [--repetitions 9] [--torch]

`--torch` times the reference in torch too, at the smallest size only: it looks at every Gaussian at every pixel.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from survival import processor

import hardy
from hardy.core.rng import generator
from hardy.files import write_json
from hardy.ops import kernels
from hardy.splat import rasterization
from hardy.splat.points import neighbour_distances

GARDEN = Path(__file__).parents[2] / "shared" / "data" / "splat" / "garden_points.npz"
RESULT = Path(__file__).parent / "results" / "rasterize.json"
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

    def rows(self, name: str) -> list[dict[str, object]]:
        rows = []
        for (path, threads), times in self.times.items():
            forward, backward = (statistics.median(part) for part in zip(*times, strict=True))
            rows.append(
                {
                    "case": name,
                    "gaussians": len(self.inputs[0]),
                    "width": self.width,
                    "height": self.height,
                    "path": path,
                    "threads": threads,
                    "forward_ms": round(1000 * forward, 2),
                    "backward_ms": round(1000 * backward, 2),
                    "spread_ms": round(1000 * statistics.pstdev(sum(pair) for pair in times), 2),
                    "pairs": self.pairs,
                    "million_pairs_per_second": round(self.pairs / (forward + backward) / 1e6, 1),
                    "repetitions": len(times),
                }
            )
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--torch", action="store_true")
    options = parser.parse_args()
    if not GARDEN.is_file():
        raise SystemExit(f"the garden's points are not at {GARDEN}")
    rows = []
    for name, sizes in CASES.items():
        case = Case(*sizes)
        for repetition in range(options.repetitions + 1):
            for path in kernels.paths():
                for threads in (1, 2):
                    case.measure(path, threads)
            if options.torch and name == "S" and repetition < 2:
                case.measure("torch", 1)
            if repetition == 0:
                case.times = {
                    key: times for key, times in case.times.items() if key[0] == "torch"
                }  # the rest warmed up
        rows += case.rows(name)
    for row in rows:
        times = f"forward {row['forward_ms']:8.1f} ms, backward {row['backward_ms']:8.1f} ms"
        print(
            f"{row['case']} {row['path']:>7}, {row['threads']} threads: {times}, {row['million_pairs_per_second']} M/s"
        )
    result = {
        "command": f"python benchmarks/rasterize.py --repetitions {options.repetitions}"
        + (" --torch" if options.torch else ""),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
