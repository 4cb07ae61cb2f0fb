"""Attention of one query per head to keys and values that stay packed: nothing of the dense cache's size is made.

Keys have a scale and a minimum per channel and page, so q.k = q.min + (q * scale).codes, with the two products in
brackets made once a page; values have theirs per token, so that the softmax's weights times the scales meet the codes
themselves. The softmax is taken block by block with a running maximum. Float32 throughout; the compiled paths differ
from the torch reference by rounding alone.

Axes: batch, heads of keys and values, tokens, dim; queries have `heads * group` heads.
"""

import dataclasses
import importlib
from collections.abc import Sequence

import torch

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.packing import unpack_fields

_FORMATS = {torch.float16: 16, torch.bfloat16: 17}  # 2, 4 and 8 are the bits of a code


@dataclasses.dataclass(frozen=True)
class Segment:
    """Keys and values of some tokens, each side either 16-bit floats or packed codes.

    Attributes:
        keys, values: (batch, heads, room, dim) float16 or bfloat16, or (batch, heads, room, bytes) uint8 of
            `hardy.ops.packing.pack_fields`; `room` may exceed the tokens.
        tokens: how many there are.
        key_scales: (batch, heads, pages, 2, dim) float16, scale and minimum of each channel; None for floats.
        value_scales: (batch, heads, room, 2) float16, scale and minimum of each token; None for floats.
        pages: (batch, heads or 1, room) int16, the page of each token; None for float keys.
        first: tokens before this one are passed over.
    """

    keys: torch.Tensor
    values: torch.Tensor
    tokens: int
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None
    pages: torch.Tensor | None = None
    first: int = 0

    def dense(self, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (batch, heads, tokens - first, dim) float32."""
        span = slice(self.first, self.tokens)
        keys, values = self.keys[:, :, span], self.values[:, :, span]
        if self.key_scales is not None:
            assert self.pages is not None
            page = self.pages[..., span].long().expand(*keys.shape[:2], -1)
            keys = affine_values(keys, dim, page_rows(self.key_scales, page).float())
        if self.value_scales is not None:
            values = affine_values(values, dim, self.value_scales[:, :, span, :, None].float())
        return keys.float(), values.float()


def page_rows(rows: torch.Tensor, page: torch.Tensor) -> torch.Tensor:
    """(batch, heads, tokens, ...): what `rows` (batch, heads, pages, ...) holds for the page of each token."""
    index = page.reshape(*page.shape, *[1] * (rows.ndim - 3)).expand(*page.shape, *rows.shape[3:])
    return rows.gather(2, index)


def affine_values(codes: torch.Tensor, dim: int, scales: torch.Tensor) -> torch.Tensor:
    """minimum + scale * code, (..., dim) float32, from packed codes and scales (..., 2, dim or 1)."""
    bits = codes.shape[-1] * 8 // dim
    return torch.addcmul(scales[..., 1, :], scales[..., 0, :], unpack_fields(codes, bits).float())  # pyright: ignore[reportArgumentType]


def packed_attention(query: torch.Tensor, segments: Sequence[Segment], scale: float) -> torch.Tensor:
    """softmax(scale * q.k) v over the tokens of all segments, (batch, heads * group, dim) in the dtype of `query`.

    Args:
        query: (batch, heads * group, dim).
        segments: at least one with a token; all of the same batch, heads and dim.
        scale: of the scores.

    Raises:
        InputError: there is no token, or the shapes do not fit.
    """
    segments = [segment for segment in segments if segment.tokens > segment.first]
    if not segments:
        raise InputError("attention needs at least one key")
    batch, heads = segments[0].keys.shape[:2]
    if query.ndim != 3 or query.shape[0] != batch or query.shape[1] % heads:
        raise InputError(
            f"queries of {batch} rows and a multiple of {heads} heads are needed, got {tuple(query.shape)}"
        )
    grouped = query.float().unflatten(1, (heads, -1)).contiguous()
    if query.device.type == "cpu" and query.shape[-1] % 16 == 0 and kernels.path() is not None:
        return _compiled(grouped, segments, scale).flatten(1, 2).to(query.dtype)
    if query.device.type == "cuda" and (triton := kernels.triton("packed_attention_triton")) is not None:
        return triton.attend(grouped, segments, scale).flatten(1, 2).to(query.dtype)
    return _reference(grouped, segments, scale).flatten(1, 2).to(query.dtype)


def stays_packed(device: torch.device) -> bool:
    """Whether `packed_attention` has a path of its own on `device`, or makes the cache dense."""
    if device.type == "cuda":
        return kernels.triton("packed_attention_triton") is not None
    return device.type == "cpu"


def _reference(query: torch.Tensor, segments: Sequence[Segment], scale: float) -> torch.Tensor:
    """(batch, heads, group, dim), by way of the dense keys and values: the oracle of the compiled paths."""
    dense = [segment.dense(query.shape[-1]) for segment in segments]
    keys, values = (torch.cat([pair[side] for pair in dense], 2) for side in (0, 1))
    return (scale * (query @ keys.mT)).softmax(-1) @ values


def _compiled(query: torch.Tensor, segments: Sequence[Segment], scale: float) -> torch.Tensor:
    module = importlib.import_module("hardy._kernels")
    output = torch.empty_like(query)
    dim = query.shape[-1]
    parts = []
    for segment in segments:
        key_format, value_format = (
            _FORMATS.get(side.dtype) or side.shape[-1] * 8 // dim for side in (segment.keys, segment.values)
        )
        keys, values = (
            side.view(torch.int16) if side.dtype in _FORMATS else side for side in (segment.keys, segment.values)
        )
        codes = key_format, value_format, segment.first, segment.tokens, keys, values
        parts.append((*codes, segment.key_scales, segment.value_scales, segment.pages))
    module.packed_attention(kernels.path(), query, parts, scale, output, torch.get_num_threads())
    return output
