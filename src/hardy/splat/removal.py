"""Gaussians taken out of a scene: by masks in its photos, or by a box.

Each Gaussian votes with the weight it has in a mask: a channel that is zero for all of them is rendered and summed
there, and its gradient by each is that weight, exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import Delaunay, QhullError

from hardy import checks
from hardy.errors import InputError
from hardy.splat.masks import check_holes, grown, usual_growth
from hardy.splat.ply import NAMES, Parameters, check_gaussians
from hardy.splat.quality import render_view
from hardy.splat.rendering import rasterization
from hardy.splat.scene import View
from hardy.splat.strategies.regions import Region

_SEEN = 1e-3
"""Blending weight, in pixels over all views, below which a Gaussian has no vote."""
_MOST_ROUNDS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Votes:
    """Sums over views of each Gaussian's blending weight: (N,) inside of masks, and anywhere; in pixels."""

    inside: torch.Tensor
    total: torch.Tensor

    @property
    def seen(self) -> torch.Tensor:
        """(N,) whether any view shows it."""
        return self.total > _SEEN

    @property
    def share(self) -> torch.Tensor:
        """(N,) of the weight inside of masks; 0 for what is not seen."""
        return torch.where(self.seen, self.inside / self.total.clamp(min=_SEEN), 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """What is left, and what went: `gone` (N,), so many of them at first `unseen` by any view, in so many `rounds`."""

    parameters: Parameters
    gone: torch.Tensor
    unseen: int
    rounds: int


def votes(parameters: Parameters, views: Sequence[View], masks: Sequence[torch.Tensor]) -> Votes:
    """How much of each Gaussian's blending weight lies inside the masks (height, width) of the views.

    Args:
        parameters: N Gaussians.
        views: cameras.
        masks: bool, or shares of pixels from 0 to 1.
    """
    count, device = len(parameters["means"]), parameters["means"].device
    inside, total = (torch.zeros(count, device=device) for _ in range(2))
    fixed = [parameters[name].detach() for name in ("means", "quats", "scales", "opacities")]
    for view, mask in zip(views, masks, strict=True):
        channel = torch.zeros(count, 1, device=device, requires_grad=True)
        height, width = mask.shape
        means, quats, scales, opacities = fixed
        cameras = (view.viewmat[None].to(device), view.K[None].to(device), width, height)
        image, _, info = rasterization(means, quats, scales.exp(), opacities.sigmoid(), channel, *cameras)
        (image[0, ..., 0] * mask.to(device)).sum().backward()
        assert channel.grad is not None
        inside += channel.grad[:, 0]
        total += info["weights"][0].detach()
    return Votes(inside=inside, total=total)


def remove(
    parameters: Parameters,
    views: Sequence[View] = (),
    masks: Sequence[torch.Tensor] = (),
    *,
    region: Region | None = None,
    share: float = 0.5,
    growth: int | None = None,
) -> Removal:
    """Take Gaussians away: those in a region, or those that mostly show inside of masks.

    A Gaussian that no view shows has no vote. It goes if it lies in the convex hull of those that went, as the inside
    of an opaque thing does; what these had hidden is then voted on, until nothing more goes. What views showed outside
    of masks at first stays.

    Args:
        parameters: N Gaussians.
        views, masks: a mask (height, width) bool for each view, true for what is to go.
        region: instead of masks, such as a `Box`.
        share: of its weight in masks above which a Gaussian goes.
        growth: pixels by which masks are grown; by default a hundredth of the width, 1 to 7.

    Raises:
        InputError: masks do not fit, both or neither of masks and region are given, or all Gaussians would go, or none.
    """
    check_gaussians(parameters, "the Gaussians")
    checks.number("share", share, at_least=0, below=1)
    if (region is None) == (not masks):
        raise InputError("remove needs either masks with their views or a region, such as a box")
    means = parameters["means"].detach()
    if region is not None:
        inside = region.contains(means)
        found = Gone(gone=inside, unseen=torch.zeros_like(inside), rounds=0)
    else:
        check_holes(masks, views)
        pixels = usual_growth(views) if growth is None else growth
        found = gone_of(parameters, views, [grown(mask, pixels) for mask in masks], share)
    if bool(found.gone.all()):
        raise InputError(f"that region holds all {len(means)} Gaussians: nothing would be left")
    if not bool(found.gone.any()):
        what = "lies in that region" if region is not None else "shows mostly inside of the masks"
        raise InputError(f"none of the {len(means)} Gaussians {what}")
    kept = {name: parameters[name].detach()[~found.gone] for name in NAMES}
    return Removal(parameters=kept, gone=found.gone, unseen=int((found.gone & found.unseen).sum()), rounds=found.rounds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gone:
    """(N,) which Gaussians go, and which no view shows; after so many rounds of votes."""

    gone: torch.Tensor
    unseen: torch.Tensor
    rounds: int


def gone_of(parameters: Parameters, views: Sequence[View], masks: Sequence[torch.Tensor], share: float = 0.5) -> Gone:
    """Which Gaussians `remove` takes for these masks as they are; it may be none.

    Raises:
        InputError: all would go.
    """
    means, rounds = parameters["means"].detach(), 0
    first = votes(parameters, views, masks)
    gone = first.share > share
    spared, unseen = first.seen & ~gone, ~first.seen
    for _ in range(_MOST_ROUNDS if bool(gone.any()) and not bool(gone.all()) else 0):
        rounds += 1
        hull = in_hull(means[gone], means) & ~gone & ~spared
        left = votes({name: parameters[name][~gone] for name in NAMES}, views, masks)
        shares, seen = torch.zeros(len(means)), torch.zeros(len(means), dtype=torch.bool)
        shares[~gone], seen[~gone] = left.share.cpu(), left.seen.cpu()
        more = hull.cpu() & (~seen | (shares > share))
        if not bool(more.any()):
            break
        gone = gone | more.to(gone.device)
        if bool(gone.all()):
            break
    if bool(gone.all()):
        raise InputError(f"the masks take all {len(means)} Gaussians: nothing would be left")
    return Gone(gone=gone, unseen=unseen, rounds=rounds)


def holes_of(
    parameters: Parameters, gone: torch.Tensor, views: Sequence[View], least: float = 0.1
) -> list[torch.Tensor]:
    """For each view, (height, width) where the Gaussians in `gone` (N,) made up more than `least` of what is shown."""
    made = []
    with torch.no_grad():
        for view in views:
            images, _, _ = render_view(parameters, view, features=gone.float()[:, None])
            made.append(images[0, ..., 3] > least)
    return made


def in_hull(corners: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(N,) which points (N, 3) lie in the convex hull of the corners (M, 3); in none, where these are flat."""
    try:
        hull = Delaunay(corners.detach().cpu().double().numpy())
    except (QhullError, ValueError):
        return torch.zeros(len(points), dtype=torch.bool, device=points.device)
    inside = hull.find_simplex(points.detach().cpu().double().numpy().astype(np.float64)) >= 0
    return torch.from_numpy(inside).to(points.device)
