"""Pixels of one view in another: back into space by their depth, and into the other image if nothing stands before."""

from __future__ import annotations

import dataclasses

import torch

from hardy.splat.options import Options
from hardy.splat.ply import Parameters
from hardy.splat.quality import render_view
from hardy.splat.scene import View


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered:
    """What Gaussians show in one view: image (height, width, 3), depth and alpha (height, width)."""

    image: torch.Tensor
    depth: torch.Tensor
    alpha: torch.Tensor


def rendered(parameters: Parameters, view: View, options: Options | None = None) -> Rendered:
    """One view, without gradients; the depth is expected depth, 0 where there is nothing."""
    with torch.no_grad():
        images, alphas, _ = render_view(parameters, view, options, render_mode="RGB+ED")
    image, alpha = images[0], alphas[0, ..., 0]
    depth = torch.where(alpha > 1e-3, image[..., 3], 0)
    return Rendered(image=image[..., :3].clamp(0, 1).cpu(), depth=depth.cpu(), alpha=alpha.cpu())


def places(view: View, depth: torch.Tensor, scale: int = 1) -> torch.Tensor:
    """(height, width, 3) where in the world the pixels of a view are, by their depth along its axis.

    `scale` is how many times finer than the view's image the depth is.
    """
    height, width = depth.shape
    x = (torch.arange(width, dtype=depth.dtype) + 0.5) / scale
    y = (torch.arange(height, dtype=depth.dtype) + 0.5) / scale
    k = view.K.to(depth)
    across = ((x - k[0, 2]) / k[0, 0])[None].expand(height, width)
    down = ((y - k[1, 2]) / k[1, 1])[:, None].expand(height, width)
    local = torch.stack([across, down, torch.ones_like(across)], -1) * depth[..., None]
    return (local - view.viewmat[:3, 3].to(depth)) @ view.viewmat[:3, :3].to(depth)


def seen_from(view: View, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (..., 3) of the world in an image: pixels (..., 2) as x, y, and depths (...)."""
    local = points @ view.viewmat[:3, :3].T.to(points) + view.viewmat[:3, 3].to(points)
    depth = local[..., 2]
    safe = torch.where(depth.abs() < 1e-9, 1e-9, depth)
    k = view.K.to(points)
    return torch.stack([k[0, 0] * local[..., 0] / safe + k[0, 2], k[1, 1] * local[..., 1] / safe + k[1, 2]], -1), depth


def sampled(values: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (height, width, channels) at pixels (N, 2), bilinear, (N, channels); and which lie in the image (N,)."""
    height, width = values.shape[:2]
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    inside = ((pixels >= 0) & (pixels <= pixels.new_tensor([width, height]))).all(-1)
    planes = values.permute(2, 0, 1)[None]
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}
    taken = torch.nn.functional.grid_sample(planes, torch.where(inside[:, None], grid, 0)[None, None], **options)
    return taken[0, :, 0].T, inside


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warped:
    """Pixels of one view in another: image (height, width, 3), depth (height, width), and where there are any."""

    image: torch.Tensor
    depth: torch.Tensor
    there: torch.Tensor


def warped(
    source: View, image: torch.Tensor, depth: torch.Tensor, chosen: torch.Tensor, target: View, finer: int = 3
) -> Warped:
    """The chosen pixels of a source laid into a target's image, the nearest first.

    Args:
        source: view that `image` (height, width, 3), `depth` and `chosen` (height, width) are of.
        target: view.
        finer: pixels are laid so many times finer than they are, or there would be gaps where they spread.
    """
    height, width = target.image.shape[:2]
    planes = torch.cat([image, depth[..., None], chosen[..., None].to(image)], -1).permute(2, 0, 1)[None]
    size = (finer * image.shape[0], finer * image.shape[1])
    fine = torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    taken = fine[..., 4] > 0.999
    # A depth between two surfaces belongs to neither.
    window = torch.nn.functional.max_pool2d(fine[None, None, ..., 3], 3, 1, 1)[0, 0]
    taken &= window < 1.1 * fine[..., 3]
    points, colors = places(source, fine[..., 3], finer)[taken], fine[..., :3][taken]
    pixels, depths = seen_from(target, points)
    x, y = pixels.floor().long().unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height) & (depths > 1e-3)
    where, depths, colors = (y * width + x)[inside], depths[inside], colors[inside]
    nearest = torch.full((height * width,), torch.inf).scatter_reduce_(0, where, depths, "amin")
    front = depths <= 1.02 * nearest[where]
    where, depths, colors = where[front], depths[front], colors[front]
    count = torch.zeros(height * width).index_add_(0, where, torch.ones(len(where)))
    total = torch.zeros(height * width, 4).index_add_(0, where, torch.cat([colors, depths[:, None]], 1))
    mean = (total / count.clamp(min=1)[:, None]).view(height, width, 4)
    return Warped(image=mean[..., :3], depth=mean[..., 3], there=(count > 0).view(height, width))
