"""VGGT: pose, depth and points of every frame of a scene, from the frames alone, in a batch or as a stream.

Source: VGGT (arXiv 2503.11651) and StreamVGGT (arXiv 2507.11539), written anew from their description; the names of
parameters are those of the public weights, which load. Tracks are left out: 394 tensors of those weights.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from hardy import checks
from hardy.errors import InputError
from hardy.zoo.vggt.aggregator import SCALE, Aggregator
from hardy.zoo.vggt.attending import AllFrames, Attending
from hardy.zoo.vggt.camera import CameraHead, matrices, unprojected
from hardy.zoo.vggt.config import VGGTConfig
from hardy.zoo.vggt.dense import DenseHead


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What a model says of frames; the unit of length is its own.

    Attributes:
        poses: (batch, frames, 9) of each refinement, as `hardy.zoo.vggt.camera` has them; the last is the best.
        depth: (batch, frames, height, width), along the camera's axis.
        depth_confidence: of the same shape, from 1.
        points: (batch, frames, height, width, 3) in the world of the first camera.
        points_confidence: of the shape of `depth`.
    """

    poses: tuple[torch.Tensor, ...]
    depth: torch.Tensor
    depth_confidence: torch.Tensor
    points: torch.Tensor
    points_confidence: torch.Tensor

    @property
    def pose(self) -> torch.Tensor:
        """(batch, frames, 9)."""
        return self.poses[-1]

    @property
    def cameras(self) -> tuple[torch.Tensor, torch.Tensor]:
        """World-to-camera matrices (batch, frames, 4, 4) and intrinsics in pixels (batch, frames, 3, 3)."""
        return matrices(self.pose, *self.depth.shape[-2:])


class VGGT(nn.Module):
    """Frames to `Geometry`.

    Args:
        config: the sizes; those of the public weights by default.
        scale: start of the factors on what blocks add.
    """

    def __init__(self, config: VGGTConfig | None = None, *, scale: float = SCALE) -> None:
        super().__init__()
        self.config = VGGTConfig() if config is None else config
        self.aggregator = Aggregator(self.config, scale)
        self.camera_head = CameraHead(self.config, scale)
        if "point" in self.config.dense:
            self.point_head = DenseHead(self.config, 4)
        self.depth_head = DenseHead(self.config, 2)

    def forward(self, images: torch.Tensor, attending: Attending | None = None, *, first: bool = True) -> Geometry:
        """Pose, depth and points of each frame.

        Args:
            images: (batch, frames, 3, height, width) from 0 to 1, sides multiples of the patch size.
            attending: which frames see which; all see all by default.
            first: whether the first frame here is the first of its stream.

        Raises:
            InputError: the images have another shape.
        """
        if images.ndim != 5 or images.shape[2] != 3:
            raise InputError(f"images must be (batch, frames, 3, height, width), got {tuple(images.shape)}")
        height, width = images.shape[-2:]
        down, across = self.config.grid(height, width)
        attending = AllFrames() if attending is None else attending
        *taps, last = self.aggregator(images, attending, first)
        poses = tuple(self.camera_head(last[:, :, 0], attending))
        size = height, width
        depth, confidence = self.depth_head(taps, down, across, size).float().unbind(2)
        depth, confidence = depth.exp(), 1 + confidence.exp()
        if "point" in self.config.dense:
            values = self.point_head(taps, down, across, size).float()
            points = (values[:, :, :3].sign() * values[:, :, :3].abs().expm1()).permute(0, 1, 3, 4, 2)
            return Geometry(poses, depth, confidence, points, 1 + values[:, :, 3].exp())
        points = unprojected(depth, *matrices(poses[-1], height, width))
        return Geometry(poses, depth, confidence, points, confidence)


def kv_bytes(config: VGGTConfig, height: int, width: int, *, bytes_per_number: int = 2) -> int:
    """Bytes of the keys and values that one frame adds to a cache of everything, over all global blocks.

    Raises:
        InputError: a side is no multiple of the patch size.
    """
    each = checks.integer("bytes_per_number", bytes_per_number, at_least=1)
    return 2 * config.depth * config.dim * config.tokens(height, width) * each
