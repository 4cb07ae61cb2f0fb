"""VGGT: pose, depth and points of every frame, in a batch or as a stream. The model holds no state."""

from hardy.zoo.vggt.attending import AllFrames, Attend, Attending, PastFrames
from hardy.zoo.vggt.camera import matrices, pose_of, unprojected
from hardy.zoo.vggt.config import VGGTConfig
from hardy.zoo.vggt.model import VGGT, Geometry, kv_bytes
from hardy.zoo.vggt.tracks import track_shapes

__all__ = [
    "VGGT",
    "AllFrames",
    "Attend",
    "Attending",
    "Geometry",
    "PastFrames",
    "VGGTConfig",
    "kv_bytes",
    "matrices",
    "pose_of",
    "track_shapes",
    "unprojected",
]
