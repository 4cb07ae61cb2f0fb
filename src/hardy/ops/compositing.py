"""Projected Gaussians laid over each other, nearest first, into an image.

As in 3D Gaussian splatting (arXiv 2308.04079) and gsplat. At the centre of a pixel, for each Gaussian in the order of
depth, equal depths in their own order:

1. alpha = min(0.999, opacity * exp(-d / 2)), with d the squared Mahalanobis distance; below 1/255 it is nothing.
2. If transmittance * (1 - alpha) <= 1e-4, the pixel is finished, without this Gaussian.
3. Its weight is alpha * transmittance: the image gets weight * color, and transmittance *= 1 - alpha.

What is left of the transmittance shows the background. No box is cut smaller than where alpha reaches 1/255, so the
image does not depend on tiles. The compiled loops (src/cpp/splat_tiles.h) give the same bits on every processor and for
any number of threads, gradients included.
"""

import dataclasses
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from hardy.ops import kernels
from hardy.ops.projection import LEAST_ALPHA

MOST_ALPHA = 0.999
OPAQUE = 1e-4
MOST_CHANNELS = 32
_PAIRS_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """What is composited: the Gaussians in the image of one camera.

    Args:
        means: (N, 2), pixels; the centre of the first pixel is (0.5, 0.5).
        conics: (N, 3), inverse covariance xx, xy, yy.
        opacities: (N,), in [0, 1].
        colors: (N, D) of any meaning, D at most 32.
        depths: (N,), above zero where seen.
        radii: (N, 2) int32, zero for what is not seen.
    """

    means: torch.Tensor
    conics: torch.Tensor
    opacities: torch.Tensor
    colors: torch.Tensor
    depths: torch.Tensor
    radii: torch.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composite:
    """An image and how it came about.

    Args:
        image: (height, width, D), over the background; differentiable, as is `alphas`.
        alphas: (height, width), one minus the transmittance that is left.
        weights: (N,), sum over pixels of each Gaussian's weight.
        counts: (N,) int32, pixels that it contributed to.
        absolute: (N, 2), filled by the backward pass: sums over pixels of the absolute gradients by `means`.
        pairs: of pixel and Gaussian that were looked at.
    """

    image: torch.Tensor
    alphas: torch.Tensor
    weights: torch.Tensor
    counts: torch.Tensor
    absolute: torch.Tensor
    pairs: int


def composite(
    layers: Layers,
    width: int,
    height: int,
    background: torch.Tensor | None = None,
    absolute: torch.Tensor | None = None,
) -> Composite:
    """The image of `layers` over `background` (D,), by default zero; differentiable in all but depths and radii.

    `absolute`, (N, 2) zeros, is where the backward pass puts its absolute sums; by default a new tensor.
    """
    count = len(layers.means)
    absolute = layers.means.new_zeros(count, 2) if absolute is None else absolute
    path = kernels.path() if layers.means.device.type == "cpu" and layers.means.dtype == torch.float32 else None
    if path is None:
        return composite_reference(layers, width, height, background, absolute)
    weights = layers.means.new_empty(count)
    counts = layers.means.new_empty(count, dtype=torch.int32)
    made = {"weights": weights, "counts": counts, "absolute": absolute, "pairs": 0}
    image, alphas = _Composite.apply(
        layers.means, layers.conics, layers.opacities, layers.colors, background, layers, (width, height), path, made
    )
    return Composite(image=image, alphas=alphas, **made)


def composite_reference(
    layers: Layers,
    width: int,
    height: int,
    background: torch.Tensor | None = None,
    absolute: torch.Tensor | None = None,
) -> Composite:
    """`composite` in torch, in any dtype and on any device: every Gaussian at every pixel, some rows at a time."""
    seen = (layers.radii > 0).all(-1).nonzero()[:, 0]
    order = seen[layers.depths.detach()[seen].sort(stable=True).indices]
    means, conics, opacities, colors = (
        tensor[order] for tensor in (layers.means, layers.conics, layers.opacities, layers.colors)
    )
    count, like = len(layers.means), layers.means
    weights = like.new_zeros(count)
    absolute = like.new_zeros(count, 2) if absolute is None else absolute
    counts = torch.zeros(count, dtype=torch.int32, device=like.device)

    def add_absolute(gradient: torch.Tensor) -> None:
        absolute.index_add_(0, order, gradient.abs().sum(0))

    def rows(top: int, bottom: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        means, conics, opacities, colors = tensors
        x = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
        y = torch.arange(top, bottom, dtype=like.dtype, device=like.device) + 0.5
        pixels = torch.cartesian_prod(y, x).flip(-1)
        offsets = means - pixels[:, None]
        if offsets.requires_grad:
            offsets.register_hook(add_absolute)
        dx, dy = offsets.unbind(-1)
        distance = (dx * dx * conics[:, 0] + dy * dy * conics[:, 2]) / 2 + dx * dy * conics[:, 1]
        alpha = (opacities * torch.exp(-distance)).clamp(max=MOST_ALPHA)
        alpha = torch.where((alpha >= LEAST_ALPHA) & (distance >= 0), alpha, 0)
        after = torch.cumprod(1 - alpha, 1)
        alpha = torch.where(after > OPAQUE, alpha, 0)
        after = torch.cumprod(1 - alpha, 1)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
        weight = alpha * before
        left = after[:, -1] if after.shape[1] else torch.ones_like(pixels[:, 0])
        return weight @ colors, left, weight.detach().sum(0), (alpha > 0).sum(0).to(torch.int32)

    at_once = max(1, _PAIRS_AT_ONCE // max(1, len(order) * width))
    parts = []
    for top in range(0, height, at_once):
        tensors = (top, min(top + at_once, height), means, conics, opacities, colors)
        part: Any = checkpoint(rows, *tensors, use_reentrant=False, preserve_rng_state=False)
        parts.append(part[:2])
        weights.index_add_(0, order, part[2])
        counts.index_add_(0, order, part[3])
    image, left = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    if background is not None:
        image = image + left[:, None] * background
    return Composite(
        image=image.view(height, width, -1),
        alphas=(1 - left).view(height, width),
        weights=weights,
        counts=counts,
        absolute=absolute,
        pairs=len(order) * width * height,
    )


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        *tensors, background, layers, size, path, made = arguments
        means, conics, opacities, colors = (tensor.detach().to(torch.float32).contiguous() for tensor in tensors)
        width, height = size
        channels, threads = colors.shape[1], torch.get_num_threads()
        depths, radii = layers.depths.detach().contiguous(), layers.radii.contiguous()
        module: Any = kernels.extension()
        bins = module.bin_splats(width, height, means, conics, opacities, colors, depths, radii, threads)
        image, alphas = torch.empty(height, width, channels), torch.empty(height, width)
        behind = None if background is None else background.detach().to(torch.float32).contiguous()
        made["pairs"] = module.composite(path, bins, behind, image, alphas, made["weights"], made["counts"], threads)
        ctx.save_for_backward(image, alphas)
        ctx.bins, ctx.path, ctx.absolute = bins, path, made["absolute"]
        ctx.shapes = [tensor.shape for tensor in (means, conics, opacities, colors)]
        ctx.background = background is not None
        return image, alphas

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        image, alphas = ctx.saved_tensors
        by_image, by_alphas = (gradient.contiguous() for gradient in gradients)
        means, conics, opacities, colors = (torch.empty(shape) for shape in ctx.shapes)
        made = (means, ctx.absolute, conics, opacities, colors)
        module: Any = kernels.extension()
        gradients = (image, alphas, by_image, by_alphas)
        module.composite_backward(ctx.path, ctx.bins, *gradients, *made, torch.get_num_threads())
        behind = ((1 - alphas)[..., None] * by_image).sum((0, 1)) if ctx.background else None
        return means, conics, opacities, colors, behind, None, None, None, None
