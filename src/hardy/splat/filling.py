"""One round of filling the holes in all views: what others photographed, then what an anchor invents and passes on.

After PAInpainter (arXiv 2510.10993), from its abstract, figure and summaries; the paper's code is not public. Where we
differ: true pixels of other views come before anything invented; depth in a hole is harmonic from its rim (inverse
depth, which is exact for a plane); candidates are judged by the pixels that accepted fills of other views put there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from hardy import checks
from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.evaluate import ssim
from hardy.splat.harmonic import harmonic_fill
from hardy.splat.inpainters import Inpainter
from hardy.splat.masks import grown, shrunk
from hardy.splat.scene import View
from hardy.splat.view_graph import ViewGraph, depth_tolerance, visible
from hardy.splat.warping import Rendered, Warped, places, sampled, seen_from, warped

_AGREE = 0.08  # root mean squared difference of colors up to which views that see one point agree

_NOTHING: dict[str, Any] = {"score": math.nan, "accepted": False, "anchor": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How holes are filled. At 0 a part is left out.

    Args:
        pulled: least number of other views that must show a pixel's surface for their colors to be taken; 0 for never.
        neighbours: views of an anchor that get its fill as a prior; 0 for no propagation.
        candidates: of each fill, among which the best is taken.
        accept: least score of a fill that trains, and not less than the median of the round before; 0 takes all.
        texture: share of texture in a score; the rest is depth.
        trust: weight of what was invented, times its score, where what photos show has 1: they must win where the two
            meet in space.
    """

    pulled: int = 1
    neighbours: int = 4
    candidates: int = 4
    accept: float = 0.5
    texture: float = 0.5
    trust: float = 0.3

    def __post_init__(self) -> None:
        for name, least in (("pulled", 0), ("neighbours", 0), ("candidates", 1)):
            checks.integer(name, getattr(self, name), at_least=least)
        checks.number("accept", self.accept, at_least=0, at_most=1)
        checks.number("texture", self.texture, at_least=0, at_most=1)
        checks.number("trust", self.trust, above=0, at_most=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fill:
    """What is put into one view's hole.

    Args:
        image: (height, width, 3), the photo with its hole filled.
        depth: (height, width), in the hole that of the fill; 0 where unknown.
        weight: (height, width), how much each pixel of the hole counts in training; 0 outside of it.
        pulled: (height, width) bool, where colors are of other photos; the rest of the hole is invented.
        fresh: (height, width) bool, what is invented here, and not passed on from another view.
        score: of what was invented; NaN where nothing was, or nothing could be compared.
        accepted: whether what was invented trains.
        anchor: whether others got it passed on.
        rejected: best candidate that was not taken, if any, and its score, for whoever looks.
    """

    image: torch.Tensor
    depth: torch.Tensor
    weight: torch.Tensor
    pulled: torch.Tensor
    fresh: torch.Tensor
    score: float
    accepted: bool
    anchor: bool
    rejected: tuple[torch.Tensor, float] | None = None


def fill_round(
    views: Sequence[View],
    holes: Sequence[torch.Tensor],
    seen: Sequence[Rendered],
    graph: ViewGraph,
    inpainter: Inpainter | None,
    rules: Rules,
    least: float,
    seed: int,
    earlier: Sequence[Fill] = (),
) -> list[Fill]:
    """Fill the holes of all views once.

    Args:
        views: photos, wrong inside of their holes.
        holes: (height, width) bool for each.
        seen: what the Gaussians of the moment show in each.
        graph: of the views.
        inpainter: for what no other view shows; None leaves it unfilled.
        rules: how.
        least: score below which a fill does not train.
        seed: of candidates.
        earlier: what the round before put there: what was accepted stays, so that all agree with it.

    Raises:
        InputError: the inpainter gives an image of another size, or changes what is outside of the hole.
    """
    tolerance = depth_tolerance(views, seen, holes)
    done = [i for i, fill in enumerate(earlier) if fill.accepted]
    fills = [earlier[i] if i in done else pull(i, views, holes, seen, rules, tolerance) for i in range(len(views))]
    rest = [hole & ~fill.pulled for hole, fill in zip(holes, fills, strict=True)]
    waiting = [i for i, left in enumerate(rest) if bool(left.any()) and i not in done]
    if inpainter is None:
        return fills
    anchors = [i for i in done if fills[i].anchor]
    doubts = dict.fromkeys(waiting, math.inf)
    if rules.neighbours:
        doubts = _doubts(waiting, views, fills, rest, graph, inpainter, seed)
    while waiting:
        surest = [view for view in waiting if doubts[view] < math.inf]
        anchor = min(surest, key=lambda view: doubts[view]) if surest else graph.anchor(waiting, anchors)
        anchors.append(anchor)
        for view in [anchor, *graph.neighbours(anchor, rules.neighbours, waiting)]:
            sources = graph.neighbours(view, 2 * rules.neighbours, done) if rules.neighbours else []
            given = [_passed(views, fills[source], rest[source], source, view) for source in sources]
            judges = graph.neighbours(view, 8, done)
            others = [_passed(views, fills[source], rest[source], source, view) for source in judges]
            drawn = derive(seed, "fill", view)
            fills[view] = _invented(
                fills[view], rest[view], given, others, inpainter, rules, least, drawn, view == anchor
            )
            if fills[view].accepted:
                done.append(view)
            waiting.remove(view)
    return fills


def _doubts(
    waiting: Sequence[int],
    views: Sequence[View],
    fills: Sequence[Fill],
    rest: Sequence[torch.Tensor],
    graph: ViewGraph,
    inpainter: Inpainter,
    seed: int,
) -> dict[int, float]:
    """How far what each view would invent by itself is from what its neighbours would: the best anchor has the least.

    Mean squared differences of colors where they show one place; infinite where there is nothing to compare.
    """
    own = {}
    for view in waiting:
        image = fills[view].image
        found = inpainter(image, rest[view], prior=None, count=1, seed=derive(seed, "doubt", view))
        _check_candidates(found, image, rest[view])
        own[view] = dataclasses.replace(fills[view], image=found[0])
    doubts = {}
    for view in waiting:
        total = count = 0.0
        for other in graph.neighbours(view, 8, waiting):
            given = _passed(views, own[other], rest[other], other, view)
            both = given.there & rest[view]
            total += float((given.image - own[view].image)[both].square().sum())
            count += int(both.sum())
        doubts[view] = total / count if count >= 12 else math.inf
    return doubts


def pull(
    index: int,
    views: Sequence[View],
    holes: Sequence[torch.Tensor],
    seen: Sequence[Rendered],
    rules: Rules,
    tolerance: float,
) -> Fill:
    """The hole of one view, as far as other photos show what is there.

    The depth of a pixel is what the Gaussians show, or the harmonic fill of the rim where they show nothing. Another
    view confirms it if its own depth agrees, and the pixel it sees it at is not in a hole.
    """
    view, hole, here, least = views[index], holes[index], seen[index], rules.pulled
    image, smooth = torch.where(hole[..., None], here.image, view.image), rim_depth(here, hole)
    pulled, weight, depth = torch.zeros_like(hole), torch.zeros(hole.shape), smooth.clone()
    if not bool(hole.any()):
        return Fill(image=image, depth=depth, weight=weight, pulled=pulled, fresh=hole, **_NOTHING)
    guess = torch.where(here.alpha > 0.5, here.depth, smooth)
    colors, count = _photographed(places(view, guess)[hole], index, views, holes, seen, tolerance)
    shown = (count >= least) & (least > 0)
    rows = hole.nonzero()[shown].T
    image[rows[0], rows[1]] = colors[shown]
    depth[rows[0], rows[1]] = guess[hole][shown]
    pulled[rows[0], rows[1]] = True
    weight[hole] = torch.where(~shown, 0.0, torch.where(count >= 2, 1.0, 0.5))
    pulled = shrunk(grown(pulled, 1), 1) & hole  # a lone pixel between others is theirs
    weight[pulled & (weight == 0)] = 0.5
    left = hole & ~pulled
    if bool(left.any()) and bool(pulled.any()):  # what was pulled is rim now
        known = Rendered(image=image, depth=torch.where(pulled, depth, here.depth), alpha=here.alpha.clone())
        known.alpha[pulled] = 1
        depth = torch.where(left, rim_depth(known, left), depth)
    depth = torch.where(left & (here.alpha > 0.5), here.depth, depth)
    return Fill(image=image, depth=depth, weight=weight, pulled=pulled, fresh=torch.zeros_like(hole), **_NOTHING)


def rim_depth(seen: Rendered, hole: torch.Tensor) -> torch.Tensor:
    """(height, width) depth, in the hole continued from its rim so that planes go on as planes."""
    known = ~hole & (seen.alpha > 0.5) & (seen.depth > 0)
    if not bool(known.any()):
        return seen.depth
    inverse = harmonic_fill(torch.where(known, 1 / seen.depth.clamp(min=1e-6), 0), ~known)
    return torch.where(hole, 1 / inverse.clamp(min=1e-6), seen.depth)


def _photographed(
    points: torch.Tensor,
    index: int,
    views: Sequence[View],
    holes: Sequence[torch.Tensor],
    seen: Sequence[Rendered],
    tolerance: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colors (N, 3) of points in the photos that show them, and how many of those agree (N,)."""
    colors, shown = [], []
    for j, (other, hole, there) in enumerate(zip(views, holes, seen, strict=True)):
        if j == index:
            continue
        counts = ~hole if other.mask is None else ~hole & other.mask
        sees = visible(points, other, there, counts, tolerance)
        colors.append(sampled(other.image, seen_from(other, points)[0])[0])
        shown.append(sees)
    if not colors:
        return points.new_zeros(len(points), 3), points.new_zeros(len(points))
    stacked, sees = torch.stack(colors), torch.stack(shown)
    median = torch.where(sees[..., None], stacked, torch.nan).nanmedian(0).values
    median = torch.nan_to_num(median)
    agree = sees & ((stacked - median).square().mean(-1).sqrt() < _AGREE)
    count = agree.sum(0)
    mean = (stacked * agree[..., None]).sum(0) / count.clamp(min=1)[:, None]
    return torch.where(count[:, None] > 0, mean, median), count.float()


def _passed(views: Sequence[View], fill: Fill, invented: torch.Tensor, source: int, target: int) -> Warped:
    return warped(views[source], fill.image, fill.depth, invented, views[target])


def _invented(
    fill: Fill,
    rest: torch.Tensor,
    given: list[Warped],
    others: list[Warped],
    inpainter: Inpainter,
    rules: Rules,
    least: float,
    seed: int,
    anchor: bool,
) -> Fill:
    """The best candidate for what other photos do not show, with the prior that other fills give."""
    image, depth = fill.image.clone(), fill.depth.clone()
    prior = torch.zeros_like(rest)
    for each in given:
        taken = each.there & rest & ~prior
        image[taken], depth[taken] = each.image[taken], each.depth[taken]
        prior |= taken
    if bool(prior.any()) and bool((rest & ~prior).any()):
        known = torch.where(rest & ~prior, 0, 1 / torch.where(depth > 0, depth, 1))
        depth = torch.where(rest & ~prior, 1 / _blended(known, rest & ~prior, depth), depth)
    options: dict[str, Any] = {"prior": prior if bool(prior.any()) else None, "count": rules.candidates, "seed": seed}
    candidates = inpainter(image, rest, **options)
    _check_candidates(candidates, image, rest)
    scores = [_score(each, depth, rest, others, rules.texture) for each in candidates]
    if all(math.isnan(score) for score in scores):  # nobody can say: the one most like the others
        order = sorted(
            range(len(candidates)), key=lambda i: sum(_apart(candidates[i], each, rest) for each in candidates)
        )
        accepted = True
    else:
        order = sorted(range(len(candidates)), key=lambda i: -scores[i])
        accepted = not rules.accept or scores[order[0]] >= least
    best = order[0]
    sure = 1.0 if math.isnan(scores[best]) or not rules.accept else scores[best]
    worst = order[-1]
    rejected = (candidates[worst], scores[worst]) if len(order) > 1 or not accepted else None
    return dataclasses.replace(
        fill,
        image=candidates[best],
        depth=depth,
        fresh=rest & ~prior,
        weight=torch.where(rest, rules.trust * sure if accepted else 0.0, fill.weight),
        score=scores[best],
        accepted=accepted,
        anchor=anchor,
        rejected=rejected,
    )


def _blended(inverse: torch.Tensor, hole: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Inverse depth in the part of a hole that no prior reaches, harmonic from all around it that has a depth."""
    unknown = hole | (depth <= 0)
    return inverse if bool(unknown.all()) else harmonic_fill(inverse, unknown).clamp(min=1e-6)


def _score(
    candidate: torch.Tensor, depth: torch.Tensor, rest: torch.Tensor, others: list[Warped], texture: float
) -> float:
    """How well a candidate agrees with what accepted fills of other views show there, 0 to 1; NaN if none does."""
    total = weight = 0.0
    for other in others:
        both = other.there & rest
        count = int(both.sum())
        if count < 12:
            continue
        y, x = both.nonzero().T
        box = (slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1))
        inside = both[box][..., None]
        a, b = (torch.where(inside, each[box], 0) for each in (candidate, other.image))
        # Pixels outside count as equal; their part of the mean is taken out again.
        share = float(inside.float().mean())
        alike = 1 - (1 - float(ssim(a, b))) / share
        off = (depth[both] - other.depth[both]).abs()
        near = float(torch.exp(-off.mean() / other.depth[both].median()))
        total += count * (texture * max(0.0, alike) + (1 - texture) * near)
        weight += count
    return total / weight if weight else math.nan


def _apart(a: torch.Tensor, b: torch.Tensor, hole: torch.Tensor) -> float:
    return float((a - b)[hole].square().mean())


def _check_candidates(candidates: Sequence[torch.Tensor], image: torch.Tensor, hole: torch.Tensor) -> None:
    if not candidates:
        raise InputError("the inpainter gave no candidate")
    for each in candidates:
        if each.shape != image.shape:
            raise InputError(f"the inpainter gave {tuple(each.shape)} for an image of {tuple(image.shape)}")
        if not torch.isfinite(each).all():
            raise InputError("the inpainter gave values that are not finite")
        if not torch.equal(each[~hole], image[~hole]):
            raise InputError("the inpainter changed pixels outside of the hole")
