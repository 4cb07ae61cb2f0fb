"""Where each frame's camera stood: a head that refines a pose several times, and what its numbers mean.

A pose is 9 numbers: translation, quaternion (x, y, z, w), and the angles of view from top to bottom and from left to
right in radians. It leads from the world to the camera; x is to the right, y down, z ahead; the world is that of the
first camera. Rays meet in the middle of the image.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize, silu

from hardy.zoo.vggt.attending import Attending
from hardy.zoo.vggt.config import VGGTConfig
from hardy.zoo.vggt.layers import Block, Mlp

POSE = 9


class Modulation(nn.Sequential):
    """Shift, scale and gate from what is known of a pose."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(dim, 3 * dim))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self[1](silu(x)).chunk(3, -1)


class CameraHead(nn.Module):
    """Camera tokens (batch, frames, 2 dim) to poses (batch, frames, 9), one for each refinement."""

    def __init__(self, config: VGGTConfig, scale: float = 0.01) -> None:
        super().__init__()
        dim = 2 * config.dim
        self.iterations = config.iterations
        self.token_norm, self.trunk_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.trunk = nn.Sequential(
            *(Block(dim, config.camera_heads, qk_norm=False, scale=scale) for _ in range(config.camera_depth))
        )
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE))
        self.embed_pose = nn.Linear(POSE, dim)
        self.poseLN_modulation = Modulation(dim)
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(dim, dim // 2, POSE)

    def forward(self, tokens: torch.Tensor, attending: Attending) -> list[torch.Tensor]:
        tokens, found = self.token_norm(tokens), []
        pose: torch.Tensor | None = None
        for iteration in range(self.iterations):
            known = self.empty_pose_tokens.expand(*tokens.shape[:2], -1) if pose is None else pose.detach()
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known))
            x = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
            for number, block in enumerate(self.trunk):
                x = block(x, None, attending.camera(iteration, number))
            change = self.pose_branch(self.trunk_norm(x))
            better = change if pose is None else pose + change
            found.append(torch.cat([better[..., :7], better[..., 7:].relu()], -1))
            pose = better
        return found


def matrices(pose: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """World-to-camera matrices (..., 4, 4) and intrinsics in pixels (..., 3, 3) of poses (..., 9)."""
    pose = pose.float()
    viewmat = torch.eye(4, device=pose.device).expand(*pose.shape[:-1], 4, 4).clone()
    viewmat[..., :3, :3], viewmat[..., :3, 3] = rotation(pose[..., 3:7]), pose[..., :3]
    tangents = (pose[..., 7:] / 2).clamp(1e-3, 1.56).tan()
    k = torch.zeros(*pose.shape[:-1], 3, 3, device=pose.device)
    k[..., 0, 0], k[..., 1, 1] = width / 2 / tangents[..., 1], height / 2 / tangents[..., 0]
    k[..., 0, 2], k[..., 1, 2], k[..., 2, 2] = width / 2, height / 2, 1
    return viewmat, k


def pose_of(viewmat: torch.Tensor, k: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Poses (..., 9) of world-to-camera matrices (..., 4, 4) and intrinsics (..., 3, 3) in pixels."""
    fov = 2 * torch.stack([height / 2 / k[..., 1, 1], width / 2 / k[..., 0, 0]], -1).atan()
    return torch.cat([viewmat[..., :3, 3], quaternion(viewmat[..., :3, :3]), fov], -1)


def rotation(quat: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), x, y, z, w, of any length but 0."""
    x, y, z, w = normalize(quat, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def quaternion(matrix: torch.Tensor) -> torch.Tensor:
    """Quaternions (..., 4), x, y, z, w with w >= 0, of rotation matrices (..., 3, 3)."""
    from scipy.spatial.transform import Rotation

    flat = matrix.detach().cpu().double().reshape(-1, 3, 3).numpy()
    found = torch.from_numpy(Rotation.from_matrix(flat).as_quat()).to(matrix)
    found = torch.where(found[:, 3:] < 0, -found, found)
    return found.reshape(*matrix.shape[:-2], 4)


def unprojected(depth: torch.Tensor, viewmat: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Points (..., height, width, 3) in the world of depths (..., height, width) along the camera's axis."""
    height, width = depth.shape[-2:]
    across = torch.arange(width, device=depth.device) + 0.5
    down = torch.arange(height, device=depth.device) + 0.5
    x = (across - k[..., 0, 2, None]) / k[..., 0, 0, None]
    y = (down - k[..., 1, 2, None]) / k[..., 1, 1, None]
    rays = torch.stack([x[..., None, :].expand(depth.shape), y[..., None].expand(depth.shape), depth * 0 + 1], -1)
    places = rays * depth[..., None] - viewmat[..., None, None, :3, 3]
    return places @ viewmat[..., None, :3, :3]
