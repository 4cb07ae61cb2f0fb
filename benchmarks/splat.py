"""Densification strategies on the fox or the ray-traced room; writes results/splat-NAME.json.

50 posed photos of the fox, every 8th held out, no sparse points: random ones to start with; or 40 views of the room,
with points. All strategies have the same steps, views in the same order and start; only densification differs. Measured
are PSNR and SSIM on the held-out views, PSNR on the training views beside them, seconds of training alone, on one
thread, and pairs of pixel and Gaussian, which do not depend on what else runs. `global_to_local` and `reactivate` are
measured whole, and with each part alone added to vanilla. Stopped anywhere, the same command goes on.

    python benchmarks/splat.py NAME [--scene fox] [--steps 1500] [--seeds 3] [--downscale 2] [--points 5000]
                               [--budget 0] [--only A,B]
"""

import argparse
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from survival import processor

import hardy
from hardy.files import write_json
from hardy.splat import load_scene, train
from hardy.splat.room import room
from hardy.splat.strategies import (
    DensityClone,
    EnergySchedule,
    ImportanceWeightedGradient,
    NeedlePerturbation,
    QuantilePrune,
    global_to_local,
    global_to_local_reactivate,
    reactivate,
    vanilla,
)
from hardy.splat.training import Options, evaluate

FOX = Path(__file__).parents[2] / "shared" / "data" / "splat" / "fox"
RESULTS = Path(__file__).parent / "results"


def strategies(steps: int, **changes: Any) -> dict[str, Any]:
    """By name; `changes` are the budget and the seed, the same for all."""
    later = round(25 / 30 * steps)
    return {
        "vanilla": vanilla(steps, **changes),
        "global_to_local": global_to_local(steps, **changes),
        "reactivate": reactivate(steps, **changes),
        "both": global_to_local_reactivate(steps, **changes),
        "vanilla + resolution": vanilla(steps, resolution=EnergySchedule(), refine_stop_iter=later, **changes),
        "vanilla + quantile prune": vanilla(steps, prune=QuantilePrune(), **changes),
        "vanilla + importance": vanilla(steps, criterion=ImportanceWeightedGradient(), grow_grad2d=3e-4, **changes),
        "vanilla + density clone": vanilla(steps, clone=DensityClone(), **changes),
        "vanilla + needles": vanilla(steps, needles=NeedlePerturbation(), **changes),
        "vanilla + densified longer": vanilla(steps, refine_stop_iter=later, **changes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result")
    parser.add_argument("--scene", choices=("fox", "room"), default="fox")
    sizes = {"steps": 1500, "seeds": 3, "downscale": 2, "points": 5000, "budget": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if options.scene == "fox" and not FOX.is_dir():
        raise SystemExit(f"the fox is not at {FOX}")
    torch.set_num_threads(1)
    scene = load_scene(FOX, downscale=options.downscale) if options.scene == "fox" else room()
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    names = wanted or list(strategies(options.steps))
    height, width = scene.views[0].image.shape[:2]
    command = f"python benchmarks/splat.py {options.name} --scene {options.scene} " + " ".join(
        f"--{name} {getattr(options, name)}" for name in sizes
    )
    file = RESULTS / f"splat-{options.name}.json"
    result: dict[str, Any] = {
        "command": command + (f' --only "{options.only}"' if options.only else ""),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "scene": {"name": options.scene, "width": width, "height": height, "views": len(scene.views)},
        "steps": options.steps,
        "budget": options.budget or None,
        "seeds": list(range(options.seeds)),
        "rows": [],
        "runs": [],
    }
    if file.is_file():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if earlier["command"].partition(" --only")[0] == command:
            result["runs"] = earlier["runs"]
    runs = result["runs"]
    for seed in range(options.seeds):
        for name in names:
            if any(run["strategy"] == name and run["seed"] == seed for run in runs):
                continue
            strategy = strategies(options.steps, cap_max=options.budget or None, seed=seed)[name]
            settings = Options(
                steps=options.steps,
                sh_degree=1,
                random_points=options.points,
                evaluate_every=max(1, options.steps // 30),
                seed=seed,
            )
            found = train(scene, strategy, options=settings)
            fitted = evaluate(found.parameters, scene.views).psnr
            runs.append({"strategy": name, "seed": seed, "training_psnr": fitted, "history": found.history})
            last = found.history[-1]
            print(
                f"{name:26} seed {seed}: {last['psnr']:.2f} dB {last['ssim']:.3f}, {last['gaussians']} Gaussians, "
                f"{last['seconds']:.0f} s, {last['pairs'] / 1e9:.2f} G pairs; {fitted:.2f} dB on the training views",
                flush=True,
            )
            done = {run["strategy"] for run in runs}
            result["rows"] = [row_of(each, runs) for each in strategies(options.steps) if each in done]
            write_json(file, result)
    for row in result["rows"]:
        print(row)
    print(f"written to {file}")


def row_of(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over seeds of the last figures, and the share of vanilla's pairs and seconds to its PSNR."""
    of = [run for run in runs if run["strategy"] == name]
    row: dict[str, Any] = {"strategy": name, "seeds": len(of)}
    for metric in ("psnr", "ssim", "gaussians", "seconds", "pairs"):
        values = [run["history"][-1][metric] for run in of]
        row[metric] = statistics.mean(values)
        row[f"{metric}_spread"] = statistics.stdev(values) if len(values) > 1 else None
    fitted = [run.get("training_psnr") for run in of]
    row["training_psnr"] = None if None in fitted else statistics.mean(fitted)
    for metric in ("seconds", "pairs"):
        shares = []
        for run in of:
            base = [r for r in runs if r["strategy"] == "vanilla" and r["seed"] == run["seed"]]
            if not base:
                continue
            goal = base[0]["history"][-1]
            reached = [look[metric] for look in run["history"] if look["psnr"] >= goal["psnr"]]
            shares.append(reached[0] / goal[metric] if reached else None)
        known = [share for share in shares if share is not None]
        row[f"{metric}_to_vanilla"] = statistics.mean(known) if known and len(known) == len(shares) else None
        row["reached"] = len(known)
    return row


if __name__ == "__main__":
    main()
