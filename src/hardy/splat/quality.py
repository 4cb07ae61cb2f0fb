"""Renderings of views, how far they are from the photos, and the loss that training lowers."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from hardy.errors import InputError
from hardy.evaluate import psnr_of_error, ssim
from hardy.splat.options import Options
from hardy.splat.ply import Parameters
from hardy.splat.rendering import RenderMode, rasterization
from hardy.splat.scene import View


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """How close renderings of views come: means over the views of PSNR (dB) and SSIM, outside of masks not counted."""

    psnr: float
    ssim: float
    views: int


def render_view(
    parameters: Parameters,
    view: View,
    options: Options | None = None,
    degree: int | None = None,
    *,
    features: torch.Tensor | None = None,
    render_mode: RenderMode = "RGB",
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """`rasterization` of one view: images (1, height, width, channels), alphas, info; at the degree there is."""
    device = parameters["means"].device
    height, width = view.image.shape[:2]
    options = options or Options(sh_degree=degree_of(parameters))
    degree = options.sh_degree if degree is None else degree
    more = 0 if features is None else features.shape[1]
    return rasterization(
        parameters["means"],
        parameters["quats"],
        parameters["scales"].exp(),
        parameters["opacities"].sigmoid(),
        torch.cat([parameters["sh0"], parameters["shN"]], 1),
        view.viewmat[None].to(device),
        view.K[None].to(device),
        width,
        height,
        sh_degree=degree,
        features=features,
        backgrounds=torch.tensor([[*options.background, *[0.0] * more]], device=device),
        render_mode=render_mode,
        rasterize_mode=options.rasterize_mode,
    )


def view_loss(parameters: Parameters, view: View, options: Options, degree: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """What training lowers: mean absolute error and 1 - SSIM of one view in their shares; and the rasterizer's info.

    Where the view has a depth, the mean of its relative error comes on top. A pixel's weight is its share in both; in
    SSIM one of weight 0 is as the photo has it.
    """
    if view.depth is None:
        images, _, info = render_view(parameters, view, options, degree)
        image = images[0]
    else:
        images, _, info = render_view(parameters, view, options, degree, render_mode="RGB+ED")
        image = images[0, ..., :3]
    photo = view.image
    if view.mask is not None:
        image, photo = (torch.where(view.mask[..., None], each, 0) for each in (image, photo))
    if view.weight is not None:
        image = photo + view.weight[..., None] * (image - photo)
    loss = (1 - options.ssim_lambda) * (image - photo).abs().mean()
    if options.ssim_lambda:
        loss = loss + options.ssim_lambda * (1 - ssim(image, photo))
    if view.depth is not None and options.depth_lambda:
        counts = view.depth > 0
        off = (images[0, ..., 3] - view.depth).abs() / view.depth.clamp(min=1e-6)
        off = off if view.weight is None else off * view.weight
        loss = loss + options.depth_lambda * torch.where(counts, off, 0).mean()
    return loss, info


def evaluate(
    parameters: Parameters, views: tuple[View, ...], options: Options | None = None, degree: int | None = None
) -> Quality:
    """How close the renderings of `views` come to their photos."""
    options = options or Options(sh_degree=degree_of(parameters))
    if not views:
        raise InputError("evaluate needs at least one view")
    empty = [view.name for view in views if view.mask is not None and not bool(view.mask.any())]
    if len(empty) == len(views):
        raise InputError(f"the masks of all {len(views)} views are empty: there is nothing to evaluate")
    views = tuple(view for view in views if view.name not in empty)
    scores = []
    with torch.no_grad():
        for view in views:
            view = view.to(parameters["means"].device)
            image = render_view(parameters, view, options, degree)[0][0].clamp(0, 1)
            counts = (
                torch.ones(image.shape[:2], dtype=torch.bool, device=image.device) if view.mask is None else view.mask
            )
            error = (image - view.image)[counts].double().square().mean()
            similarity = ssim(torch.where(counts[..., None], image, 0), torch.where(counts[..., None], view.image, 0))
            scores.append((psnr_of_error(error).item(), similarity.item()))
    psnrs, ssims = zip(*scores, strict=True)
    return Quality(psnr=sum(psnrs) / len(scores), ssim=sum(ssims) / len(scores), views=len(scores))


def degree_of(parameters: Parameters) -> int:
    """Of the spherical harmonics that there are coefficients for."""
    return round((parameters["shN"].shape[1] + 1) ** 0.5) - 1
