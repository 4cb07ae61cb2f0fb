"""The vision model that a `StreamSession` runs: VGGT, its public weights, and the tiny one that comes with hardy."""

from hardy.zoo.tiny_vggt import tiny_vggt
from hardy.zoo.vggt import VGGT, AllFrames, Attending, Geometry, PastFrames, VGGTConfig, kv_bytes, track_shapes
from hardy.zoo.vggt.loading import load_vggt

__all__ = [
    "VGGT",
    "AllFrames",
    "Attending",
    "Geometry",
    "PastFrames",
    "VGGTConfig",
    "kv_bytes",
    "load_vggt",
    "tiny_vggt",
    "track_shapes",
]
