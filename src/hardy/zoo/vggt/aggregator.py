"""Frames to tokens that know each other: an encoder, then blocks inside of each frame and across frames in turn."""

from __future__ import annotations

import torch
from torch import nn

from hardy.zoo.vggt.attending import Attending
from hardy.zoo.vggt.config import VGGTConfig
from hardy.zoo.vggt.encoder import Encoder
from hardy.zoo.vggt.layers import Block, rotation_of

SCALE = 0.01
"""Start of `LayerScale`."""


def image_statistics() -> dict[str, torch.Tensor]:
    """Mean and standard deviation (3, 1, 1) of ImageNet's pixels, which are no part of a state dict."""
    values = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return {name: torch.tensor(three).view(3, 1, 1) for name, three in values.items()}


class Aggregator(nn.Module):
    """Images to the tokens that the heads read."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: VGGTConfig, scale: float = SCALE) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = Encoder(config)
        blocks = {"qk_norm": True, "scale": scale}
        self.frame_blocks = nn.ModuleList(Block(config.dim, config.heads, **blocks) for _ in range(config.depth))
        self.global_blocks = nn.ModuleList(Block(config.dim, config.heads, **blocks) for _ in range(config.depth))
        # Of the first frame of a stream, and of all later ones.
        self.camera_token = nn.Parameter(1e-6 * torch.randn(1, 2, 1, config.dim))
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 2, config.registers, config.dim))
        for name, values in image_statistics().items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: torch.Tensor, attending: Attending, first: bool) -> list[torch.Tensor]:
        """Tokens (batch, frames, tokens, 2 dim) of the four pairs that heads read, and of the last pair.

        Args:
            images: (batch, frames, 3, height, width), from 0 to 1.
            attending: which frames see which.
            first: whether the first frame is the first of its stream.
        """
        config = self.config
        batch, frames, _, height, width = images.shape
        down, across = config.grid(height, width)
        patches = self.patch_embed(((images - self.mean) / self.std).flatten(0, 1), down, across)
        special = torch.cat([self.camera_token, self.register_token], 2)[0]
        slots = torch.ones(frames, dtype=torch.long, device=images.device)
        slots[0] = 0 if first else 1
        tokens = torch.cat([special[slots].repeat(batch, 1, 1), patches], 1)
        rotation = rotation_of(down, across, config.special, config.dim // config.heads, images.device)
        wanted, found = (*config.taps, config.depth - 1), {}
        for number, (inside, between) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            alone = inside(tokens, rotation)
            tokens = between(alone.unflatten(0, (batch, frames)).flatten(1, 2), rotation, attending.block(number))
            tokens = tokens.unflatten(1, (frames, -1)).flatten(0, 1)
            if number in wanted:
                found[number] = torch.cat([alone, tokens], -1).unflatten(0, (batch, frames))
        return [found[number] for number in wanted]
