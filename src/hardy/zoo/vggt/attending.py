"""Which frames a frame attends to: a function for each block, given queries, keys and values.

A block computes its queries, keys and values, and what attends to what is not its business: a batch attends to all its
frames or to those before, a stream to what its cache has kept. So the model holds no state.

Axes: batch, heads, tokens, dim; tokens of a batch are those of its frames, one frame after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Queries, keys and values (batch, heads, tokens, dim) to what is attended to, of the same shape."""


class Attending(Protocol):
    """What each block that looks across frames attends to."""

    def block(self, number: int) -> Attend:
        """Of the global block `number`."""
        ...

    def camera(self, iteration: int, number: int) -> Attend:
        """Of the block `number` of the camera head's trunk, in a refinement."""
        ...


class AllFrames:
    """Every frame sees every other (VGGT)."""

    def block(self, number: int) -> Attend:
        return scaled_dot_product_attention

    def camera(self, iteration: int, number: int) -> Attend:
        return scaled_dot_product_attention


class PastFrames:
    """A frame sees itself and those before (how StreamVGGT was trained), and the same refinement of their cameras.

    Args:
        frames: in the batch.
    """

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def block(self, number: int) -> Attend:
        return self._attend

    def camera(self, iteration: int, number: int) -> Attend:
        return self._attend

    def _attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        each = queries.shape[2] // self.frames
        if each == 1:
            return scaled_dot_product_attention(queries, keys, values, is_causal=True)
        parts = [
            scaled_dot_product_attention(part, keys[:, :, : (i + 1) * each], values[:, :, : (i + 1) * each])
            for i, part in enumerate(queries.split(each, 2))
        ]
        return torch.cat(parts, 2)
