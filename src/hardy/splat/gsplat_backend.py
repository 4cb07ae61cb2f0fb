"""`rasterization` on CUDA, by gsplat (arXiv 2409.06765), with everything in `info` that strategies read.

gsplat gives no sums of weights and no pixel counts. A further channel, zero for every Gaussian, gets the gradient one
at every pixel in the backward pass: it changes neither the image nor any other gradient, and its own gradient is each
Gaussian's sum of weights. Pixel counts come from gsplat's list of all pairs, which is made when they are asked for.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from hardy.ops.spherical_harmonics import sh_colors

_TILE = 16
_ALL = 2**31 - 1


@functools.cache
def installed() -> bool:
    """Whether there is a gsplat to be imported."""
    return importlib.util.find_spec("gsplat") is not None


def rasterization_gsplat(
    means: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    colors: torch.Tensor,
    viewmats: torch.Tensor,
    Ks: torch.Tensor,  # noqa: N803 - gsplat's name
    width: int,
    height: int,
    *,
    sh_degree: int | None,
    features: torch.Tensor | None,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    eps2d: float,
    backgrounds: torch.Tensor | None,
    render_mode: str,
    rasterize_mode: str,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """`rasterization`, whose arguments and results these are; intrinsics have no gradient here.

    In `info`, "weights" and "absgrad" are there after the backward pass; without gradients, or before it, "weights"
    costs a backward pass of its own. "pixel_counts" needs about 24 bytes for each pair of pixel and Gaussian while it
    is made. "pairs" counts whole tiles.
    """
    import gsplat  # pyright: ignore[reportMissingImports]

    wanted = torch.is_grad_enabled()
    given = (means, quats, scales, opacities, viewmats)
    means, quats, scales, opacities, viewmats = (each if wanted else each.detach() for each in given)
    cameras, count = len(viewmats), len(means)
    parts: list[torch.Tensor] = []
    if "RGB" in render_mode:
        shown = _colors(means, colors, viewmats, sh_degree)
        parts.append(shown if wanted else shown.detach())
        if features is not None:
            parts.append((features if wanted else features.detach()).expand(cameras, -1, -1))
    weighing = means.new_zeros(cameras, count, 1).requires_grad_()
    place = sum(part.shape[-1] for part in parts)
    if backgrounds is not None:
        backgrounds = torch.nn.functional.pad(backgrounds[:, :place], (0, 1))
    with torch.enable_grad():  # for the sums of weights; nothing else has a gradient unless it is wanted
        rendered, alphas, meta = gsplat.rasterization(
            means,
            quats,
            scales,
            opacities,
            torch.cat([*parts, weighing], -1),
            viewmats,
            Ks,
            width,
            height,
            near_plane=near_plane,
            far_plane=far_plane,
            radius_clip=radius_clip,
            eps2d=eps2d,
            sh_degree=None,
            packed=False,
            tile_size=_TILE,
            backgrounds=backgrounds,
            render_mode=render_mode if "RGB" in render_mode else f"RGB+{render_mode}",
            absgrad=True,
            rasterize_mode=rasterize_mode,
        )
    rendered.register_hook(lambda gradient: _with_ones(gradient, place))
    image = torch.cat([rendered[..., :place], rendered[..., place + 1 :]], -1)
    if not wanted:
        image, alphas = image.detach(), alphas.detach()
    means2d = meta["means2d"]

    def weights() -> torch.Tensor:
        if weighing.grad is not None:
            return weighing.grad[..., 0]
        with torch.enable_grad():
            total = rendered[..., place].sum()
        return torch.autograd.grad(total, weighing, retain_graph=True)[0][..., 0]

    def pixel_counts() -> torch.Tensor:
        inputs = (means2d.detach(), meta["conics"].detach(), meta["opacities"].detach().contiguous())
        clear = means.new_ones(cameras, height, width)
        grid = (width, height, _TILE, meta["isect_offsets"], meta["flatten_ids"])
        gaussians, _, images = gsplat.rasterize_to_indices_in_range(0, _ALL, clear, *inputs, *grid)
        rows = images * count + gaussians % max(1, count)
        return torch.bincount(rows, minlength=cameras * count).reshape(cameras, count).to(torch.int32)

    info = {
        "means2d": means2d,
        "radii": meta["radii"],
        "depths": meta["depths"],
        "conics": meta["conics"],
        "opacities": meta["opacities"],
        "pairs": len(meta["flatten_ids"]) * _TILE**2,
        "width": width,
        "height": height,
        "n_cameras": cameras,
        "camera_ids": None,
        "gaussian_ids": None,
    }
    made = {"weights": weights, "pixel_counts": pixel_counts, "absgrad": lambda: means2d.absgrad}
    return image, alphas, _Info(info, made)


class _Info(dict[str, Any]):
    """What is known, and what is made only when it is asked for."""

    def __init__(self, known: dict[str, Any], made: dict[str, Callable[[], torch.Tensor]]) -> None:
        super().__init__(known)
        self._made = made

    def __contains__(self, name: object) -> bool:
        return name in self._made or super().__contains__(name)

    def __missing__(self, name: str) -> torch.Tensor:
        value = self[name] = self._made[name]()
        return value


def _colors(means: torch.Tensor, colors: torch.Tensor, viewmats: torch.Tensor, sh_degree: int | None) -> torch.Tensor:
    """(C, N, D), what each camera sees of the colors or coefficients."""
    if sh_degree is None:
        return colors if colors.ndim == 3 else colors.expand(len(viewmats), -1, -1)
    every = torch.ones(len(means), 2, dtype=torch.int32, device=means.device)
    eyes = [-view[:3, :3].T @ view[:3, 3] for view in viewmats]
    own = colors if colors.ndim == 4 else [colors] * len(eyes)
    return torch.stack([sh_colors(sh_degree, means, eye, each, every) for eye, each in zip(eyes, own, strict=True)])


def _with_ones(gradient: torch.Tensor, place: int) -> torch.Tensor:
    gradient = gradient.clone()
    gradient[..., place] = 1
    return gradient
