"""How right depths and camera paths are, whose unit of length is free.

Sources: the protocol of DUSt3R, MonST3R and CUT3R for video depth (one scale for a sequence, absolute relative error,
delta < 1.25); Umeyama (1991) for the alignment of paths; Sturm et al. (2012) for the absolute trajectory error.
"""

import torch

from hardy.errors import InputError

_STEPS = 10


def depth_scale(estimate: torch.Tensor, target: torch.Tensor) -> float:
    """The factor on `estimate` for which the sum of its absolute differences to `target` is least, about.

    It begins with the quotient of means and takes ten steps of iterated least squares. Both (...), of valid pixels.
    """
    _same(estimate, target)
    x, y = estimate.double().flatten(), target.double().flatten()
    scale = y.mean() / x.mean()
    for _ in range(_STEPS):
        weight = 1 / (scale * x - y).abs().clamp_min(1e-8)
        scale = (weight * x * y).sum() / (weight * x * x).sum()
    return float(scale)


def depth_errors(estimate: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """`abs_rel`, the mean of |estimate - target| / target, and `delta`, the share of pixels within a factor of 1.25.

    Args:
        estimate, target: (...) depths above zero, of valid pixels, in the same unit.
    """
    _same(estimate, target)
    ratio = (estimate / target).double()
    within = torch.maximum(ratio, 1 / ratio) < 1.25
    return {"abs_rel": float((ratio - 1).abs().mean()), "delta": float(within.double().mean())}


def aligned(points: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`points` (N, 3) turned, moved and scaled so that the squares of their distances to `target` (N, 3) are least."""
    _same(points, target)
    x, y = points.double(), target.double()
    a, b = x - x.mean(0), y - y.mean(0)
    u, values, v = torch.linalg.svd(b.T @ a)
    flip = torch.ones(3, dtype=torch.float64)
    flip[2] = torch.sign(torch.det(u @ v))
    turn = u @ torch.diag(flip) @ v
    scale = (values * flip).sum() / a.square().sum().clamp_min(1e-12)
    return scale * a @ turn.T + y.mean(0)


def trajectory_error(eyes: torch.Tensor, target: torch.Tensor) -> float:
    """The absolute trajectory error of camera centres (N, 3): root of the mean square after alignment, target's unit.

    A path without motion is aligned to the mean of the target: what it gives is the error of knowing nothing.
    """
    return float((aligned(eyes, target) - target.double()).square().sum(1).mean().sqrt())


def _same(estimate: torch.Tensor, target: torch.Tensor) -> None:
    if estimate.shape != target.shape or not target.numel():
        raise InputError(f"shapes must be the same, got {tuple(estimate.shape)} and {tuple(target.shape)}")
