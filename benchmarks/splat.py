"""Densification strategies on the fox or the ray-traced room.

50 posed photos of the fox, every 8th held out, no sparse points: random ones to start with; or 40 views of the room,
with points. All strategies have the same steps, views in the same order and start; only densification differs. Measured
are PSNR and SSIM on the held-out views, PSNR on the training views beside them, seconds of training alone, on one
thread, and pairs of pixel and Gaussian, which do not depend on what else runs. `global_to_local` and `reactivate` are
measured whole, and with each part alone added to vanilla. Stopped anywhere, the same command goes on.

    python -m benchmarks run splat-fox-135
"""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.harness import SHARED, NotMeasuredError, Result, Value, mean_of, rows
from hardy.files import read_json, write_json
from hardy.report import Row
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

FOX = SHARED / "splat" / "fox"
UNITS = {"psnr": "dB", "ssim": "", "gaussians": "", "seconds": "s", "pairs": ""}


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


def run(
    *,
    work: Path,
    scene: str = "fox",
    steps: int = 1500,
    seeds: int = 3,
    downscale: int = 2,
    points: int = 5000,
    budget: int = 0,
    only: str = "",
) -> Result:
    if scene == "fox" and not FOX.is_dir():
        raise NotMeasuredError(f"the fox is not at {FOX}")
    loaded = load_scene(FOX, downscale=downscale) if scene == "fox" else room()
    names = [name.strip() for name in only.split(",") if name.strip()] or list(strategies(steps))
    done = work / "runs.json"
    runs: list[dict[str, Any]] = read_json(done) if done.is_file() else []
    for seed in range(seeds):
        for name in names:
            if any(each["strategy"] == name and each["seed"] == seed for each in runs):
                continue
            strategy = strategies(steps, cap_max=budget or None, seed=seed)[name]
            settings = Options(
                steps=steps,
                sh_degree=1,
                random_points=points,
                evaluate_every=max(1, steps // 30),
                seed=seed,
            )
            found = train(loaded, strategy, options=settings)
            fitted = evaluate(found.parameters, loaded.views).psnr
            runs.append({"strategy": name, "seed": seed, "training_psnr": fitted, "history": found.history})
            last = found.history[-1]
            print(
                f"{name:26} seed {seed}: {last['psnr']:.2f} dB {last['ssim']:.3f}, {last['gaussians']} Gaussians, "
                f"{last['seconds']:.0f} s, {last['pairs'] / 1e9:.2f} G pairs; {fitted:.2f} dB on the training views",
                flush=True,
            )
            write_json(done, runs)
    height, width = loaded.views[0].image.shape[:2]
    return Result(
        rows=[row for name in names for row in rows_of(name, runs)],
        settings={"scene": {"name": scene, "width": width, "height": height, "views": len(loaded.views)}},
        seeds=range(seeds),
        raw={"runs": runs},
    )


def rows_of(name: str, runs: list[dict[str, Any]]) -> list[Row]:
    """Last figures over seeds; and the share of vanilla's pairs and seconds to its PSNR, if every seed reached it."""
    of = [run for run in runs if run["strategy"] == name]
    bases = [next((r for r in runs if r["strategy"] == "vanilla" and r["seed"] == run["seed"]), None) for run in of]
    found = {metric: mean_of([run["history"][-1][metric] for run in of], unit) for metric, unit in UNITS.items()}
    found["training_psnr"] = mean_of([run["training_psnr"] for run in of], "dB")
    pairs = [run["history"][-1]["pairs"] for run in runs if run["strategy"] == "vanilla"]
    found["work"] = Value(found["pairs"].value / statistics.mean(pairs), n=len(of))
    reached = 0
    for metric in ("seconds", "pairs"):
        shares = []
        for run, base in zip(of, bases, strict=True):
            goal = base["history"][-1] if base else None
            at = [look[metric] for look in run["history"] if goal and look["psnr"] >= goal["psnr"]]
            shares += [at[0] / goal[metric]] if goal and at else []
        reached = len(shares)
        if shares and reached == len(of):
            found[f"{metric}_to_vanilla"] = Value(statistics.mean(shares), n=reached)
    whole = name in ("vanilla", "global_to_local", "reactivate", "both")
    details = {"whole": whole, "reached": reached, "of": len(of)}
    return rows(name, details, seeds=[run["seed"] for run in of], baseline="vanilla", **found)
