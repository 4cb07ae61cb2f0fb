"""The traced room with a thing in it and without: photos to take it out of, and what they would show then, exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hardy.errors import InputError
from hardy.splat.masks import differing, grown
from hardy.splat.room import room
from hardy.splat.scene import Scene, View
from hardy.splat.warping import places
from hardy.zoo.traced_room import THINGS, Ball, Block, TracedRoom

_BOX = ((0.35, 0.3, 0.6), (0.95, 0.75, 0.4))
STAGES: dict[str, tuple[Ball | Block, tuple[Ball | Block, ...]]] = {
    "hovering": (Ball(center=(-0.2, 0.2, 0.1), radius=0.4, colors=_BOX), (THINGS[0], THINGS[3], THINGS[5])),
    "standing": (THINGS[0], THINGS[1:]),
    "block": (THINGS[4], (*THINGS[:4], THINGS[5])),
    "wall": (Block(center=(0.6, 0.35, 1.8), half=(0.45, 0.4, 0.19), colors=_BOX), (THINGS[0], THINGS[3], THINGS[5])),
}
"""By name, the thing that is to go and what else is there: one in mid-air, which others see all around of; one that
stands on the floor, whose foot nobody sees; a block that stands there; one hung on a wall, with nothing seen behind
it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removable:
    """A scene with a thing, and the truth without it.

    Args:
        scene: photos with the thing, all of them views.
        truth: the same views without it.
        holes: for each (height, width), what differs between the two: the thing, its shadow, and a rim.
        things: for each, the part of it where the thing itself stands; the rest is shadow.
        depths: of the truth, for each (height, width) along the camera's axis.
        held_out: views without the thing that no method sees, and their `held_out_holes`.
    """

    scene: Scene
    truth: tuple[View, ...]
    holes: tuple[torch.Tensor, ...]
    things: tuple[torch.Tensor, ...]
    depths: tuple[torch.Tensor, ...]
    held_out: tuple[View, ...]
    held_out_holes: tuple[torch.Tensor, ...]

    @property
    def masks(self) -> tuple[torch.Tensor, ...]:
        """Of each hole the thing itself, with the pixels at its edge."""
        return tuple(grown(thing, 1) & hole for thing, hole in zip(self.things, self.holes, strict=True))

    @property
    def shadows(self) -> tuple[torch.Tensor, ...]:
        """Of each hole the rest."""
        return tuple(hole & ~mask for mask, hole in zip(self.masks, self.holes, strict=True))


def removable(
    stage: str = "standing", *, width: int = 128, height: int = 96, views: int = 24, points: int = 3000, seed: int = 0
) -> Removable:
    """One of the `STAGES`, from `views` cameras and half as many that are held out.

    Raises:
        InputError: there is no such stage, or a number is out of range.
    """
    if stage not in STAGES:
        raise InputError(f"there is no stage {stage!r}; there are {', '.join(STAGES)}")
    thing, others = STAGES[stage]
    sizes = {"width": width, "height": height, "views": views + views // 2, "hold_out_every": 3, "seed": seed}
    with_it = room(things=(thing, *others), points=points, **sizes)
    without = room(things=others, points=0, **sizes)
    black = dataclasses.replace(thing, colors=((0.0, 0.0, 0.0),) * 2)
    blackened = room(things=(black, *others), points=0, **sizes)

    def masks(kind: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        trios = list(zip(getattr(with_it, kind), getattr(without, kind), getattr(blackened, kind), strict=True))
        things = [differing(a.image, black.image, 0.004, 0) for a, _, black in trios]  # all light on it is gone
        holes = [differing(a.image, b.image) | thing for (a, b, _), thing in zip(trios, things, strict=True)]
        return holes, things

    holes, things = masks("views")
    held_out_holes, _ = masks("held_out")
    return Removable(
        scene=dataclasses.replace(with_it, held_out=()),
        truth=without.views,
        holes=tuple(holes),
        things=tuple(things),
        depths=tuple(_depth(view, others) for view in without.views),
        held_out=without.held_out,
        held_out_holes=tuple(held_out_holes),
    )


def _depth(view: View, things: tuple[Ball | Block, ...]) -> torch.Tensor:
    height, width = view.image.shape[:2]
    eye = view.eye.double().numpy()
    rays = places(view, torch.ones(height, width)).double().numpy().reshape(-1, 3) - eye
    lengths = np.linalg.norm(rays, axis=1)
    _, distances = TracedRoom(things=things).trace(np.broadcast_to(eye, rays.shape), rays / lengths[:, None])
    return torch.from_numpy(distances / lengths).float().view(height, width)
