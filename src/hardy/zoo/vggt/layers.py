"""Blocks of a vision transformer, and the rotation that tells patches apart by their place in the image.

Source: VGGT (arXiv 2503.11651), whose parameter names these modules have; RoPE in two dimensions with base 100.
Axes: batch, tokens, dim; heads apart (batch, heads, tokens, dim).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from hardy.zoo.vggt.attending import Attend

BASE = 100.0


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Queries, keys and values from one linear layer; `qk_norm` normalises each head's queries and keys."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (nn.LayerNorm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: torch.Tensor, rotation: torch.Tensor | None, attend: Attend) -> torch.Tensor:
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        if rotation is not None:
            queries, keys = rotated(queries, rotation), rotated(keys, rotation)
        return self.proj(attend(queries, keys, values).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP, each with a norm before and a `LayerScale` after it, added to what came in."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool, scale: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attn, self.mlp = Attention(dim, heads, qk_norm=qk_norm), Mlp(dim, 4 * dim, dim)
        self.ls1, self.ls2 = LayerScale(dim, scale), LayerScale(dim, scale)

    def forward(
        self, x: torch.Tensor, rotation: torch.Tensor | None = None, attend: Attend = scaled_dot_product_attention
    ) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotation, attend))
        return x + self.ls2(self.mlp(self.norm2(x)))


def rotation_of(down: int, across: int, special: int, dim: int, device: torch.device) -> torch.Tensor:
    """Cosines and sines (2, special + down * across, dim) for the tokens of one frame: special ones, then patches.

    The first half of a head's `dim` channels turns with the row, the second with the column; both count from 1, and
    special tokens are at 0. There is nothing of time in it, so a cached key stays right whatever else goes.
    """
    rows, columns = torch.meshgrid(torch.arange(1, down + 1), torch.arange(1, across + 1), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(-1, 2).float()
    places = torch.cat([torch.zeros(special, 2), places])
    speeds = BASE ** (-torch.arange(dim // 4) / (dim // 4))
    angles = (places[:, :, None] * speeds).repeat(1, 1, 2).flatten(1)
    return torch.stack([angles.cos(), angles.sin()]).to(device)


def rotated(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """`x` (batch, heads, tokens, dim) turned by what `rotation_of` gave, repeated for as many frames as there are."""
    cosines, sines = rotation.to(x.dtype)
    if (frames := x.shape[2] // cosines.shape[0]) > 1:
        cosines, sines = cosines.repeat(frames, 1), sines.repeat(frames, 1)
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    turned = torch.stack([-second, first], -2).flatten(-3)
    return x * cosines + turned * sines
