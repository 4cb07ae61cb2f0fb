"""Where more Gaussians are needed: weighted means, over the views since the last look, of gradients in the image.

A criterion gives, for one view, each Gaussian's value and the weight of it; densification keeps the sums of weight
times value and of weight. Gradients are by the centre in normalized device coordinates: those by pixels times half the
image's size.
"""

import dataclasses
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
        return lengths(info["means2d"].grad[camera], info) * damping, info["pixel_counts"][camera].float()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceWeightedGradient:
    """Views count by how much the Gaussian shows in them (ReAct-GS, arXiv 2510.19653).

    The weight is the mean over the pixels it contributed to of alpha times transmittance. A gradient is proportional to
    it, so in a plain mean the views that hardly show a Gaussian dilute the one that does.
    """

    def measure(self, info: dict[str, Any], camera: int, extent: float) -> tuple[torch.Tensor, torch.Tensor]:
        importance = info["weights"][camera] / info["pixel_counts"][camera].clamp(min=1)
        return lengths(info["means2d"].grad[camera], info), importance


def lengths(gradients: torch.Tensor, info: dict[str, Any]) -> torch.Tensor:
    """(N,) lengths of gradients (N, 2) by pixels, in normalized device coordinates."""
    half = gradients.new_tensor([info["width"] / 2, info["height"] / 2]) * info["n_cameras"]
    return (gradients * half).norm(dim=-1)


def seen(info: dict[str, Any], camera: int) -> torch.Tensor:
    """(N,) 1 where the Gaussian is in the image, else 0."""
    return (info["radii"][camera] > 0).all(-1).float()
