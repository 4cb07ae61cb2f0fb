"""A thing taken out of traced scenes: what is behind it, filled in by PAInpainter's rounds, against the truth.

Three scenes: a ball in mid-air, which other views see all around of; a ball on the floor, whose foot and shadow nobody
sees; a block on a wall, behind which nobody sees anything. Photos with the thing and masks of all that it changes, its
shadow included; without it the same rays give what every hidden pixel would be, exactly. The masks are given. Judged
are renderings of the completed Gaussians in the holes of the training views, apart for the thing and its shadow, and in
the same places of held-out views; and how far photos that trained agree with each other where they show one point of
the true surface. All have the same number of training steps. Controls are rows: nothing filled; each photo inpainted
by itself, with two inpainters; training with the holes left out; and the whole without each of its parts.

LPIPS is not measured: its networks' weights come in no package. Stopped anywhere, the same command goes on.

    python -m benchmarks run inpaint
"""

import dataclasses
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, Value, mean_of, rows
from hardy.files import read_json, write_json
from hardy.splat import train
from hardy.splat.consistency import agreement, hole_psnr, hole_ssim
from hardy.splat.filling import Rules
from hardy.splat.inpainters import OpenCV, PatchMatch
from hardy.splat.inpainting import inpaint, starting_points, without_holes
from hardy.splat.removal import remove
from hardy.splat.strategies import vanilla
from hardy.splat.traced_removal import STAGES, Removable, removable
from hardy.splat.training import Options
from hardy.splat.warping import rendered

PEERS = ("opencv-python-headless",)
ROUNDS = 3
PARTS: dict[str, dict[str, Any]] = {
    "masked training alone": {"rules": Rules(pulled=0)},
    "multi-view pull alone": {"rules": Rules(colors="photos")},
    "without pull": {"rules": Rules(pulled=0), "inpainter": PatchMatch()},
    "without verification": {"rules": Rules(candidates=1, accept=0), "inpainter": PatchMatch()},
    "without propagation": {"rules": Rules(neighbours=0), "inpainter": PatchMatch()},
    "whole": {"rules": Rules(), "inpainter": PatchMatch()},
}
ALONE = {"2D fill, PatchMatch": PatchMatch(), "2D fill, Navier-Stokes": OpenCV()}
METRICS = {
    "hole": "dB", "thing": "dB", "shadow": "dB", "held_out": "dB", "outside": "dB", "ssim": "", "agreement": "dB",
    "seconds": "s",
}  # fmt: skip


def run(
    *,
    work: Path,
    seeds: int = 1,
    width: int = 52,
    height: int = 39,
    views: int = 12,
    steps: int = 400,
    later: int = 60,
) -> Result:
    done = work / "cells.json"
    cells: list[dict[str, Any]] = read_json(done) if done.is_file() else []
    for seed in range(seeds):
        for stage in STAGES:
            known = {cell["condition"] for cell in cells if cell["scene"] == stage and cell["seed"] == seed}
            missing = [name for name in ("nothing", *ALONE, *PARTS) if name not in known]
            if not missing:
                continue
            scene = removable(stage, width=width, height=height, views=views, points=800, seed=seed)
            options = Options(steps=steps + ROUNDS * later, sh_degree=1, seed=seed)
            begun = time.monotonic()
            strategy = vanilla(steps, cap_max=1500, seed=seed)
            start = starting_points(scene.scene, scene.holes, options)
            around = without_holes(scene.scene, scene.holes)
            base = train(around, strategy, options=options, start=start, until=steps)
            before = time.monotonic() - begun
            for name in missing:
                begun = time.monotonic()
                if name in PARTS:
                    shared = {"rounds": ROUNDS, "steps": steps, "round_steps": later, "growth": 0, "options": options}
                    made = inpaint(scene.scene, scene.holes, start=base, strategy=strategy, **shared, **PARTS[name])
                    parameters, begun = made.training.parameters, begun - before
                    photos = None if PARTS[name]["rules"].pulled == 0 and "inpainter" not in PARTS[name] else made.views
                elif name in ALONE:
                    pairs = list(zip(scene.scene.views, scene.holes, strict=True))
                    photos = [
                        dataclasses.replace(view, image=ALONE[name](view.image, hole, seed=seed)[0])
                        for view, hole in pairs
                    ]
                    filled = dataclasses.replace(scene.scene, views=tuple(photos))
                    parameters = train(filled, strategy, options=options, start=start).parameters
                else:
                    whole = train(scene.scene, strategy, options=options).parameters
                    parameters, photos = remove(whole, scene.scene.views, scene.holes, growth=0).parameters, None
                figures = measured(scene, parameters, photos) | {"seconds": time.monotonic() - begun}
                cells.append({"scene": stage, "seed": seed, "condition": name, **figures})
                print(cells[-1], flush=True)
                write_json(done, cells)
    return Result(
        rows=[row for stage in STAGES for row in rows_of(stage, cells)],
        settings={
            "photos": f"{views} of {width} x {height}",
            "steps": f"{steps} and {ROUNDS} rounds of {later}",
            "most memory of the process, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        },
        seeds=range(seeds),
        notes=(
            "LPIPS is not measured: no package that pip installs carries the weights of its networks.",
            "Seconds are of a machine with other work, to be compared within a scene only.",
        ),
        raw={"cells": cells},
    )


def measured(scene: Removable, parameters: Any, photos: Any) -> dict[str, float]:
    """Figures of one completed scene; its photos are those it trained on, or its renderings where there are none."""
    images = [rendered(parameters, view).image for view in scene.truth]
    shown = images if photos is None else [view.image for view in photos]
    held_out = [rendered(parameters, view).image for view in scene.held_out]
    shadows = [hole & ~thing for hole, thing in zip(scene.holes, scene.things, strict=True)]
    return {
        "hole": hole_psnr(images, scene.truth, scene.holes),
        "thing": hole_psnr(images, scene.truth, scene.things),
        "shadow": hole_psnr(images, scene.truth, shadows),
        "held_out": hole_psnr(held_out, scene.held_out, scene.held_out_holes),
        "outside": hole_psnr(images, scene.truth, [~hole for hole in scene.holes]),
        "ssim": hole_ssim(images, scene.truth, scene.holes),
        "agreement": agreement(shown, scene.truth, scene.depths, scene.holes),
    }


def rows_of(stage: str, cells: list[dict[str, Any]]) -> list[Any]:
    """Means over seeds, and of the whole how far it is above the better of the two fills of single photos."""
    found = []
    for name in dict.fromkeys(cell["condition"] for cell in cells):
        of = [cell for cell in cells if cell["scene"] == stage and cell["condition"] == name]
        values = {metric: mean_of([cell[metric] for cell in of], unit) for metric, unit in METRICS.items()}
        if name == "whole":
            gains = [cell["hole"] - best_alone(cells, stage, cell["seed"]) for cell in of]
            values["above_2d"] = Value(statistics.mean(gains), "dB", n=len(gains))
        details = {"scene": stage, "method": name}
        found += rows(f"{stage}, {name}", details, seeds=[cell["seed"] for cell in of], **values)
    return found


def best_alone(cells: list[dict[str, Any]], stage: str, seed: int) -> float:
    return max(
        cell["hole"] for cell in cells if cell["scene"] == stage and cell["seed"] == seed and cell["condition"] in ALONE
    )
