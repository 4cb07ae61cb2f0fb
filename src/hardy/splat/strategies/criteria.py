"""Where more Gaussians are needed: weighted means, over the views since the last look, of gradients in the image.

A criterion gives, for one view, each Gaussian's value and the weight of it; densification keeps the sums of weight
times value and of weight. Gradients are by the centre in normalized device coordinates: those by pixels times half the
image's size. Summed weights and counts of pixels, which gsplat's own `info` has not, are estimated there from the
ellipse of each Gaussian.
"""

import dataclasses
import math
from typing import Any, Protocol

import torch


class Criterion(Protocol):
    """What one view says: values (N,) and weights (N,)."""

    def measure(self, info: dict[str, Any], camera: int, extent: float) -> tuple[torch.Tensor, torch.Tensor]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanGradient:
    """The mean length of the gradient over the views that see the Gaussian (arXiv 2308.04079)."""

    def measure(self, info: dict[str, Any], camera: int, extent: float) -> tuple[torch.Tensor, torch.Tensor]:
        return lengths(info["means2d"].grad[camera], info), seen(info, camera)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbsoluteGradient:
    """The same of absolute gradients, which do not cancel between pixels (AbsGS, arXiv 2404.10484)."""

    def measure(self, info: dict[str, Any], camera: int, extent: float) -> tuple[torch.Tensor, torch.Tensor]:
        return lengths(info["means2d"].absgrad[camera], info), seen(info, camera)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelWeightedGradient:
    """Views count by the pixels they give a Gaussian, and less close to the camera (Pixel-GS, arXiv 2403.15530).

    `near` is the depth, as a share of the scene's extent, below which gradients are damped by (depth / near)^2.
    """

    near: float = 0.37

    def measure(self, info: dict[str, Any], camera: int, extent: float) -> tuple[torch.Tensor, torch.Tensor]:
        damping = (info["depths"][camera].detach() / (self.near * extent)).clamp(0, 1).square()
        return lengths(info["means2d"].grad[camera], info) * damping, pixels(info, camera)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceWeightedGradient:
    """Views count by how much the Gaussian shows in them (ReAct-GS, arXiv 2510.19653).

    The weight is the mean over the pixels it contributed to of alpha times transmittance. A gradient is proportional to
    it, so in a plain mean the views that hardly show a Gaussian dilute the one that does. With gsplat's own `info` the
    transmittance is unknown and counts as 1; `hardy.splat.rasterization` knows it, on CUDA by gsplat too.
    """

    def measure(self, info: dict[str, Any], camera: int, extent: float) -> tuple[torch.Tensor, torch.Tensor]:
        importance = weights(info, camera) / pixels(info, camera).clamp(min=1)
        return lengths(info["means2d"].grad[camera], info), importance


def pixels(info: dict[str, Any], camera: int) -> torch.Tensor:
    """(N,) pixels a Gaussian contributed to; from gsplat's `info` the area in which its alpha reaches 1/255.

    That is 2 pi ln(255 opacity) sqrt(det covariance), at most its box of `radii` within the image.
    """
    if "pixel_counts" in info:
        return info["pixel_counts"][camera].float()
    opacities, spread = _ellipse(info, camera)
    area = 2 * math.pi * (255 * opacities).clamp(min=1).log() * spread
    centers, radii = info["means2d"][camera].detach(), info["radii"][camera].to(spread)
    radii = radii if radii.ndim == 2 else radii[:, None].expand(-1, 2)
    size = centers.new_tensor([info["width"], info["height"]])
    box = ((centers + radii).clamp(min=0).minimum(size) - (centers - radii).clamp(min=0).minimum(size)).prod(-1)
    return area.minimum(box) * seen(info, camera)


def weights(info: dict[str, Any], camera: int) -> torch.Tensor:
    """(N,) sums over pixels of alpha times transmittance; from gsplat's `info` of alpha, over the same area."""
    if "weights" in info:
        return info["weights"][camera]
    opacities, spread = _ellipse(info, camera)
    whole = 2 * math.pi * spread * (opacities - 1 / 255).clamp(min=0)
    area = 2 * math.pi * (255 * opacities).clamp(min=1).log() * spread
    return whole * (pixels(info, camera) / area.clamp(min=1e-12)).clamp(max=1)


def _ellipse(info: dict[str, Any], camera: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) opacities, and roots of the determinants of covariances in the image, in square pixels."""
    xx, xy, yy = info["conics"][camera].detach().unbind(-1)
    opacities = info["opacities"].detach()
    return opacities[camera] if opacities.ndim == 2 else opacities, (xx * yy - xy * xy).clamp(min=1e-12).rsqrt()


def lengths(gradients: torch.Tensor, info: dict[str, Any]) -> torch.Tensor:
    """(N,) lengths of gradients (N, 2) by pixels, in normalized device coordinates."""
    half = gradients.new_tensor([info["width"] / 2, info["height"] / 2]) * info["n_cameras"]
    return (gradients * half).norm(dim=-1)


def seen(info: dict[str, Any], camera: int) -> torch.Tensor:
    """(N,) 1 where the Gaussian is in the image, else 0."""
    radii = info["radii"][camera]
    return (radii > 0).float() if radii.ndim == 1 else (radii > 0).all(-1).float()
