"""A textured room with balls and blocks, traced ray by ray: photos whose poses, depths and colors are exact.

All surfaces are matt, so a point looks the same from everywhere; a lamp at the ceiling casts shadows. The things in the
room can be left out one by one, which gives the true photos of the room without them.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.splat.scene import Scene, View

HALF = np.array([2.5, 1.25, 2.0])
"""Half of the room's width, height and depth; y points down, so the floor is at y = +1.25."""
LAMP = np.array([0.4, -1.1, -0.3])
_AMBIENT = 0.45
_SKIN = 1e-6  # of a surface: rays that leave it do not meet it again
# Two colors of each surface's texture: walls at -x, +x, -y (ceiling), +y (floor), -z, +z.
_WALLS = np.array([
    [[0.75, 0.35, 0.25], [0.90, 0.80, 0.65]], [[0.20, 0.40, 0.60], [0.70, 0.85, 0.90]],
    [[0.85, 0.85, 0.80], [0.60, 0.62, 0.66]], [[0.45, 0.30, 0.20], [0.85, 0.70, 0.50]],
    [[0.25, 0.50, 0.30], [0.85, 0.90, 0.60]], [[0.55, 0.30, 0.55], [0.95, 0.80, 0.85]],
])  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ball:
    """A sphere in two colors."""

    center: tuple[float, float, float]
    radius: float
    colors: tuple[tuple[float, float, float], tuple[float, float, float]]

    def hit(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances (N,), infinite for a miss, and normals (N, 3), along unit directions."""
        offset = origins - np.array(self.center)
        along = (offset * directions).sum(1)
        inside = along**2 - (offset**2).sum(1) + self.radius**2
        distance = -along - np.sqrt(np.maximum(inside, 0))
        distance = np.where((inside > 0) & (distance > _SKIN), distance, np.inf)
        normals = offset + np.where(np.isfinite(distance), distance, 0)[:, None] * directions
        return distance, normals / self.radius


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A box along the axes in two colors; `half` are half its edges."""

    center: tuple[float, float, float]
    half: tuple[float, float, float]
    colors: tuple[tuple[float, float, float], tuple[float, float, float]]

    def hit(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances (N,), infinite for a miss, and normals (N, 3), along unit directions."""
        away = _nonzero(directions)
        near = (np.array(self.center) - np.sign(away) * np.array(self.half) - origins) / away
        far = (np.array(self.center) + np.sign(away) * np.array(self.half) - origins) / away
        axis = near.argmax(1)
        entry, leave = near.max(1), far.min(1)
        distance = np.where((entry < leave) & (entry > _SKIN), entry, np.inf)
        return distance, -np.sign(away) * np.eye(3)[axis]


THINGS: tuple[Ball | Block, ...] = (
    Ball(center=(-0.9, 0.8, 0.5), radius=0.45, colors=((0.85, 0.15, 0.15), (1.0, 0.85, 0.2))),
    Ball(center=(1.0, 0.35, -0.2), radius=0.3, colors=((0.1, 0.3, 0.8), (0.9, 0.95, 1.0))),
    Ball(center=(0.1, -0.35, 0.4), radius=0.25, colors=((0.1, 0.6, 0.45), (0.95, 0.6, 0.2))),
    Block(center=(1.0, 0.95, -0.2), half=(0.4, 0.3, 0.4), colors=((0.5, 0.35, 0.2), (0.9, 0.75, 0.5))),
    Block(center=(0.1, 0.575, 0.4), half=(0.25, 0.675, 0.25), colors=((0.3, 0.3, 0.35), (0.8, 0.8, 0.85))),
    Block(center=(-0.6, 1.0, -0.9), half=(0.6, 0.25, 0.3), colors=((0.2, 0.5, 0.3), (0.9, 0.9, 0.5))),
)


def room(
    *,
    width: int = 160,
    height: int = 120,
    views: int = 40,
    hold_out_every: int = 8,
    points: int = 4000,
    noise: float = 0.02,
    things: tuple[Ball | Block, ...] = THINGS,
    seed: int = 0,
) -> Scene:
    """The room photographed from a ring inside it, with points found by tracing rays of training views.

    Args:
        width, height: of the photos, in pixels; each pixel is the mean of 2 x 2 rays.
        views: how many photos; the cameras look across the room, with 80 degrees from left to right.
        hold_out_every: every so many-th photo, beginning with the first, is held out; 0 for none.
        points: to start with, at random pixels; 0 for none, and a random start.
        noise: standard deviation that is added to the points' coordinates; the room is 5 wide.
        things: what stands in the room.
        seed: of pixels and noise; the photos do not depend on it.

    Raises:
        InputError: a number is out of range.
    """
    if min(width, height) < 2 or views < 2 or points < 0 or not 0 <= noise < math.inf:
        raise InputError(
            "a room needs width and height of at least 2, 2 views, points and noise of at least 0, "
            f"got {width} x {height}, {views} views, {points} points, noise {noise}"
        )
    if hold_out_every < 0 or hold_out_every == 1:
        raise InputError(f"hold_out_every must be 0 or at least 2, got {hold_out_every}")
    focal = width / 2 / math.tan(math.radians(40))
    k = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    photos, clouds = [], []
    random = np.random.Generator(np.random.PCG64(derive(seed, "room")))
    trained = [i for i in range(views) if not hold_out_every or i % hold_out_every]
    shares = dict(zip(trained, np.diff(np.linspace(0, points, len(trained) + 1).astype(int)), strict=True))
    for i in range(views):
        rotation, eye = _camera(i, views)
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
        image, distances, directions = _photograph(rotation, eye, width, height, focal, things)
        name, pose = f"{i:03}.png", torch.from_numpy(viewmat).float()
        photos.append(View(name=name, image=torch.from_numpy(image).float(), viewmat=pose, K=k))
        if i in shares:
            rays = random.integers(len(distances), size=shares[i])
            places = eye + distances[rays, None] * directions[rays]
            colors, _ = trace(np.broadcast_to(eye, (len(rays), 3)), directions[rays], things)
            clouds.append((places + noise * random.standard_normal(places.shape), colors))
    return Scene(
        views=tuple(photos[i] for i in trained),
        held_out=tuple(photo for i, photo in enumerate(photos) if i not in shares),
        points=torch.from_numpy(np.concatenate([places for places, _ in clouds])).float(),
        colors=torch.from_numpy(np.concatenate([colors for _, colors in clouds])).float(),
    )


def trace(
    origins: np.ndarray, directions: np.ndarray, things: tuple[Ball | Block, ...] = THINGS
) -> tuple[np.ndarray, np.ndarray]:
    """Colors (N, 3), 0 to 1, and distances (N,) of what rays from inside the room meet first.

    Args:
        origins: (N, 3), inside the room and outside of its things.
        directions: (N, 3), of length 1.
        things: what stands in the room.
    """
    away = _nonzero(directions)
    to_walls = (np.sign(away) * HALF - origins) / away
    axis = to_walls.argmin(1)
    distance = to_walls.min(1)
    toward = np.sign(away[np.arange(len(axis)), axis])
    normals = -toward[:, None] * np.eye(3)[axis]
    colors = _WALLS[2 * axis + (toward > 0)]
    for thing in things:
        hit, hit_normals = thing.hit(origins, directions)
        nearer = hit < distance
        distance = np.where(nearer, hit, distance)
        normals = np.where(nearer[:, None], hit_normals, normals)
        colors = np.where(nearer[:, None, None], np.array(thing.colors), colors)
    places = origins + distance[:, None] * directions
    mix = _texture(places)[:, None]
    return np.clip((colors[:, 0] * (1 - mix) + colors[:, 1] * mix) * _light(places, normals, things), 0, 1), distance


def _camera(i: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera rotation and eye of one camera on an ellipse, looking across the room and a little aside."""
    angle = 2 * math.pi * i / views
    eye = np.array([1.9 * math.sin(angle), -0.3 + 0.35 * (i % 3 - 1), -1.5 * math.cos(angle)])
    aside = 0.5 * (i % 5 - 2) / 2
    target = np.array([0.6 * math.sin(angle + math.pi + aside), 0.25 * (i % 4 - 1), -0.6 * math.cos(angle + math.pi)])
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross([0.0, 1.0, 0.0], ahead)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(ahead, right), ahead]), eye


def _photograph(
    rotation: np.ndarray, eye: np.ndarray, width: int, height: int, focal: float, things: tuple[Ball | Block, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The photo (height, width, 3), and all its rays' distances and directions, four for each pixel."""
    across = (np.arange(2 * width) + 0.5) / 2 - width / 2
    down = (np.arange(2 * height) + 0.5) / 2 - height / 2
    grid = np.stack([*np.meshgrid(across / focal, down / focal), np.ones((2 * height, 2 * width))], -1).reshape(-1, 3)
    directions = grid @ rotation
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colors, distances = trace(np.broadcast_to(eye, directions.shape), directions, things)
    image = colors.reshape(height, 2, width, 2, 3).mean((1, 3))
    return image, distances, directions


def _texture(places: np.ndarray) -> np.ndarray:
    """(N,) 0 to 1: a solid texture of waves of several widths and a coarse checker, the same wherever it is cut."""
    x, y, z = places.T
    waves = np.sin(5.1 * x + 1.7 * np.sin(3.3 * y) + 2 * z) * np.sin(4.3 * z + 1.3 * np.sin(2.9 * x) - 3.1 * y)
    fine = np.sin(17 * x + 3 * np.sin(4 * z)) * np.sin(16 * y + 2 * np.sin(5 * x)) + np.sin(15 * z + 4 * np.sin(3 * y))
    checker = np.sign(np.sin(6.3 * x + 0.4) * np.sin(6.3 * y + 0.9) * np.sin(6.3 * z + 1.3))
    return np.clip(0.5 + 0.22 * waves + 0.1 * fine + 0.18 * checker, 0, 1)


def _light(places: np.ndarray, normals: np.ndarray, things: tuple[Ball | Block, ...]) -> np.ndarray:
    """(N, 1): what there is everywhere, and the lamp's where nothing stands between."""
    away = LAMP - places
    length = np.linalg.norm(away, axis=1)
    away /= np.maximum(length, _SKIN)[:, None]
    facing = np.maximum((normals * away).sum(1), 0)
    starts = places + 1e-4 * normals
    for thing in things:
        distance, _ = thing.hit(starts, away)
        facing = np.where(distance < length, 0, facing)
    return (_AMBIENT + (1 - _AMBIENT) * facing**0.5)[:, None]


def _nonzero(directions: np.ndarray) -> np.ndarray:
    return np.where(np.abs(directions) < 1e-12, 1e-12, directions)
