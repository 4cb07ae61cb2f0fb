"""The encoder of single frames: a DINOv2 vision transformer with registers.

Source: DINOv2 (arXiv 2304.07193), Darcet et al. (arXiv 2309.16588).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate

from hardy.zoo.vggt.config import VGGTConfig
from hardy.zoo.vggt.layers import Block

EPS = 1e-6
REGISTERS = 4


class Patches(nn.Module):
    """Square patches of an image (batch, 3, height, width) as tokens (batch, patches, dim), row by row."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, size, size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.proj(images).flatten(2).mT


class Encoder(nn.Module):
    """Patches (batch, patches, dim) of frames, each of which has seen its own frame."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        side = config.image_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + side**2, config.dim))
        self.register_tokens = nn.Parameter(1e-6 * torch.randn(1, REGISTERS, config.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, config.dim))  # of its training; part of the public weights
        self.patch_embed = Patches(config.patch_size, config.dim)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, qk_norm=False, scale=1.0, eps=EPS) for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=EPS)

    def forward(self, images: torch.Tensor, down: int, across: int) -> torch.Tensor:
        tokens, rows = self.patch_embed(images), images.shape[0]
        positions = self._positions(down, across).to(tokens.dtype)
        begin = self.cls_token + positions[:, :1]
        tokens = tokens + positions[:, 1:]
        tokens = torch.cat([begin.expand(rows, -1, -1), self.register_tokens.expand(rows, -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1 + REGISTERS :]

    def _positions(self, down: int, across: int) -> torch.Tensor:
        """The position embedding (1, 1 + down * across, dim) for a grid of this size."""
        stored = self.pos_embed.float()
        side = round((stored.shape[1] - 1) ** 0.5)
        if (down, across) == (side, side):
            return stored
        grid = stored[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = interpolate(grid, (down, across), mode="bicubic", antialias=True)
        return torch.cat([stored[:, :1], grid.flatten(2).mT], 1)
