"""Colors that change with the direction they are seen from: real spherical harmonics up to degree 3.

As in 3D Gaussian splatting (arXiv 2308.04079): color = max(0, 0.5 + sum of coefficients times bases), with the signs
and the order of the bases that all its files use.
"""

from typing import Any

import torch

from hardy.ops import kernels

FIRST = 0.28209479177387814
"""The basis of degree 0: a coefficient c of it alone is the color 0.5 + c * FIRST."""


def sh_colors(
    degree: int, means: torch.Tensor, eye: torch.Tensor, coefficients: torch.Tensor, radii: torch.Tensor
) -> torch.Tensor:
    """(N, 3) colors of Gaussians as seen from a point; differentiable in all three.

    Args:
        degree: 0 to 3; bases above it are left out.
        means: (N, 3), centres.
        eye: (3,), where the camera is.
        coefficients: (N, K, 3) with K >= (degree + 1)^2.
        radii: (N, 2), zero for Gaussians that are not seen, which get the color 0.
    """
    if means.device.type == "cpu" and means.dtype == torch.float32 and kernels.path() is not None:
        return _Colors.apply(degree, means, eye, coefficients, radii)
    return sh_colors_reference(degree, means, eye, coefficients, radii)


def sh_colors_reference(
    degree: int, means: torch.Tensor, eye: torch.Tensor, coefficients: torch.Tensor, radii: torch.Tensor
) -> torch.Tensor:
    """`sh_colors` in torch, in any dtype and on any device."""
    offsets = means - eye
    bases = sh_bases(degree, offsets / offsets.norm(dim=-1, keepdim=True).clamp(min=1e-12))
    colors = 0.5 + (bases[..., None] * coefficients[:, : bases.shape[-1]]).sum(1)
    return torch.where(radii[:, :1] > 0, colors.clamp(min=0), 0)


def sh_bases(degree: int, directions: torch.Tensor) -> torch.Tensor:
    """(N, (degree + 1)^2) bases on unit vectors (N, 3)."""
    x, y, z = directions.unbind(-1)
    bases = [torch.full_like(x, FIRST)]
    if degree >= 1:
        bases += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        bases += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * z * z - x * x - y * y),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        bases += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
            0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(bases, -1)


class _Colors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, degree: int, *arguments: torch.Tensor) -> torch.Tensor:
        means, eye, coefficients = (tensor.detach().to(torch.float32).contiguous() for tensor in arguments[:3])
        radii = arguments[3].contiguous()
        colors = torch.empty_like(means)
        module: Any = kernels.extension()
        tensors = (means, eye, coefficients, radii, colors)
        module.harmonics(degree, *tensors, torch.get_num_threads())
        ctx.save_for_backward(*tensors)
        ctx.degree = degree
        return colors

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        means, eye, coefficients, radii, colors = ctx.saved_tensors
        made = [torch.empty_like(tensor) for tensor in (means, eye, coefficients)]
        tensors = (means, eye, coefficients, radii, colors, gradients[0].contiguous(), *made)
        module: Any = kernels.extension()
        module.harmonics_backward(ctx.degree, *tensors, torch.get_num_threads())
        return (None, *made, None)
