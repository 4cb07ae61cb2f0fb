"""The page of an inpainting: each view before and after, what was rejected, how far views agree, and a turn around."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from hardy.report import HeatMap, Pictures, Report, Row
from hardy.splat.cameras import circle_of_scene, render_camera
from hardy.splat.consistency import agreement, hole_psnr
from hardy.splat.inpainting import Inpainting
from hardy.splat.scene import Scene, View
from hardy.splat.warping import rendered

_MOST_SHOWN = 8


def report_of(
    found: Inpainting, scene: Scene, *, inpainter: str = "", truth: Sequence[View] = (), seconds: float | None = None
) -> Report:
    """The report of an inpainting.

    Args:
        found: by `inpaint`.
        scene: that it was of.
        inpainter: its name.
        truth: the views without what was removed, where they are known.
        seconds: that it took.
    """
    parameters = found.training.parameters
    seen = [rendered(parameters, view) for view in scene.views]
    images, depths = [each.image for each in seen], [each.depth for each in seen]
    last = found.rounds[-1]
    agreed = agreement(images, scene.views, depths, found.holes, 0.05)
    photos = agreement([view.image for view in found.views], scene.views, depths, found.holes, 0.05)
    pixels = sum(int(hole.sum()) for hole in found.holes)
    rows = [
        Row(metric="agreement of views in holes", condition="renderings", value=agreed, unit="dB"),
        Row(metric="agreement of views in holes", condition="filled photos", value=photos, unit="dB"),
        Row(metric="Gaussians", condition="removed", value=found.gone),
        Row(metric="Gaussians", condition="completed", value=len(parameters["means"])),
    ]
    for i, each in enumerate(found.rounds):
        condition = f"round {i + 1}"
        rows += [
            Row(
                metric="pixels of holes that other photos show",
                condition=condition,
                value=100 * each["pulled"],
                unit="%",
            ),
            Row(metric="holes that train", condition=condition, value=100 * each["trained"], unit="%"),
            Row(
                metric="fills accepted",
                condition=condition,
                value=each["accepted"],
                details={"of": each["invented in"]},
            ),
            Row(metric="median score", condition=condition, value=each["score"]),
        ]
    right = hole_psnr(images, truth, found.holes) if truth else math.nan
    if truth:
        rows.append(Row(metric="hole PSNR", condition="renderings", value=right, unit="dB"))
    if seconds is not None:
        rows.append(Row(metric="seconds", condition="completed", value=seconds, unit="s"))
    unfilled = 1 - last["trained"]
    summary = [
        f"{pixels} pixels of {len(found.holes)} views were holes; other photos show {last['pulled']:.0%} of them, and "
        f"{last['accepted']:.0f} of {last['invented in']:.0f} fills of the rest were accepted.",
        f"Where two views show one point in their holes they agree to {agreed:.1f} dB.",
    ]
    if not found.gone:
        summary.append("No Gaussian was removed: none showed mostly inside of the masks before the first round.")
    if truth:
        summary.insert(0, f"In the holes the completed scene has a PSNR of {right:.2f} dB to the truth.")
    if unfilled > 0.001:
        summary.append(f"{unfilled:.1%} of the pixels of holes trained on nothing: no fill of theirs was accepted.")
    return Report(
        title="A scene inpainted from all sides",
        summary=tuple(summary),
        rows=tuple(rows),
        figures=(*_views(found, scene, images, truth), _graph(found, scene), _around(found, scene)),
        settings={"views": len(scene.views), "rounds": len(found.rounds), "inpainter": inpainter or "none"},
        notes=(
            "Agreement is measured with the depth of the completed scene itself; it says that views agree, not that "
            "they are right.",
        ),
    )


def _views(found: Inpainting, scene: Scene, images: Sequence[torch.Tensor], truth: Sequence[View]) -> list[Pictures]:
    sizes = [int(hole.sum()) for hole in found.holes]
    order = sorted(range(len(sizes)), key=lambda i: (not found.fills[i].anchor, -sizes[i]))
    shown = sorted(i for i in order[:_MOST_SHOWN] if sizes[i])
    columns = ["before", "mask", "fill", "weight", "rejected", "rendered", *(["truth"] if truth else [])]
    rows, arrays = [], []
    for i in shown:
        view, fill, hole = scene.views[i], found.fills[i], found.holes[i]
        score = "" if math.isnan(fill.score) or not bool((hole & ~fill.pulled).any()) else f" {fill.score:.2f}"
        rejected = torch.zeros_like(view.image) if fill.rejected is None else fill.rejected[0]
        line = [view.image, _gray(hole.float()), fill.image, _gray(fill.weight), rejected, images[i]]
        arrays.append([each.clamp(0, 1).cpu().numpy() for each in [*line, *([truth[i].image] if truth else [])]])
        sign = "*" * fill.anchor + "†" * (not fill.accepted and bool((hole & ~fill.pulled).any()))
        rows.append(f"{Path(view.name).stem}{sign}{score}")
    if not rows:
        return []
    caption = (
        f"{len(rows)} of {len(sizes)} views. Weight: how much each pixel of the fill counted. Rejected: the worst of "
        "the candidates, black where there was one only. The number is the score of the fill, where other views judged "
        "it; * is an anchor, † a fill that was not accepted."
    )
    return [Pictures.of("Views", caption, rows, columns, arrays)]


def _graph(found: Inpainting, scene: Scene) -> HeatMap:
    names = tuple(view.name for view in scene.views)
    return HeatMap(
        title="Which views see the same",
        caption="Points that both see over points that either sees, outside of holes.",
        rows=names,
        columns=names,
        values=tuple(tuple(line) for line in found.graph.weights.tolist()),
        unit="share",
    )


def _around(found: Inpainting, scene: Scene) -> Pictures:
    circle = circle_of_scene(scene)
    height, width = scene.views[0].image.shape[:2]
    frames = [render_camera(found.training.parameters, circle.camera(i / 6, width, height)) / 255.0 for i in range(6)]
    names = [f"{i / 6:.0%}" for i in range(6)]
    return Pictures.of(
        "Around", "The completed scene from a circle around what its cameras look at.", [""], names, [frames]
    )


def _gray(values: torch.Tensor) -> torch.Tensor:
    return values[..., None].expand(-1, -1, 3)
