"""Things taken out of scenes: what is behind them, filled in by PAInpainter's rounds, against the truth.

Three traced rooms: a ball in mid-air, which other views see all around of; a ball on the floor, whose foot and shadow
nobody sees; a block on a wall, behind which nobody sees anything. Photos with the thing and masks of all that it
changes, its shadow included; without it the same rays give what every hidden pixel would be, exactly. And the photos of
the fox, from which discs are cut, at another place in each photo; what was cut is the truth. Masks are given, of the
thing and of its shadow.

Judged are renderings of the completed Gaussians in the holes of the training views: all of them, those of which at
least two other photos show the surface ("seen"), and those of which none does ("unseen"); for traced rooms the thing
and its shadow apart; and the same places in held-out views. Agreement is between renderings, and between the photos
that trained, where two show one point of the true surface. All arms have the same number of training steps. Controls
are rows: nothing filled; each photo inpainted by itself; training with the holes left out; the whole without each of
its parts; and a training on the true photos, which is the most that can be had.

LPIPS is not measured: its networks' weights come in no package. Stopped anywhere, the same command goes on. The
settings were chosen on a fourth room ("block"), which is not judged; that shadows are given apart came from a look at
"hovering", and the rule for the anchor from one at "wall", after which the arms that propagate were measured again.

    python -m benchmarks run inpaint
"""

import dataclasses
import math
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import SHARED, Result, Value, mean_of, rows
from hardy.files import read_json, write_json
from hardy.splat import load_scene, train
from hardy.splat.consistency import agreement, hole_psnr, hole_ssim
from hardy.splat.filling import Rules
from hardy.splat.inpainters import Inpainter, OpenCV, PatchMatch, Tiny
from hardy.splat.inpainting import inpaint, starting_points, without_holes
from hardy.splat.masks import save_masks
from hardy.splat.removal import remove
from hardy.splat.strategies import vanilla
from hardy.splat.traced_removal import Removable, removable
from hardy.splat.training import Options, Training
from hardy.splat.view_graph import visible
from hardy.splat.warping import Rendered, places, rendered

FOX = SHARED / "splat" / "fox"
PEERS = ("opencv-python-headless",)
JUDGED = ("hovering", "standing", "wall", "fox, scattered")
ROUNDS = 3
MASKED, REMOVED, WHOLE = "masked training alone", "removal and masked training", "whole"
NOTHING, CEILING = "nothing", "true photos"
PARTS: dict[str, dict[str, Any]] = {
    MASKED: {"rules": Rules(pulled=0), "before": "masked"},
    REMOVED: {"rules": Rules(pulled=0)},
    "multi-view pull alone": {},
    "without pull": {"rules": Rules(pulled=0), "inpainter": "PatchMatch"},
    "without verification": {"rules": Rules(candidates=1, accept=0), "inpainter": "PatchMatch"},
    "without propagation": {"rules": Rules(neighbours=0), "inpainter": "PatchMatch"},
    "whole after masked training": {"inpainter": "PatchMatch", "before": "masked"},
    WHOLE: {"inpainter": "PatchMatch"},
}
ALONE = {f"2D fill, {name}": name for name in ("PatchMatch", "Navier-Stokes", "tiny")}
SAME_IF_CUT = ("whole after masked training", REMOVED)  # where there is no thing, training is masked anyway
TINY = "2D fill, tiny"
ONCE = (TINY, "without pull", *SAME_IF_CUT, CEILING)
"""Measured with the first seed only, as the fox is."""
ARMS = (NOTHING, *ALONE, *PARTS, CEILING)
METRICS = {
    "hole": "dB", "seen": "dB", "unseen": "dB", "thing": "dB", "shadow": "dB", "held_out": "dB", "outside": "dB",
    "ssim": "", "agreement": "dB", "photos_agree": "dB", "gaussians": "", "seconds": "s",
}  # fmt: skip
MARGINS = ("hole", "seen", "unseen", "agreement")  # of the whole, above the best of the fills of single photos


def run(
    *,
    work: Path,
    seeds: int = 3,
    width: int = 72,
    views: int = 14,
    steps: int = 350,
    later: int = 60,
    budget: int = 2500,
    scenes: str = "; ".join(JUDGED),
    arms: str = "",
    candidates: int = 4,
) -> Result:
    """`scenes`, `arms`: names, semicolons between them."""
    done = work / "cells.json"
    cells: list[dict[str, Any]] = read_json(done) if done.is_file() else []
    names, wanted = scenes.split("; "), arms.split("; ") if arms else list(ARMS)
    skipped = [name for name in names if name.startswith("fox") and not FOX.is_dir()]
    for seed, name in sorted(product(range(seeds), names), key=lambda pair: pair[1].startswith("fox")):
        known = {cell["condition"] for cell in cells if cell["scene"] == name and cell["seed"] == seed}
        left_out = ONCE if seed else (*SAME_IF_CUT, "2D fill, tiny", "whole, tiny") if name.startswith("fox") else ()
        missing = [arm for arm in wanted if arm not in known and arm not in left_out]
        if not missing or name in skipped or (seed and name.startswith("fox")):
            continue
        options = Options(steps=steps + ROUNDS * later, sh_degree=1, seed=seed, random_points=budget // 2)
        scene = scene_of(name, seed, width, views, options, budget)
        save_masks(scene.holes, scene.truth, work / "holes" / name / str(seed))
        bench = Bench(scene=scene, steps=steps, later=later, options=options, budget=budget, candidates=candidates)
        for arm in missing:
            torch.manual_seed(0)
            figures = bench.measured(arm, work / "pictures" / name / f"{arm} {seed}.png")
            cells.append({"scene": name, "seed": seed, "condition": arm, **figures})
            print(cells[-1], flush=True)
            write_json(done, cells)
    found = [row for name in names if name not in skipped for row in rows_of(name, cells)]
    return Result(
        rows=found,
        settings={
            "photos": f"{views} of {width} x {width * 3 // 4}; 22 of the fox, 68 x 120",
            "steps": f"{steps} and {ROUNDS} rounds of {later}",
            "Gaussians": f"at most {budget}",
            "most memory of the process, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        },
        seeds=range(seeds),
        notes=(
            "LPIPS is not measured: no package that pip installs carries the weights of its networks.",
            "Seconds are of a machine with other work, to be compared within a scene only.",
            *(f"{name} is not measured: the fox is not at {FOX}" for name in skipped),
        ),
        raw={"cells": cells},
    )


def scene_of(name: str, seed: int, width: int, views: int, options: Options, budget: int) -> Removable:
    if not name.startswith("fox"):
        return removable(name, width=width, height=width * 3 // 4, views=views, points=budget // 2, seed=seed)
    fox = load_scene(FOX, downscale=4)
    fox = dataclasses.replace(fox, views=fox.views[::2])
    whole = train(fox, vanilla(options.steps, cap_max=budget, seed=seed), options=options).parameters
    depths = [rendered(whole, view).depth for view in fox.views]
    random = torch.Generator().manual_seed(seed)
    height, wide = depths[0].shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(wide), indexing="ij")
    holes = []
    for _ in fox.views:
        at = [int(torch.randint(size // 4, size - size // 4, (1,), generator=random)) for size in (height, wide)]
        holes.append((y - at[0]) ** 2 + (x - at[1]) ** 2 <= (wide // 6) ** 2)
    holes = tuple(holes)
    cut = tuple(
        dataclasses.replace(view, image=torch.where(hole[..., None], 0.5, view.image))
        for view, hole in zip(fox.views, holes, strict=True)
    )
    return Removable(
        scene=dataclasses.replace(fox, views=cut, held_out=()),
        truth=fox.views,
        holes=holes,
        things=holes,
        depths=tuple(depths),
        held_out=(),
        held_out_holes=(),
    )


@dataclasses.dataclass(kw_only=True)
class Bench:
    """All arms of one scene and seed; what several need is made once, and its seconds count for each."""

    scene: Removable
    steps: int
    later: int
    options: Options
    budget: int
    candidates: int
    made: dict[str, tuple[Any, float]] = dataclasses.field(default_factory=dict)

    @property
    def cut(self) -> bool:
        """Whether holes were cut from photos, so that there is no thing to remove."""
        return self.scene.things is self.scene.holes

    def once(self, name: str, make: Callable[[], Any]) -> tuple[Any, float]:
        if name not in self.made:
            begun = time.monotonic()
            self.made[name] = make(), time.monotonic() - begun
        return self.made[name]

    def start(self, whole: bool = False) -> Any:
        """Gaussians at the scene's points: all of them, or those outside of what is to go."""
        return None if whole else starting_points(self.scene.scene, self.scene.masks, self.options)

    def strategy(self, steps: int) -> Any:
        return vanilla(steps, cap_max=self.budget, seed=self.options.seed)

    def inpainter(self, name: str) -> tuple[Inpainter, float]:
        def trained() -> Tiny:
            photos = [view.image for view in self.scene.scene.views]
            return Tiny.trained(photos, self.scene.holes, steps=200, seed=self.options.seed)

        if name == "tiny":
            return self.once("tiny", trained)
        return (PatchMatch() if name == "PatchMatch" else OpenCV()), 0.0

    def measured(self, arm: str, file: Path) -> dict[str, float | None]:
        scene, options, before = self.scene, self.options, 0.0
        begun = time.monotonic()
        photos: Sequence[Any] | None = None
        if arm in PARTS:
            rules = PARTS[arm].get("rules", Rules())
            rules = dataclasses.replace(rules, candidates=min(rules.candidates, self.candidates))
            inpainter, extra = None, 0.0
            if "inpainter" in PARTS[arm]:
                inpainter, extra = self.inpainter(PARTS[arm]["inpainter"])
            masked = self.cut or PARTS[arm].get("before") == "masked"
            base, before = self.once("masked" if masked else "as it is", lambda: self.base(masked))
            before += extra
            begun = time.monotonic()
            made = inpaint(
                scene.scene,
                self.scene.masks,
                shadows=None if self.cut else self.scene.shadows,
                start=base,
                inpainter=inpainter,
                rules=rules,
                rounds=ROUNDS,
                steps=self.steps,
                round_steps=self.later,
                growth=0,
                before="masked" if masked else "removed",
                strategy=self.strategy(self.steps),
                options=options,
            )
            parameters, photos = made.training.parameters, None if arm in (MASKED, REMOVED) else made.views
        elif arm in ALONE:
            inpainter, before = self.inpainter(ALONE[arm])
            begun = time.monotonic()
            pairs = list(zip(scene.scene.views, scene.holes, strict=True))
            photos = [
                dataclasses.replace(view, image=inpainter(view.image, hole, seed=options.seed)[0])
                for view, hole in pairs
            ]
            parameters = self.trained(photos)
        elif arm == CEILING:
            parameters = self.trained(scene.truth)
        else:
            parameters = self.trained(scene.scene.views, whole=True)
            if not self.cut:
                parameters = remove(parameters, scene.scene.views, self.scene.masks, growth=0).parameters
        seconds = before + time.monotonic() - begun
        return figures_of(scene, parameters, photos, file) | {"seconds": seconds}

    def base(self, masked: bool) -> Training:
        photos = without_holes(self.scene.scene, self.scene.holes) if masked else self.scene.scene
        strategy, start = self.strategy(self.steps), self.start(not masked)
        return train(photos, strategy, options=self.options, start=start, until=self.steps)

    def trained(self, photos: Sequence[Any], whole: bool = False) -> Any:
        filled = dataclasses.replace(self.scene.scene, views=tuple(photos))
        return train(filled, self.strategy(self.steps), options=self.options, start=self.start(whole)).parameters


def figures_of(scene: Removable, parameters: Any, photos: Any, file: Path) -> dict[str, float | None]:
    """Figures of one completed scene; what does not exist in it is None. Renderings go to a file."""
    images = [rendered(parameters, view).image for view in scene.truth]
    held_out = [rendered(parameters, view).image for view in scene.held_out]
    shadows = [hole & ~thing for hole, thing in zip(scene.holes, scene.things, strict=True)]
    witnesses = witnesses_of(scene)
    seen = [hole & (count >= 2) for hole, count in zip(scene.holes, witnesses, strict=True)]
    unseen = [hole & (count == 0) for hole, count in zip(scene.holes, witnesses, strict=True)]
    figures = {
        "hole": hole_psnr(images, scene.truth, scene.holes),
        "seen": hole_psnr(images, scene.truth, seen),
        "unseen": hole_psnr(images, scene.truth, unseen),
        "thing": math.nan if scene.things is scene.holes else hole_psnr(images, scene.truth, scene.things),
        "shadow": hole_psnr(images, scene.truth, shadows),
        "held_out": hole_psnr(held_out, scene.held_out, scene.held_out_holes),
        "outside": hole_psnr(images, scene.truth, [~hole for hole in scene.holes]),
        "ssim": hole_ssim(images, scene.truth, scene.holes),
        "agreement": agreement(images, scene.truth, scene.depths, scene.holes),
        "gaussians": len(parameters["means"]),
        "share_seen": share(seen, scene.holes),
        "share_unseen": share(unseen, scene.holes),
    }
    if photos is not None:
        figures["photos_agree"] = agreement([view.image for view in photos], scene.truth, scene.depths, scene.holes)
    save_pictures(scene, images, photos, file)
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def witnesses_of(scene: Removable) -> list[torch.Tensor]:
    """For each view (height, width), how many other photos show the true surface of a pixel, outside of their holes."""
    surfaces = [
        Rendered(image=view.image, depth=depth, alpha=torch.ones_like(depth))
        for view, depth in zip(scene.truth, scene.depths, strict=True)
    ]
    found = []
    for i, (view, depth) in enumerate(zip(scene.truth, scene.depths, strict=True)):
        points, count = places(view, depth).reshape(-1, 3), torch.zeros(depth.numel(), dtype=torch.long)
        for j, other in enumerate(scene.truth):
            if i != j:
                count += visible(points, other, surfaces[j], ~scene.holes[j], 0.03)
        found.append(count.view_as(depth))
    return found


def share(part: Sequence[torch.Tensor], whole: Sequence[torch.Tensor]) -> float:
    return sum(int(each.sum()) for each in part) / sum(int(each.sum()) for each in whole)


def save_pictures(scene: Removable, images: Sequence[torch.Tensor], photos: Any, file: Path) -> None:
    """The four views with the largest holes: photo, what trained, rendering, truth."""
    from PIL import Image

    order = sorted(range(len(images)), key=lambda i: -int(scene.holes[i].sum()))[:4]
    lines = []
    for i in order:
        photo = scene.scene.views[i].image
        trained = torch.where(scene.holes[i][..., None], 0.0, photo) if photos is None else photos[i].image
        lines.append(torch.cat([photo, trained, images[i], scene.truth[i].image], 1))
    sheet = (torch.cat(lines).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(file)


def rows_of(scene: str, cells: list[dict[str, Any]]) -> list[Any]:
    """Means over seeds, and of the whole how far it is above the best of the fills of single photos."""
    found = []
    of_scene = [cell for cell in cells if cell["scene"] == scene]
    for name in dict.fromkeys(cell["condition"] for cell in of_scene):
        of = [cell for cell in of_scene if cell["condition"] == name]
        values: dict[str, Value] = {}
        for metric, unit in METRICS.items():
            known = [cell[metric] for cell in of if cell.get(metric) is not None]
            if len(known) == len(of):
                values[metric] = mean_of(known, unit)
        if name == WHOLE:
            for metric in MARGINS:
                gains = [margin(of_scene, cell, metric) for cell in of if cell.get(metric) is not None]
                if gains and None not in gains:
                    values[f"{metric}_above_2d"] = mean_of(gains, "dB")
        if name == CEILING:
            for metric in ("share_seen", "share_unseen"):
                values[metric] = Value(100 * statistics.mean(cell[metric] for cell in of), "%", n=len(of))
        details = {"scene": scene, "method": name}
        found += rows(f"{scene}, {name}", details, seeds=[cell["seed"] for cell in of], **values)
    return found


def margin(cells: list[dict[str, Any]], whole: dict[str, Any], metric: str) -> float | None:
    """How far the whole is above the best fill of single photos, of the same seed, in dB; None if there is none."""
    alone = [cell[metric] for cell in cells if cell["condition"] in ALONE and cell["seed"] == whole["seed"]]
    return whole[metric] - max(alone) if alone else None
