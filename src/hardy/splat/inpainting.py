"""A scene with holes completed so that it is the same from every side.

PAInpainter (arXiv 2510.10993): rounds of filling views one after the other in a perspective graph, of keeping what
agrees, and of training the Gaussians on it. `hardy.splat.filling` says where we differ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.ops.spherical_harmonics import FIRST
from hardy.reading import below, reading
from hardy.runs.checkpoint import Checkpoint, digest
from hardy.splat.filling import Fill, Rules, fill_round
from hardy.splat.inpainters import Inpainter
from hardy.splat.masks import check_holes, grown, png_names, usual_growth
from hardy.splat.ply import NAMES, Parameters, save_ply
from hardy.splat.points import gaussians_from
from hardy.splat.removal import gone_of
from hardy.splat.scene import Scene, View
from hardy.splat.strategies import Densification, Near, vanilla
from hardy.splat.training import PLY, Options, Training, train
from hardy.splat.view_graph import ViewGraph, covisibility, seen_from
from hardy.splat.warping import Rendered, places, rendered

_MOST_SEEDS = 4000  # Gaussians that a round puts where something was invented
Grapher = Callable[[Sequence[View], Sequence[Rendered], Sequence[torch.Tensor]], ViewGraph]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inpainting:
    """What came out.

    Args:
        training: of the Gaussians, completed.
        views: photos with their holes filled, as the last round trained on them.
        holes: (height, width) bool for each view, grown.
        fills: what was put into each, by the last round.
        graph: of the views.
        gone: how many Gaussians were taken out before the first round.
        rounds: of each, shares of pixels pulled and invented, how many fills were accepted, and their median score.
    """

    training: Training
    views: tuple[View, ...]
    holes: tuple[torch.Tensor, ...]
    fills: tuple[Fill, ...]
    graph: ViewGraph
    gone: int
    rounds: tuple[dict[str, float], ...]


def inpaint(
    scene: Scene,
    masks: Sequence[torch.Tensor],
    *,
    shadows: Sequence[torch.Tensor] | None = None,
    start: Parameters | Training | None = None,
    inpainter: Inpainter | None = None,
    rules: Rules | None = None,
    rounds: int = 4,
    steps: int = 1500,
    round_steps: int = 300,
    growth: int | None = None,
    before: Literal["removed", "masked"] = "removed",
    strategy: Densification | None = None,
    options: Options | None = None,
    grapher: Grapher = covisibility,
    out: str | Path | None = None,
) -> Inpainting:
    """Train Gaussians on photos with holes, fill the holes, and train on.

    With a folder it can be stopped anywhere: the same call goes on.

    Args:
        scene: photos; what their masks (`View.mask`) leave out does not count at all.
        masks: (height, width) bool for each training view, true for what is to go.
        shadows: the same, true where what is to go casts a shadow or is reflected: filled too, but the Gaussians there
            stay, as the surface does.
        start: Gaussians of the scene as it is; by default its points. Or a training of `steps` steps on the photos
            that `before` names, whole or without their holes.
        inpainter: for what no other photo shows; None leaves it unfilled.
        rules: how holes are filled.
        rounds: of filling and training.
        steps: of training before the first round.
        round_steps: of training after each.
        growth: pixels by which masks are grown; by default a hundredth of the width, 1 to 7.
        before: how Gaussians train before the first round. On the photos as they are, and those of what is to go are
            then "removed": a thing that stands there in all photos keeps anything else out of its place meanwhile. Or
            on photos "masked", their holes left out: where those hide what is no part of the scene, such as scratches.
        strategy: of densification before the first round; by default `vanilla(steps)`. Later it acts near fills only.
        options: of the training, but for its steps.
        grapher: makes the graph of views; by default by covisibility.
        out: folder for Gaussians, checkpoints and filled photos.

    Raises:
        InputError: masks do not fit, or take or leave everything; there is one view only; the views of holes fall apart
            into parts that share nothing; or no other photo shows any of a hole and there is no inpainter.
    """
    checks.one_of("before", before, ("removed", "masked"))
    rules, growth = rules or Rules(), usual_growth(scene.views) if growth is None else growth
    for name, value, low in (("rounds", rounds, 1), ("steps", steps, 1), ("round_steps", round_steps, 1)):
        checks.integer(name, value, at_least=low)
    check_holes(masks, scene.views)
    if len(scene.views) < 2:
        raise InputError("a scene of one view has no others to agree with; inpaint its photo instead")
    things = holes = [grown(mask, growth) for mask in masks]
    if shadows is not None:
        check_holes(shadows, scene.views, empty=True)
        holes = [thing | grown(shadow, growth) for thing, shadow in zip(things, shadows, strict=True)]
    if all(bool(hole.all()) for hole in holes):
        raise InputError(f"grown by {growth} pixels, the masks of all {len(holes)} views cover everything")
    options = dataclasses.replace(options or Options(), steps=steps + rounds * round_steps, save_every=500)
    strategy = strategy or vanilla(steps)
    folder, gone = None if out is None else Path(out), 0
    whole, masked = dataclasses.replace(scene, held_out=()), without_holes(scene, holes)
    if isinstance(start, Training):
        training = start
        if training.step != steps:
            raise InputError(f"the training to start from has {training.step} steps, not the {steps} asked for")
    else:
        first = start
        if before == "masked":
            first = starting_points(scene, things, options)
            if start is not None:
                left = ~gone_of(start, scene.views, things).gone
                gone = int((~left).sum())
                first = {name: start[name].detach()[left] for name in NAMES}
        photos = masked if before == "masked" else whole
        training = train(photos, strategy, options=options, start=first, until=steps, out=_below(folder, "before"))
    if before == "removed":
        left = ~gone_of(training.parameters, scene.views, things).gone
        gone, training = int((~left).sum()), _left(training, left)
    fills: list[Fill] = []
    views, graph, history, least = masked.views, ViewGraph(torch.eye(len(holes))), [], rules.accept
    identity = {"rules": dataclasses.asdict(rules), "inpainter": repr(inpainter), "rounds": rounds}
    for turn in range(rounds):
        kept = [fill.accepted for fill in fills] or [False] * len(holes)
        seen = [rendered(training.parameters, view, options) for view in scene.views]
        if turn == 0:
            graph = grapher(scene.views, seen, holes)
            _check_graph(graph, scene.views, holes, rules)
        file = None
        if folder is not None:
            known = {**identity, "round": turn, "gaussians": digest(training.parameters.values())}
            file = Checkpoint(
                folder / f"round-{turn + 1}" / "fills.safetensors", kind="filling of holes", identity=known
            )
        saved = None if file is None else file.load()
        if file is None or saved is None:
            seed = options.seed * 1000 + turn
            fills = fill_round(scene.views, holes, seen, graph, inpainter, rules, least, seed, fills)
            if file is not None:
                file.save({"fills": [{**vars(fill)} for fill in fills]})
        else:
            with reading(file.path):
                fills = [Fill(**fill) for fill in saved["fills"]]
        _check_filled(fills, holes, inpainter, rules)
        history.append(_summary(fills, holes))
        if not math.isnan(history[-1]["score"]) and rules.accept:
            least = max(rules.accept, history[-1]["score"])
        views = tuple(_filled(*each) for each in zip(scene.views, holes, fills, strict=True))
        seeds = _seeds(views, fills, kept, seen, options, turn)
        training = _joined(training, seeds)
        last = turn == rounds - 1
        later = _later(strategy, views, fills, holes, steps + turn * round_steps, round_steps, last)
        if later.cap_max is not None:
            later = dataclasses.replace(later, cap_max=max(later.cap_max, len(training.parameters["means"])))
        training = train(
            dataclasses.replace(scene, views=views),
            later,
            options=options,
            start=training,
            until=steps + (turn + 1) * round_steps,
            out=_below(folder, f"round-{turn + 1}"),
        )
    if folder is not None:
        save_ply(training.parameters, folder / PLY)
        save_photos(views, folder / "photos")
    done = {"fills": tuple(fills), "graph": graph, "gone": gone, "rounds": tuple(history)}
    return Inpainting(training=training, views=views, holes=tuple(holes), **done)


def without_holes(scene: Scene, holes: Sequence[torch.Tensor]) -> Scene:
    """The scene whose photos do not count in their holes (height, width); nothing is held out."""
    views = [
        dataclasses.replace(view, mask=~hole if view.mask is None else view.mask & ~hole)
        for view, hole in zip(scene.views, holes, strict=True)
    ]
    return dataclasses.replace(scene, views=tuple(views), held_out=())


def starting_points(scene: Scene, masks: Sequence[torch.Tensor], options: Options) -> Parameters:
    """Gaussians at the scene's points that are not of what is to go, or at random ones where there are none."""
    if len(scene.points):
        kept = points_outside(scene, masks)
        if bool(kept.any()):
            scene = dataclasses.replace(scene, points=scene.points[kept], colors=scene.colors[kept])
    return gaussians_from(scene, options.sh_degree, options.random_points, options.seed)


def points_outside(scene: Scene, holes: Sequence[torch.Tensor]) -> torch.Tensor:
    """(N,) which of the scene's points lie outside of the holes in at least half of the photos that show them."""
    inside, shown = torch.zeros(len(scene.points)), torch.zeros(len(scene.points))
    for view, hole in zip(scene.views, holes, strict=True):
        pixels, depths = seen_from(view, scene.points)
        x, y = pixels.floor().long().unbind(-1)
        there = (x >= 0) & (y >= 0) & (x < hole.shape[1]) & (y < hole.shape[0]) & (depths > 0.01)
        shown += there
        inside[there] += hole[y[there], x[there]]
    return inside <= 0.5 * shown


def save_photos(views: Sequence[View], folder: Path) -> None:
    """Each view's photo as a PNG with its name (`png_names`)."""
    from PIL import Image

    from hardy.files import write_atomic

    for view, name in zip(views, png_names(views), strict=True):
        picture = Image.fromarray((view.image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        write_atomic(below(folder, name, "the scene"), lambda path, made=picture: made.save(path, "PNG"))


def _below(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _filled(view: View, hole: torch.Tensor, fill: Fill) -> View:
    """The photo with its fill, which counts by its weight."""
    weight = torch.where(hole, fill.weight, 1.0)
    depth = torch.where(hole & (fill.weight > 0), fill.depth, 0)
    return dataclasses.replace(view, image=fill.image, weight=weight, depth=depth)


def _check_graph(graph: ViewGraph, views: Sequence[View], holes: Sequence[torch.Tensor], rules: Rules) -> None:
    concerned = [i for i, hole in enumerate(holes) if bool(hole.any())]
    islands = graph.islands(list(range(len(views))))
    parts = [[i for i in island if i in concerned] for island in islands]
    parts = [part for part in parts if part]
    if len(parts) > 1 and rules.neighbours:
        named = "; ".join(", ".join(views[i].name for i in part[:4]) + " ..." * (len(part) > 4) for part in parts[:4])
        raise InputError(
            f"the views with holes fall apart into {len(parts)} groups that see nothing in common: {named}. Inpaint "
            "each group as a scene of its own, or add photos between them"
        )


def _check_filled(
    fills: Sequence[Fill], holes: Sequence[torch.Tensor], inpainter: Inpainter | None, rules: Rules
) -> None:
    pulled = sum(int(fill.pulled.sum()) for fill in fills)
    if inpainter is None and rules.pulled and not pulled:
        count = sum(int(hole.sum()) for hole in holes)
        raise InputError(f"no other photo shows any of the {count} pixels of the holes: choose an inpainter")


def _summary(fills: Sequence[Fill], holes: Sequence[torch.Tensor]) -> dict[str, float]:
    pixels = sum(int(hole.sum()) for hole in holes)
    invented = [fill for fill, hole in zip(fills, holes, strict=True) if bool((hole & ~fill.pulled).any())]
    scores = sorted(fill.score for fill in invented if not math.isnan(fill.score))
    return {
        "pulled": sum(int(fill.pulled.sum()) for fill in fills) / pixels,
        "trained": sum(int((fill.weight > 0).sum()) for fill in fills) / pixels,
        "invented in": len(invented),
        "accepted": sum(fill.accepted for fill in invented),
        "score": scores[len(scores) // 2] if scores else math.nan,
    }


def _seeds(
    views: Sequence[View],
    fills: Sequence[Fill],
    kept: Sequence[bool],
    seen: Sequence[Rendered],
    options: Options,
    turn: int,
) -> Parameters:
    """Gaussians, a pixel wide, where something was invented now and the scene shows nothing at that depth.

    One for each place: several views see it. Fills that are `kept` from the round before have theirs.
    """
    means, colors, sizes = [], [], []
    for view, fill, old, here in zip(views, fills, kept, seen, strict=True):
        if old:
            continue
        lacking = (here.alpha < 0.5) | ((here.depth - fill.depth).abs() > 0.05 * fill.depth)
        chosen = fill.fresh & (fill.weight > 0) & (fill.depth > 0) & lacking
        means.append(places(view, fill.depth)[chosen])
        colors.append(fill.image[chosen])
        sizes.append((fill.depth / view.K[0, 0])[chosen])
    empty = torch.zeros(0, 3)
    points, shown, wide = torch.cat([empty, *means]), torch.cat([empty, *colors]), torch.cat([empty[:, 0], *sizes])
    if len(points):
        _, groups = torch.unique((points / wide.median()).round().long(), dim=0, return_inverse=True)
        first = torch.full((int(groups.max()) + 1,), len(points))
        first.scatter_reduce_(0, groups, torch.arange(len(points)), "amin")
        points, shown, wide = points[first], shown[first], wide[first]
    if len(points) > _MOST_SEEDS:
        drawn = (
            torch.randperm(len(points), generator=generator(options.seed, "seeds", turn))[:_MOST_SEEDS].sort().values
        )
        points, shown, wide = points[drawn], shown[drawn], wide[drawn]
    count = len(points)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    return {
        "means": points,
        "scales": (0.7 * wide).log()[:, None].expand(-1, 3).clone(),
        "quats": quats,
        "opacities": torch.full((count,), 0.5).logit(),
        "sh0": ((shown - 0.5) / FIRST)[:, None],
        "shN": torch.zeros(count, (options.sh_degree + 1) ** 2 - 1, 3),
    }


def _left(training: Training, kept: torch.Tensor) -> Training:
    """The training with some of its N Gaussians only: `kept` (N,)."""

    def chosen(value: Any) -> Any:
        return value[kept] if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(kept) else value

    return dataclasses.replace(
        training,
        parameters={name: value[kept] for name, value in training.parameters.items()},
        state={name: chosen(value) for name, value in training.state.items()},
        moments={
            name: {key: chosen(value) for key, value in moments.items()} for name, moments in training.moments.items()
        },
    )


def _joined(training: Training, more: Parameters) -> Training:
    """The training with further Gaussians, whose moments and statistics begin at zero."""
    count, extra = len(training.parameters["means"]), len(more["means"])

    def padded(name: str, value: Any) -> Any:
        if not (isinstance(value, torch.Tensor) and value.ndim and len(value) == count):
            return value
        added = more["means"] if name == "home" else value.new_zeros(extra, *value.shape[1:])
        return torch.cat([value, torch.arange(count, count + extra) if name == "origin" else added.to(value)])

    return dataclasses.replace(
        training,
        parameters={name: torch.cat([training.parameters[name], more[name]]) for name in NAMES},
        state={name: padded(name, value) for name, value in training.state.items()},
        moments={
            name: {key: padded("", value) for key, value in moments.items()}
            for name, moments in training.moments.items()
        },
    )


def _later(
    strategy: Densification,
    views: Sequence[View],
    fills: Sequence[Fill],
    holes: Sequence[torch.Tensor],
    begun: int,
    steps: int,
    last: bool,
) -> Densification:
    """Densification of a round: near what was filled only, without resets, and with a rest at the end."""
    points = [
        places(view, fill.depth)[hole & (fill.weight > 0) & (fill.depth > 0)]
        for view, fill, hole in zip(views, fills, holes, strict=True)
    ]
    cloud = torch.cat(points)
    width = torch.cat([(fill.depth / view.K[0, 0])[fill.depth > 0] for view, fill in zip(views, fills, strict=True)])
    if not len(cloud):
        return dataclasses.replace(strategy, refine_start_iter=begun, refine_stop_iter=begun, reset_every=0)
    cloud = cloud[:: max(1, len(cloud) // 20_000)]
    return dataclasses.replace(
        strategy,
        region=Near(cloud, 3 * float(width.median())),
        refine_start_iter=begun,
        refine_stop_iter=begun + (steps // 2 if last else steps),
        reset_every=0,
        resolution=None,
    )
