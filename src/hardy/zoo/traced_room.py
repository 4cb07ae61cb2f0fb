"""Rooms traced ray by ray: colors and distances of whatever a ray meets are exact.

All surfaces are matt, so a point looks the same from everywhere; a lamp at the ceiling casts shadows. y points down.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_AMBIENT = 0.45
_SKIN = 1e-6  # of a surface: rays that leave it do not meet it again
WALLS = np.array([
    [[0.75, 0.35, 0.25], [0.90, 0.80, 0.65]], [[0.20, 0.40, 0.60], [0.70, 0.85, 0.90]],
    [[0.85, 0.85, 0.80], [0.60, 0.62, 0.66]], [[0.45, 0.30, 0.20], [0.85, 0.70, 0.50]],
    [[0.25, 0.50, 0.30], [0.85, 0.90, 0.60]], [[0.55, 0.30, 0.55], [0.95, 0.80, 0.85]],
])  # fmt: skip
"""Two colors (6, 2, 3) of each surface's texture: walls at -x, +x, -y (ceiling), +y (floor), -z, +z."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TracedRoom:
    """A closed room, and what stands in it.

    Args:
        things: in the room.
        half: half of its width, height and depth; the floor is at y = +half[1].
        lamp: where the light comes from.
        walls: two colors (6, 2, 3) of the texture of each wall, in the order -x, +x, ceiling, floor, -z, +z.
        grain: of the texture: larger is finer.
        shift: (3,), of the texture.
    """

    things: tuple[Ball | Block, ...] = THINGS
    half: np.ndarray = dataclasses.field(default_factory=lambda: np.array([2.5, 1.25, 2.0]))
    lamp: np.ndarray = dataclasses.field(default_factory=lambda: np.array([0.4, -1.1, -0.3]))
    walls: np.ndarray = dataclasses.field(default_factory=lambda: WALLS)
    grain: float = 1.0
    shift: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))

    def trace(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Colors (N, 3), 0 to 1, and distances (N,) of what rays from inside the room meet first.

        Args:
            origins: (N, 3), inside the room and outside of its things.
            directions: (N, 3), of length 1.
        """
        away = _nonzero(directions)
        to_walls = (np.sign(away) * self.half - origins) / away
        axis = to_walls.argmin(1)
        distance = to_walls.min(1)
        toward = np.sign(away[np.arange(len(axis)), axis])
        normals = -toward[:, None] * np.eye(3)[axis]
        colors = self.walls[2 * axis + (toward > 0)]
        for thing in self.things:
            hit, hit_normals = thing.hit(origins, directions)
            nearer = hit < distance
            distance = np.where(nearer, hit, distance)
            normals = np.where(nearer[:, None], hit_normals, normals)
            colors = np.where(nearer[:, None, None], np.array(thing.colors), colors)
        places = origins + distance[:, None] * directions
        mix = _texture(self.grain * places + self.shift)[:, None]
        shaded = (colors[:, 0] * (1 - mix) + colors[:, 1] * mix) * self._light(places, normals)
        return np.clip(shaded, 0, 1), distance

    def photograph(
        self, rotation: np.ndarray, eye: np.ndarray, width: int, height: int, focal: float, rays: int = 2
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The photo (height, width, 3), and all its rays' distances and directions, `rays` x `rays` for each pixel.

        Args:
            rotation: (3, 3), world to camera; x to the right, y down, z ahead.
            eye: (3,), where the camera is.
            width, height: in pixels.
            focal: length in pixels.
            rays: for each pixel along each side.
        """
        across = (np.arange(rays * width) + 0.5) / rays - width / 2
        down = (np.arange(rays * height) + 0.5) / rays - height / 2
        ahead = np.ones((rays * height, rays * width))
        grid = np.stack([*np.meshgrid(across / focal, down / focal), ahead], -1).reshape(-1, 3)
        directions = grid @ rotation
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        colors, distances = self.trace(np.broadcast_to(eye, directions.shape), directions)
        image = colors.reshape(height, rays, width, rays, 3).mean((1, 3))
        return image, distances, directions

    def _light(self, places: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """(N, 1): what there is everywhere, and the lamp's where nothing stands between."""
        away = self.lamp - places
        length = np.linalg.norm(away, axis=1)
        away /= np.maximum(length, _SKIN)[:, None]
        facing = np.maximum((normals * away).sum(1), 0)
        starts = places + 1e-4 * normals
        for thing in self.things:
            distance, _ = thing.hit(starts, away)
            facing = np.where(distance < length, 0, facing)
        return (_AMBIENT + (1 - _AMBIENT) * facing**0.5)[:, None]


def _texture(places: np.ndarray) -> np.ndarray:
    """(N,) 0 to 1: a solid texture of waves of several widths and a coarse checker, the same wherever it is cut."""
    x, y, z = places.T
    waves = np.sin(5.1 * x + 1.7 * np.sin(3.3 * y) + 2 * z) * np.sin(4.3 * z + 1.3 * np.sin(2.9 * x) - 3.1 * y)
    fine = np.sin(17 * x + 3 * np.sin(4 * z)) * np.sin(16 * y + 2 * np.sin(5 * x)) + np.sin(15 * z + 4 * np.sin(3 * y))
    checker = np.sign(np.sin(6.3 * x + 0.4) * np.sin(6.3 * y + 0.9) * np.sin(6.3 * z + 1.3))
    return np.clip(0.5 + 0.22 * waves + 0.1 * fine + 0.18 * checker, 0, 1)


def _nonzero(directions: np.ndarray) -> np.ndarray:
    return np.where(np.abs(directions) < 1e-12, 1e-12, directions)
