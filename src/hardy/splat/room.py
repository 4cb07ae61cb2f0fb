"""A textured room with balls and blocks, traced ray by ray: photos whose poses, depths and colors are exact.

The things in the room can be left out one by one, which gives the true photos of the room without them.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.splat.scene import Scene, View
from hardy.zoo.traced_room import THINGS, Ball, Block, TracedRoom


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
    traced = TracedRoom(things=things)
    photos, clouds = [], []
    random = np.random.Generator(np.random.PCG64(derive(seed, "room")))
    trained = [i for i in range(views) if not hold_out_every or i % hold_out_every]
    shares = dict(zip(trained, np.diff(np.linspace(0, points, len(trained) + 1).astype(int)), strict=True))
    for i in range(views):
        rotation, eye = _camera(i, views)
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
        image, distances, directions = traced.photograph(rotation, eye, width, height, focal)
        name, pose = f"{i:03}.png", torch.from_numpy(viewmat).float()
        photos.append(View(name=name, image=torch.from_numpy(image).float(), viewmat=pose, K=k))
        if i in shares:
            rays = random.integers(len(distances), size=shares[i])
            places = eye + distances[rays, None] * directions[rays]
            colors, _ = traced.trace(np.broadcast_to(eye, (len(rays), 3)), directions[rays])
            clouds.append((places + noise * random.standard_normal(places.shape), colors))
    return Scene(
        views=tuple(photos[i] for i in trained),
        held_out=tuple(photo for i, photo in enumerate(photos) if i not in shares),
        points=torch.from_numpy(np.concatenate([places for places, _ in clouds])).float(),
        colors=torch.from_numpy(np.concatenate([colors for _, colors in clouds])).float(),
    )


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
