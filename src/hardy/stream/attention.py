"""The attention function "hardy" of transformers: it reads the packed cache itself, and shows the cache its queries.

`update` of a cache owes a model dense keys and values. Where this attention is on, it gives tensors that become dense
when somebody computes with them; the attention function finds the store behind them and need not. So the cache, not the
model, says where everything is, and any number of caches can take turns on one model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hardy.errors import InputError
from hardy.ops.packed_attention import packed_attention, stays_packed

if TYPE_CHECKING:
    from hardy.stream.layer import CompressedLayer

NAME = "hardy"
_UNFUSED = ("softcap", "s_aux", "position_bias")
"""Arguments of attention that change what is computed; the dense way deals with them or refuses."""


class View:
    """The tokens that one forward attends to in one layer: stored ones, and the new ones as they were computed.

    Args:
        layer: whose store holds all of them already.
        keys, values: of the new tokens, (batch, heads, n, dim).
        first: stored tokens before this one are out of the window.
    """

    def __init__(self, layer: CompressedLayer, keys: torch.Tensor, values: torch.Tensor, first: int) -> None:
        self.layer, self.first, self.new = layer, first, (keys, values)
        self.length = layer.store.length - first
        self._version = layer.store.version
        self._dense: tuple[torch.Tensor, torch.Tensor] | None = None

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (batch, heads, length, dim): the stored ones unpacked, the new ones exact.

        Raises:
            InputError: the cache has moved on.
        """
        if self._dense is None:
            if self.layer.store.version != self._version:
                raise InputError("keys and values of an earlier step: the cache has moved on; use them at once")
            count = self.new[0].shape[2]
            if count == self.length:
                self._dense = self.new
                return self._dense
            stored = self.layer.store.view(self.new[0].dtype, self.first)
            joined = (torch.cat([s[:, :, :-count], n], 2) for s, n in zip(stored, self.new, strict=True))
            self._dense = next(joined), next(joined)
        return self._dense

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values that become dense when they are computed with."""
        batch, heads, _, dim = self.new[0].shape
        shape = (batch, heads, self.length, dim)
        return StoredTensor(self, 0, shape, self.new[0]), StoredTensor(self, 1, shape, self.new[1])


_METADATA = {
    getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")
} | {torch.Tensor.size, torch.Tensor.dim}  # fmt: skip


class StoredTensor(torch.Tensor):
    """One side of a `View`: a tensor whose values are made when something asks for them."""

    view_of: View
    side: int

    @staticmethod
    def __new__(cls, view: View, side: int, shape: tuple[int, ...], like: torch.Tensor) -> StoredTensor:
        tensor = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)  # pyright: ignore[reportAttributeAccessIssue]
        tensor.view_of, tensor.side = view, side
        return tensor

    def __init__(self, *arguments: Any) -> None: ...

    def dense(self) -> torch.Tensor:
        """The values, as an ordinary tensor."""
        return self.view_of.dense()[self.side]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _METADATA:
                return func(*args, **(kwargs or {}))
            return func(*tree_map(_densified, args), **tree_map(_densified, dict(kwargs or {})))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return func(*tree_map(_densified, args), **tree_map(_densified, dict(kwargs or {})))


def _densified(value: Any) -> Any:
    return value.dense() if isinstance(value, StoredTensor) else value


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers calls for `attn_implementation="hardy"`; SDPA for whatever is not a compressed cache."""
    if not isinstance(key, StoredTensor):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    view = key.view_of
    layer, count = view.layer, query.shape[2]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer.note_padding(attention_mask, count)
    output = None
    if count == 1 and not dropout and not any(kwargs.get(name) is not None for name in _UNFUSED):
        output = _fused(query, view, scale)
    if output is None:
        keys, values = view.dense()
        mask = _mask(view, attention_mask, count, query)
        output, _ = sdpa_attention_forward(module, query, keys, values, mask, dropout, scaling, **kwargs)
    layer.after_attention(query.detach(), scale)
    return output, None


def _fused(query: torch.Tensor, view: View, scale: float) -> torch.Tensor | None:
    """(batch, 1, heads, dim) for one query per head, or None where the dense way must do."""
    store = view.layer.store
    if store.padded or not stays_packed(query.device) or (query.requires_grad and torch.is_grad_enabled()):
        return None
    segments = store.segments(view.first)
    return None if segments is None else packed_attention(query[:, :, 0], segments, scale)[:, None]


def _mask(view: View, given: torch.Tensor | None, count: int, query: torch.Tensor) -> torch.Tensor | None:
    """Which tokens each query sees, (batch, heads or 1, count, length) bool; None for all, or for plain causality.

    transformers takes the stored tokens for the last ones that were seen and cuts the padding mask accordingly. That is
    true of a window; elsewhere the store knows better.
    """
    store = view.layer.store
    if view.layer.is_sliding or (view.length == count and given is not None):
        return given
    stored = view.length - count
    if not store.padded and (count == 1 or stored == 0):
        return given if count > 1 else None
    if given is None:
        new = torch.ones(count, count, dtype=torch.bool, device=query.device).tril()[None, None]
    else:
        new = given[..., -count:]
        new = new if new.dtype == torch.bool else new == 0
    real = store.positions[..., :stored] >= 0
    rows = max(real.shape[1], new.shape[1])
    if rows > 1:
        rows = query.shape[1]
        real, new = (part.repeat_interleave(rows // part.shape[1], 1) for part in (real, new))
    old = real[:, :, None].expand(-1, -1, count, -1)
    return torch.cat([old, new.expand(old.shape[0], -1, -1, -1)], -1)


@functools.cache
def register() -> None:
    """Make the name known to transformers."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
