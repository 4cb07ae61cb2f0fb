"""Gaussians projected to the image of a pinhole camera: centres, depths, inverse covariances in pixels.

"EWA Volume Splatting" (Zwicker et al. 2001), in the form of 3D Gaussian splatting (arXiv 2308.04079), with the
conventions of gsplat:

1. The covariance is R diag(scales)^2 R^T, with R the rotation of the quaternion (w, x, y, z), which need not be of
   length one.
2. It is projected with the slope J of the pinhole projection at the centre. In J, not in the centre, the place in the
   image is held to at most 15 % of the image's size outside of it.
3. `blur` is added to the diagonal of the projected covariance. The compensation for it is sqrt(det before / det after).
4. A Gaussian is seen if its depth is within [near, far], its alpha reaches 1/255, and the box where it does touches the
   image. The radii of that box, in whole pixels, are zero for a Gaussian that is not seen.
"""

import dataclasses
from typing import Any

import torch

from hardy.ops import kernels

LEAST_ALPHA = 1 / 255
_MARGIN = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lens:
    """What the projection needs to know besides the Gaussians and the camera's place.

    Args:
        width, height: of the image in pixels.
        near, far: depths between which a Gaussian is seen.
        blur: added to the variances in the image, in square pixels.
        smallest_radius: Gaussians whose box is no larger than this, in pixels, are not seen.
        compensated: whether opacities will be multiplied by the compensations.
    """

    width: int
    height: int
    near: float = 0.01
    far: float = 1e10
    blur: float = 0.3
    smallest_radius: float = 0.0
    compensated: bool = False


Projected = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def project(
    means: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    view: torch.Tensor,
    intrinsics: torch.Tensor,
    lens: Lens,
) -> Projected:
    """The Gaussians as one camera sees them; differentiable in all but opacities, which only decide what is seen.

    Args:
        means: (N, 3), world.
        quats: (N, 4), w first.
        scales: (N, 3), standard deviations, not their logarithms.
        opacities: (N,), after the sigmoid.
        view: (4, 4), world to camera: x to the right, y down, z forward.
        intrinsics: (3, 3), in pixels.
        lens: image size and limits.

    Returns:
        means (N, 2) in pixels, depths (N,), conics (N, 3) (the inverse covariance's xx, xy, yy), compensations (N,) and
        radii (N, 2) int32. All are zero for what is not seen.
    """
    if means.device.type == "cpu" and means.dtype == torch.float32 and kernels.path() is not None:
        return _Project.apply(means, quats, scales, opacities, view, intrinsics, lens)
    return project_reference(means, quats, scales, opacities, view, intrinsics, lens)


def project_reference(
    means: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    view: torch.Tensor,
    intrinsics: torch.Tensor,
    lens: Lens,
) -> Projected:
    """`project` in torch, in any dtype and on any device."""
    seen = means @ view[:3, :3].T + view[:3, 3]
    depths = seen[:, 2]
    z = torch.where(depths >= lens.near, depths, torch.ones_like(depths))
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    u, v = fx * seen[:, 0] / z, fy * seen[:, 1] / z
    held_u = (u + cx).clamp(-_MARGIN * lens.width, (1 + _MARGIN) * lens.width) - cx
    held_v = (v + cy).clamp(-_MARGIN * lens.height, (1 + _MARGIN) * lens.height) - cy
    nothing = torch.zeros_like(z)
    slope = torch.stack(
        [torch.stack([fx / z, nothing, -held_u / z], -1), torch.stack([nothing, fy / z, -held_v / z], -1)], -2
    )
    lengths = quats.norm(dim=-1, keepdim=True)
    shape = rotations(quats / lengths.clamp(min=torch.finfo(quats.dtype).tiny)) * scales[:, None]
    half = slope @ view[:3, :3] @ shape
    covariance = half @ half.transpose(1, 2)
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    before = torch.linalg.cross(half[:, 0], half[:, 1]).square().sum(-1)
    after = before + lens.blur * (xx + yy) + lens.blur**2
    xx, yy = xx + lens.blur, yy + lens.blur
    # Where `before` is zero the root has no slope, and is left out of the graph.
    flat = before <= 0
    compensations = torch.where(flat, 0, (torch.where(flat, 1, before) / after).sqrt())

    with torch.no_grad():
        reached = opacities * compensations if lens.compensated else opacities
        reach = (2 * (255 * reached.clamp(min=LEAST_ALPHA)).log()).sqrt()
        radii = torch.stack([(reach * xx.sqrt()).ceil(), (reach * yy.sqrt()).ceil()], -1).clamp(1, 1e9)
        x, y = u + cx, v + cy
        inside = (x + radii[:, 0] > 0) & (x - radii[:, 0] < lens.width)
        inside &= (y + radii[:, 1] > 0) & (y - radii[:, 1] < lens.height)
        visible = (depths >= lens.near) & (depths <= lens.far) & (lengths[:, 0] > 0) & (after > 0) & after.isfinite()
        visible &= inside & (reached >= LEAST_ALPHA) & (radii.amax(-1) > lens.smallest_radius)
    centres = torch.stack([u + cx, v + cy], -1)
    conics = torch.stack([yy / after, -xy / after, xx / after], -1)
    return (
        torch.where(visible[:, None], centres, 0),
        torch.where(visible, depths, 0),
        torch.where(visible[:, None], conics, 0),
        torch.where(visible, compensations, 0),
        torch.where(visible[:, None], radii, 0).to(torch.int32),
    )


def rotations(quats: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3) rotation matrices of unit quaternions (N, 4), w first."""
    w, x, y, z = quats.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _numbers(lens: Lens) -> tuple[float, ...]:
    return lens.width, lens.height, lens.near, lens.far, lens.blur, lens.smallest_radius


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Projected:
        *tensors, lens = arguments
        tensors = [tensor.detach().to(torch.float32).contiguous() for tensor in tensors]
        count = len(tensors[0])
        sizes = ((count, 2), (count,), (count, 3), (count,))
        outputs = [torch.empty(size, dtype=torch.float32) for size in sizes]
        radii = torch.empty(count, 2, dtype=torch.int32)
        module: Any = kernels.extension()
        module.project(*tensors, *_numbers(lens), lens.compensated, *outputs, radii, torch.get_num_threads())
        ctx.save_for_backward(*tensors, radii)
        ctx.lens = lens
        ctx.mark_non_differentiable(radii)
        return (*outputs, radii)  # pyright: ignore[reportReturnType]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        *inputs, radii = ctx.saved_tensors
        means, quats, scales, _, view, intrinsics = inputs
        made = [torch.empty_like(tensor) for tensor in (means, quats, scales, view, intrinsics)]
        incoming = [gradient.contiguous() for gradient in gradients[:4]]
        module: Any = kernels.extension()
        module.project_backward(*inputs, *_numbers(ctx.lens), radii, *incoming, *made, torch.get_num_threads())
        return (*made[:3], None, made[3], made[4], None)
