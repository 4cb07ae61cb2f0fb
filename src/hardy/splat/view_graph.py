"""Which views see the same: the perspective graph of PAInpainter (arXiv 2510.10993), and what is chosen in it.

Where we differ: by default an edge is the share of surface points, outside of masks, that two views both see, which the
depth of the scene's Gaussians tells; the paper's confidence of matches needs a network. `sift` takes OpenCV's features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components

from hardy.errors import InputError, install
from hardy.splat.scene import View
from hardy.splat.warping import Rendered, places, sampled, seen_from

TOLERANCE = 0.08
"""Relative difference of depth within which two views mean the same surface, where nothing better is known."""
_LEAST = 0.01  # an edge below this is none
Matcher = Callable[[View, View], float]
"""How surely two views show the same, 0 to 1: for a learned matcher of the user's."""


@dataclasses.dataclass(frozen=True)
class ViewGraph:
    """Edges between V views: `weights` (V, V), symmetric, 0 to 1, with a diagonal of 1."""

    weights: torch.Tensor

    def neighbours(self, view: int, count: int, among: Sequence[int] | None = None) -> list[int]:
        """The `count` views that share most with one, the most first; without those that share nothing."""
        order = self.weights[view].argsort(descending=True, stable=True).tolist()
        allowed = set(range(len(order)) if among is None else among) - {view}
        return [other for other in order if other in allowed and self.weights[view, other] > _LEAST][:count]

    def anchor(self, candidates: Sequence[int], chosen: Sequence[int] = ()) -> int:
        """The candidate farthest from those chosen before; the first is the one that shares most with all."""
        if not chosen:
            return max(candidates, key=lambda view: float(self.weights[view].sum()))
        return min(candidates, key=lambda view: float(self.weights[view, list(chosen)].max()))

    def islands(self, views: Sequence[int]) -> list[list[int]]:
        """The parts that the views fall into between which there are no edges; the largest first."""
        part = self.weights[list(views)][:, list(views)] > _LEAST
        _, labels = connected_components(part.numpy(), directed=False)
        found = [[views[int(i)] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)]
        return sorted(found, key=len, reverse=True)


def covisibility(views: Sequence[View], seen: Sequence[Rendered], holes: Sequence[torch.Tensor]) -> ViewGraph:
    """Edges are points that both views see over points that either sees, outside of holes.

    Args:
        views: cameras.
        seen: what the Gaussians show in each.
        holes: (height, width) bool for each.
    """
    count = len(views)
    shared = torch.eye(count)
    for i, (view, here, hole) in enumerate(zip(views, seen, holes, strict=True)):
        step = max(1, round((hole.numel() / 2000) ** 0.5))
        chosen = torch.zeros_like(hole)
        chosen[::step, ::step] = True
        chosen &= ~hole & (here.alpha > 0.5) & (here.depth > 0)
        points = places(view, here.depth)[chosen]
        for j, other in enumerate(views):
            if i != j and len(points):
                shared[i, j] = visible(points, other, seen[j], ~holes[j]).float().mean()
    both = torch.minimum(shared, shared.T)
    return ViewGraph(both / (2 - both))


def visible(
    points: torch.Tensor, view: View, seen: Rendered, counts: torch.Tensor, tolerance: float = TOLERANCE
) -> torch.Tensor:
    """(N,) which points (N, 3) a view shows, at a pixel that counts (height, width): none stands before or behind."""
    pixels, depths = seen_from(view, points)
    stacked = torch.stack([seen.depth, counts.float(), seen.alpha], -1)
    there, inside = sampled(stacked, pixels)
    agrees = (there[:, 0] - depths).abs() < tolerance * depths
    return inside & (depths > 1e-3) & agrees & (there[:, 1] > 0.99) & (there[:, 2] > 0.5)


def depth_tolerance(views: Sequence[View], seen: Sequence[Rendered], holes: Sequence[torch.Tensor]) -> float:
    """Relative difference of depth within which two views mean the same surface: 1.5 times their median difference.

    Depth is only as exact as the Gaussians are trained. Looked at is what lies outside of holes; 0.01 to 0.12.
    """
    found = []
    for i, (view, here, hole) in enumerate(zip(views, seen, holes, strict=True)):
        step = max(1, round((hole.numel() / 500) ** 0.5))
        chosen = torch.zeros_like(hole)
        chosen[::step, ::step] = True
        points = places(view, here.depth)[chosen & ~hole & (here.alpha > 0.5)]
        for j, other in enumerate(views):
            if i == j or not len(points):
                continue
            pixels, depths = seen_from(other, points)
            there, inside = sampled(torch.stack([seen[j].depth, (~holes[j]).float()], -1), pixels)
            off = ((there[:, 0] - depths).abs() / depths.clamp(min=1e-6))[
                inside & (depths > 1e-3) & (there[:, 1] > 0.99)
            ]
            found.append(off[off < 0.3])  # farther apart is another surface
    every = torch.cat(found) if found else torch.zeros(0)
    return min(0.12, max(0.01, 1.5 * float(every.median()))) if len(every) else TOLERANCE


def matched(views: Sequence[View], matcher: Matcher) -> ViewGraph:
    """Edges by a matcher, of every pair once."""
    weights = torch.eye(len(views))
    for i in range(len(views)):
        for j in range(i):
            value = float(matcher(views[i], views[j]))
            if not 0 <= value <= 1:
                raise InputError(f"a matcher must give 0 to 1, got {value} for {views[i].name} and {views[j].name}")
            weights[i, j] = weights[j, i] = value
    return ViewGraph(weights)


def sift(first: View, second: View) -> float:
    """Share of OpenCV's SIFT features with a match that is clearly the best (ratio below 0.75), of the fewer ones."""
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"matching by SIFT needs OpenCV: {install('splat')}") from None
    finder: Any = cv2.SIFT_create()  # pyright: ignore[reportAttributeAccessIssue]
    found = []
    for view in (first, second):
        pixels = (view.image * 255).round().to(torch.uint8).numpy()
        counts = None if view.mask is None else view.mask.numpy().astype(np.uint8)
        found.append(finder.detectAndCompute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), counts)[1])
    if any(each is None or len(each) < 2 for each in found):
        return 0.0
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(*found, k=2)
    sure = sum(best.distance < 0.75 * second.distance for best, second in pairs)
    return min(1.0, sure / min(len(each) for each in found))
