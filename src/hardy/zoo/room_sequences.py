"""Videos of rooms that never were: photos from a moving camera with exact poses and depths, endless and seeded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from hardy.core.rng import derive
from hardy.zoo.traced_room import WALLS, Ball, Block, TracedRoom

NEAR = 0.3
"""No thing comes nearer to the camera."""
FIELDS = (55.0, 75.0)
"""Degrees, from which a camera's field of view from left to right is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequence3D:
    """A video and its geometry. The world is that of the first camera; lengths are in meters.

    Attributes:
        images: (frames, 3, height, width), 0 to 1.
        depth: (frames, height, width), along the camera's axis.
        viewmats: (frames, 4, 4), world to camera; x to the right, y down, z ahead.
        K: (3, 3), in pixels.
    """

    images: torch.Tensor
    depth: torch.Tensor
    viewmats: torch.Tensor
    K: torch.Tensor

    @property
    def eyes(self) -> torch.Tensor:
        """(frames, 3): where the cameras are."""
        return -(self.viewmats[:, :3, :3].mT @ self.viewmats[:, :3, 3:])[..., 0]

    def backwards(self) -> Sequence3D:
        """The same video from its last frame to its first, in the world of what is now the first camera."""
        viewmats = self.viewmats.flip(0)
        viewmats = viewmats @ torch.linalg.inv(viewmats[:1])
        return Sequence3D(images=self.images.flip(0), depth=self.depth.flip(0), viewmats=viewmats, K=self.K)


def room_sequence(
    *names: str | int, frames: int, width: int = 64, height: int = 48, rays: int = 1, seed: int = 0
) -> Sequence3D:
    """A room of its own for each of `names`: its size, colors, texture, lamp and things, and a path through it.

    Args:
        names: of the random stream; ("training", step, row) and ("held-out", number) are the zoo's.
        frames: of the video.
        width, height: in pixels.
        rays: for each pixel along each side.
        seed: of everything.
    """
    random = np.random.Generator(np.random.PCG64(derive(seed, "room-sequence", *names)))
    half = np.array([random.uniform(1.5, 4), random.uniform(1.1, 1.6), random.uniform(1.5, 4)])
    eyes, rotations = _path(random, half, frames)
    room = _room(random, half, eyes)
    focal = width / 2 / math.tan(math.radians(random.uniform(*FIELDS)) / 2)
    images, depths, viewmats = [], [], []
    for eye, rotation in zip(eyes, rotations, strict=True):
        image, distances, directions = room.photograph(rotation, eye, width, height, focal, rays)
        ahead = (distances * (directions @ rotation[2])).reshape(height, rays, width, rays)
        images.append(image)
        depths.append(ahead[:, rays // 2, :, rays // 2])
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
        viewmats.append(viewmat)
    first = np.linalg.inv(viewmats[0])
    return Sequence3D(
        images=torch.from_numpy(np.stack(images)).float().permute(0, 3, 1, 2).contiguous(),
        depth=torch.from_numpy(np.stack(depths)).float(),
        viewmats=torch.from_numpy(np.stack([viewmat @ first for viewmat in viewmats])).float(),
        K=torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]),
    )


def _path(random: np.random.Generator, half: np.ndarray, frames: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Places (frames, 3) and world-to-camera rotations of a camera that swings through the room, however long."""
    times = np.arange(frames)

    def swing(size: float, low: float = 0.04, high: float = 0.16) -> np.ndarray:
        return size * np.sin(random.uniform(low, high) * times + random.uniform(0, 2 * math.pi))

    free = np.array([half[0] - 0.5, 0.35, half[2] - 0.5])
    base = free * random.uniform(-0.4, 0.4, 3)
    eyes = np.stack([base[i] + swing((free[i] - abs(base[i])) * random.uniform(0.3, 1)) for i in range(3)], 1)
    yaws = random.uniform(0, 2 * math.pi) + swing(random.uniform(0.2, 1.0)) + random.uniform(-0.03, 0.03) * times
    pitches = random.uniform(-0.1, 0.3) + swing(random.uniform(0, 0.2))
    rolls = swing(random.uniform(0, 0.1))
    return eyes, [_rotation(*angles) for angles in zip(yaws, pitches, rolls, strict=True)]


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    ahead = np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
    right = np.cross([0.0, 1.0, 0.0], ahead)
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    return np.stack([
        math.cos(roll) * right + math.sin(roll) * down, math.cos(roll) * down - math.sin(roll) * right, ahead,
    ])  # fmt: skip


def _room(random: np.random.Generator, half: np.ndarray, eyes: np.ndarray) -> TracedRoom:
    things: list[Ball | Block] = []
    for _ in range(random.integers(5, 13)):
        colors = tuple(tuple(color) for color in random.uniform(0.05, 1, (2, 3)))
        x, z = half[[0, 2]] * random.uniform(-0.9, 0.9, 2)
        if random.random() < 0.35:
            radius = random.uniform(0.15, 0.5)
            thing = Ball(center=(x, random.uniform(0, half[1] - radius), z), radius=radius, colors=colors)  # pyright: ignore[reportArgumentType]
            gap = np.linalg.norm(eyes - np.array(thing.center), axis=1) - radius
        else:
            size = random.uniform((0.15, 0.2, 0.15), (0.7, 0.9, 0.7))
            thing = Block(center=(x, half[1] - size[1], z), half=tuple(size), colors=colors)  # pyright: ignore[reportArgumentType]
            gap = np.linalg.norm(np.maximum(np.abs(eyes - np.array(thing.center)) - size, 0), axis=1)
        if gap.min() > NEAR:
            things.append(thing)
    return TracedRoom(
        things=tuple(things),
        half=half,
        lamp=half * np.array([random.uniform(-0.6, 0.6), -0.9, random.uniform(-0.6, 0.6)]),
        walls=np.clip(WALLS + random.uniform(-0.15, 0.15, (6, 2, 3)), 0, 1),
        grain=random.uniform(0.7, 1.2),
        shift=random.uniform(-5, 5, 3),
    )


def recolored(images: torch.Tensor, names: Sequence[str | int], seed: int = 0) -> torch.Tensor:
    """Images with another exposure, contrast, tint and noise, the same for a whole video: what cameras differ in."""
    random = np.random.Generator(np.random.PCG64(derive(seed, "recolored", *names)))
    gamma, gain = random.uniform(0.85, 1.2), random.uniform(0.8, 1.15)
    tint = torch.from_numpy(random.uniform(0.95, 1.05, (3, 1, 1))).float()
    noise = torch.from_numpy(random.normal(0, random.uniform(0, 0.02), tuple(images.shape))).float()
    return (gain * tint * images.clamp_min(1e-4) ** gamma + noise).clamp(0, 1)
