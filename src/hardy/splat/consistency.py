"""How good the holes of a scene came out: against the truth where there is one, and of views against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from hardy.evaluate import psnr_of_error, ssim
from hardy.splat.scene import View
from hardy.splat.view_graph import visible
from hardy.splat.warping import Rendered, places, sampled, seen_from


def hole_psnr(images: Sequence[torch.Tensor], truth: Sequence[View], holes: Sequence[torch.Tensor]) -> float:
    """PSNR (dB) over the pixels of all holes (height, width); NaN where there are none."""
    total, count = 0.0, 0
    for image, view, hole in zip(images, truth, holes, strict=True):
        off = (image - view.image)[hole].double()
        total, count = total + float(off.square().sum()), count + off.numel()
    return float(psnr_of_error(torch.tensor(total / count))) if count else math.nan


def hole_ssim(images: Sequence[torch.Tensor], truth: Sequence[View], holes: Sequence[torch.Tensor]) -> float:
    """Mean SSIM over the boxes around holes (height, width); NaN where there are none."""
    found = []
    for image, view, hole in zip(images, truth, holes, strict=True):
        if bool(hole.any()):
            y, x = hole.nonzero().T
            box = (slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1))
            found.append(float(ssim(image[box], view.image[box])))
    return sum(found) / len(found) if found else math.nan


def agreement(
    images: Sequence[torch.Tensor],
    views: Sequence[View],
    depths: Sequence[torch.Tensor],
    holes: Sequence[torch.Tensor],
    tolerance: float = 0.02,
) -> float:
    """PSNR (dB) between what two views show of one surface point that lies in the holes of both; NaN for no such point.

    Args:
        images: (height, width, 3) for each view: photos or renderings.
        views: cameras.
        depths: (height, width) for each, of the scene without its things.
        holes: (height, width) for each.
        tolerance: relative difference of depth within which two views mean one point.
    """
    total, count = 0.0, 0
    surfaces = [Rendered(image=view.image, depth=depth, alpha=torch.ones_like(depth)) for view, depth in zip(
        views, depths, strict=True
    )]  # fmt: skip
    for i, (view, depth, hole) in enumerate(zip(views, depths, holes, strict=True)):
        points, colors = places(view, depth)[hole & (depth > 0)], images[i][hole & (depth > 0)]
        for j, other in enumerate(views):
            if i == j or not len(points):
                continue
            both = visible(points, other, surfaces[j], holes[j], tolerance)
            shown, _ = sampled(images[j], seen_from(other, points)[0])
            off = (shown - colors)[both].double()
            total, count = total + float(off.square().sum()), count + off.numel()
    return float(psnr_of_error(torch.tensor(total / count))) if count else math.nan
