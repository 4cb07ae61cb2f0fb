"""Gaussians to images, with the names, shapes and conventions of gsplat's `rasterization`; differentiable.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (arXiv 2308.04079); gsplat (arXiv 2409.06765).
Where we differ from gsplat: a Gaussian is cut off only where its alpha falls below 1/255, so the image does not depend
on the size of tiles; `info` always holds each Gaussian's summed weights and pixel counts and, after the backward pass,
its absolute gradients; one call renders any number of cameras and scenes, without `packed` or sparse gradients.
"""

from typing import Any, Literal, get_args

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.ops.compositing import MOST_CHANNELS, Composite, Layers, composite
from hardy.ops.projection import Lens, project
from hardy.ops.spherical_harmonics import sh_colors
from hardy.splat import gsplat_backend

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RasterizeMode = Literal["classic", "antialiased"]
# Arguments of gsplat's and the values of them that are accepted; any, where there are none.
_GSPLAT_OPTIONS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("absgrad", "tile_size", "channel_chunk"), ()),
    **dict.fromkeys(("packed", "sparse_grad", "distributed", "segmented", "with_ut", "with_eval3d"), (False,)),
    **dict.fromkeys(("covars", "radial_coeffs", "tangential_coeffs", "thin_prism_coeffs", "ftheta_coeffs"), (None,)),
    **dict.fromkeys(("rolling_shutter", "viewmats_rs"), (None,)),
    "camera_model": ("pinhole",),
}


def rasterization(
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
    sh_degree: int | None = None,
    features: torch.Tensor | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    backgrounds: torch.Tensor | None = None,
    render_mode: RenderMode = "RGB",
    rasterize_mode: RasterizeMode = "classic",
    **gsplat_options: Any,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Render N Gaussians with C cameras: on a CPU by compiled loops, on CUDA by gsplat where it is installed.

    Scenes of N Gaussians, each with C cameras of its own, may lie in batch dimensions before those named here; results
    have them then, too. `info["scenes"]` holds what each gave alone, whose "means2d" densification must ask.

    Args:
        means: (N, 3), world.
        quats: (N, 4), rotations, w first, of any length above zero.
        scales: (N, 3), standard deviations, above zero.
        opacities: (N,), in [0, 1].
        colors: (N, D) or (C, N, D) without `sh_degree`; with it coefficients (N, K, 3) or, of each camera its own,
            (C, N, K, 3), K >= (sh_degree + 1)^2.
        viewmats: (C, 4, 4), world to camera; x to the right, y down, z forward.
        Ks: (C, 3, 3), intrinsics in pixels; pixel (0, 0) has its centre at (0.5, 0.5).
        width, height: of the images.
        sh_degree: 0 to 3, the degree of spherical harmonics to use.
        features: (N, E), further channels, which come after the colors.
        near_plane, far_plane: depths between which Gaussians are seen.
        radius_clip: Gaussians whose radius in the image is no larger are left out, in pixels.
        eps2d: added to the variances in the image, in square pixels.
        backgrounds: (D + E,) or (C, D + E), shown where the Gaussians leave something through; depth has no background.
        render_mode: "D" is accumulated depth, "ED" expected depth (accumulated over alpha), the last channel.
        rasterize_mode: "antialiased" lowers opacities by what `eps2d` adds to the size.
        gsplat_options: gsplat's further arguments, at the values that say what is done here anyway: `packed=False`,
            `sparse_grad=False`, `camera_model="pinhole"`; `absgrad`, `tile_size` and `channel_chunk` change nothing.

    Returns:
        Images (C, height, width, channels), alphas (C, height, width, 1), and a dictionary with, among others,

        - "means2d" (C, N, 2), whose gradient densification reads (call `retain_grad()` on it before the backward pass);
            the backward pass also fills "absgrad" (C, N, 2), the sums of absolute gradients, found as
            `info["means2d"].absgrad` too;
        - "radii" (C, N, 2) int32, zero for what is not seen, "depths", "conics", "opacities";
        - "weights" (C, N), each Gaussian's sum over pixels of alpha times transmittance, and "pixel_counts" (C, N), the
            pixels it contributed to;
        - "pairs", how many pairs of pixel and Gaussian were looked at.

    Raises:
        InputError: shapes do not fit, a value is not finite, a quaternion is zero, a scale is not above zero, the
            degree or a mode is unknown.
    """
    if means.ndim > 2:
        tensors = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
        tensors |= {"viewmats": viewmats, "Ks": Ks, "features": features, "backgrounds": backgrounds}
        settings: dict[str, Any] = {"sh_degree": sh_degree, "near_plane": near_plane, "far_plane": far_plane}
        settings |= {"radius_clip": radius_clip, "eps2d": eps2d, "render_mode": render_mode}
        settings |= {"width": width, "height": height, "rasterize_mode": rasterize_mode, **gsplat_options}
        return _each(tensors, settings)
    if backgrounds is not None and backgrounds.ndim == 1:
        backgrounds = backgrounds.expand(len(viewmats), -1)
    _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, features, backgrounds)
    checks.one_of("render_mode", render_mode, get_args(RenderMode))
    checks.one_of("rasterize_mode", rasterize_mode, get_args(RasterizeMode))
    for name, value in gsplat_options.items():
        if name not in _GSPLAT_OPTIONS:
            raise TypeError(f"rasterization() got an unexpected keyword argument {name!r}")
        if getattr(value, "name", None) == "GLOBAL":  # gsplat's RollingShutterType: none
            value = None
        if value not in _GSPLAT_OPTIONS[name] and _GSPLAT_OPTIONS[name]:
            known = " or ".join(map(repr, _GSPLAT_OPTIONS[name]))
            raise InputError(f"{name} must be {known} here, got {value!r}")
    if means.device.type == "cuda" and means.dtype == torch.float32 and gsplat_backend.installed():
        return gsplat_backend.rasterization_gsplat(
            means,
            quats,
            scales,
            opacities,
            colors,
            viewmats,
            Ks,
            width,
            height,
            sh_degree=sh_degree,
            features=features,
            near_plane=near_plane,
            far_plane=far_plane,
            radius_clip=radius_clip,
            eps2d=eps2d,
            backgrounds=backgrounds,
            render_mode=render_mode,
            rasterize_mode=rasterize_mode,
        )
    antialiased = rasterize_mode == "antialiased"
    lens = Lens(
        width=width,
        height=height,
        near=near_plane,
        far=far_plane,
        blur=eps2d,
        smallest_radius=radius_clip,
        compensated=antialiased,
    )
    pairs = zip(viewmats, Ks, strict=True)
    projected = [project(means, quats, scales, opacities, view, k, lens) for view, k in pairs]
    means2d, depths, conics, compensations, radii = (torch.stack(part) for part in zip(*projected, strict=True))
    seen_opacities = opacities * compensations if antialiased else opacities.expand(len(viewmats), -1)

    composites: list[Composite] = []
    absolute = means2d.new_zeros(means2d.shape)
    for camera, view in enumerate(viewmats):
        parts = []
        if "RGB" in render_mode:
            if sh_degree is not None:
                eye = -view[:3, :3].T @ view[:3, 3]
                coefficients = colors if colors.ndim == 3 else colors[camera]
                parts.append(sh_colors(sh_degree, means, eye, coefficients, radii[camera]))
            else:
                parts.append(colors if colors.ndim == 2 else colors[camera])
            if features is not None:
                parts.append(features)
        if "D" in render_mode:
            parts.append(depths[camera, :, None])
        layers = Layers(
            means=means2d[camera],
            conics=conics[camera],
            opacities=seen_opacities[camera],
            colors=torch.cat(parts, -1) if len(parts) > 1 else parts[0],
            depths=depths[camera],
            radii=radii[camera],
        )
        background = None
        if backgrounds is not None and "RGB" in render_mode:
            missing = layers.colors.shape[1] - backgrounds.shape[1]
            background = torch.nn.functional.pad(backgrounds[camera], (0, missing))
        composites.append(composite(layers, width, height, background, absolute[camera]))

    image = torch.stack([made.image for made in composites])
    alphas = torch.stack([made.alphas for made in composites])[..., None]
    if "ED" in render_mode:
        image = torch.cat([image[..., :-1], image[..., -1:] / alphas.clamp(min=1e-10)], -1)
    info = {
        "means2d": means2d,
        "radii": radii,
        "depths": depths,
        "conics": conics,
        "opacities": seen_opacities,
        "weights": torch.stack([made.weights for made in composites]),
        "pixel_counts": torch.stack([made.counts for made in composites]),
        "absgrad": absolute,
        "pairs": sum(made.pairs for made in composites),
        "width": width,
        "height": height,
        "n_cameras": len(viewmats),
        "camera_ids": None,
        "gaussian_ids": None,
    }
    means2d.absgrad = absolute  # pyright: ignore[reportAttributeAccessIssue]
    return image, alphas, info


def _each(
    tensors: dict[str, torch.Tensor | None], settings: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """What `rasterization` gives for scenes in batch dimensions, one after the other."""
    assert tensors["means"] is not None
    batch = tensors["means"].shape[:-2]
    flat: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if tensor is None or (name == "backgrounds" and tensor.ndim == 1):
            continue
        if tensor.shape[: len(batch)] != batch:
            raise InputError(f"{name} must begin with the batch dimensions {tuple(batch)}, got {tuple(tensor.shape)}")
        flat[name] = tensor.flatten(0, len(batch) - 1)
    shared = {} if tensors["backgrounds"] is None or "backgrounds" in flat else {"backgrounds": tensors["backgrounds"]}
    if not batch.numel():
        raise InputError(f"the batch dimensions {tuple(batch)} hold no scene")
    found = [
        rasterization(**{name: tensor[i] for name, tensor in flat.items()}, **shared, **settings)
        for i in range(batch.numel())
    ]
    images, alphas, infos = zip(*found, strict=True)

    def together(parts: Any) -> torch.Tensor:
        return torch.stack(list(parts)).unflatten(0, batch)

    names = ("means2d", "radii", "depths", "conics", "opacities", "weights", "pixel_counts", "absgrad")
    info: dict[str, Any] = {name: together(each[name] for each in infos) for name in names}
    info |= {name: infos[0][name] for name in ("width", "height", "n_cameras", "camera_ids", "gaussian_ids")}
    info |= {"pairs": sum(each["pairs"] for each in infos), "scenes": infos}
    return together(images), together(alphas), info


def _check(
    means: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    colors: torch.Tensor,
    viewmats: torch.Tensor,
    intrinsics: torch.Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
    features: torch.Tensor | None,
    backgrounds: torch.Tensor | None,
) -> None:
    count, cameras = len(means), len(viewmats)
    wanted = {
        "means": (means, (count, 3)),
        "quats": (quats, (count, 4)),
        "scales": (scales, (count, 3)),
        "opacities": (opacities, (count,)),
        "viewmats": (viewmats, (cameras, 4, 4)),
        "Ks": (intrinsics, (cameras, 3, 3)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name} must have the shape {shape}, got {tuple(tensor.shape)}")
        if not torch.isfinite(tensor.detach().sum()) and not torch.isfinite(tensor).all():
            raise InputError(f"{name} holds {int((~torch.isfinite(tensor)).sum())} values that are not finite")
    if width < 1 or height < 1:
        raise InputError(f"an image must have at least one pixel, got {width} x {height}")
    if cameras < 1:
        raise InputError("viewmats must hold at least one camera")
    if count and not bool((scales.detach() > 0).all()):
        raise InputError(f"scales must be above 0, got {scales.min().item():g}; they are not logarithms here")
    if count and not bool((quats.detach().norm(dim=-1) > 0).all()):
        where = int((quats.detach().norm(dim=-1) == 0).nonzero()[0])
        raise InputError(f"quats must not be zero, as that of Gaussian {where} is")
    channels = 0 if features is None else features.shape[-1]
    if sh_degree is None:
        if tuple(colors.shape[:-1]) not in ((count,), (cameras, count)):
            shapes = f"({count}, D) or ({cameras}, {count}, D)"
            raise InputError(f"colors must have the shape {shapes}, got {tuple(colors.shape)}")
        channels += colors.shape[-1]
    else:
        if sh_degree not in range(4):
            raise InputError(f"sh_degree must be 0 to 3, or None for plain colors, got {sh_degree!r}")
        bases = (sh_degree + 1) ** 2
        leading, rest = tuple(colors.shape[:-2]), tuple(colors.shape[-2:])
        if leading not in ((count,), (cameras, count)) or rest[0] < bases or rest[1] != 3:
            raise InputError(
                f"colors must have the shape ({count}, at least {bases}, 3) for sh_degree={sh_degree}, or "
                f"({cameras}, {count}, at least {bases}, 3), got {tuple(colors.shape)}"
            )
        channels += 3
    if not 1 <= channels < MOST_CHANNELS:
        raise InputError(f"colors and features must have 1 to {MOST_CHANNELS - 1} channels, got {channels}")
    if features is not None and (features.ndim != 2 or len(features) != count):
        raise InputError(f"features must have the shape ({count}, E), got {tuple(features.shape)}")
    if backgrounds is not None and tuple(backgrounds.shape) != (cameras, channels):
        raise InputError(f"backgrounds must have the shape ({cameras}, {channels}), got {tuple(backgrounds.shape)}")
