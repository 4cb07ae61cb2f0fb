"""A VGGT of a few thousand weights, and frames for it."""

from typing import Any

import torch

from hardy.stream.vggt import VGGT, VGGTConfig

SIZES: dict[str, Any] = {
    "image_size": 12, "patch_size": 4, "dim": 16, "heads": 2, "encoder_depth": 1, "depth": 4, "taps": (0, 1, 2, 3),
    "camera_depth": 2, "camera_heads": 2, "iterations": 3, "features": 8, "channels": (8, 8, 8, 8), "hidden": 4,
    "camera_cache": "per-iteration",
}  # fmt: skip
TOKENS = 11
"""Of a frame of 8 x 12 pixels."""


def small(**options: Any) -> VGGT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VGGT(VGGTConfig(**{**SIZES, **options}), scale=1.0)
        torch.nn.init.normal_(model.aggregator.camera_token)  # as trained ones are: no two slots alike
        torch.nn.init.normal_(model.aggregator.register_token)
    return model.eval()


def frames(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 8, 12, generator=torch.Generator().manual_seed(seed))
