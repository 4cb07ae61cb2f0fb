"""Attention of one query per head to packed keys and values on CUDA, in Triton: what is read is the packed cache.

A program takes a head of keys and values with all queries of its group, and a part of the tokens; what the parts of all
segments give is put together by their maxima.
"""

# Triton compiles the functions below; its stubs describe them as the Python that they are not. What a kernel is
# compiled for is in capitals, as is the habit with Triton.
# ruff: noqa: N803, N806
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAssignmentType=false, reportReturnType=false

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from hardy.ops.packed_attention import Segment

TOKENS = 32
"""That a program looks at at once."""
PROGRAMS = 512
"""About as many as a large card runs at a time: tokens are dealt to so many."""


def attend(query: torch.Tensor, segments: Sequence["Segment"], scale: float) -> torch.Tensor:
    """`hardy.ops.packed_attention` of (batch, heads, group, dim) float32, all on one CUDA device (or anywhere in
    Triton's interpreter)."""
    batch, heads, group, dim = query.shape
    rows = batch * heads
    each = [_tokens_each(segment.tokens - segment.first, rows) for segment in segments]
    parts = [triton.cdiv(segment.tokens - segment.first, size) for segment, size in zip(segments, each, strict=True)]
    largest = query.new_empty(rows, sum(parts), group)
    totals, mixed = torch.empty_like(largest), query.new_empty(rows, sum(parts), group, dim)
    done = 0
    for segment, size, count in zip(segments, each, parts, strict=True):
        keys, values = segment.keys.contiguous(), segment.values.contiguous()
        bits = [16 if side.is_floating_point() else side.shape[-1] * 8 // dim for side in (keys, values)]
        nothing = keys
        pages = nothing if segment.pages is None else segment.pages.contiguous()
        key_scales = nothing if segment.key_scales is None else segment.key_scales.contiguous()
        value_scales = nothing if segment.value_scales is None else segment.value_scales.contiguous()
        _attend[(rows, count)](
            query, keys, values, key_scales, value_scales, pages, largest, totals, mixed, scale,
            segment.first, segment.tokens, keys.shape[2], values.shape[2], key_scales.shape[2], pages.shape[2],
            heads, pages.shape[1], size, done, sum(parts),
            KEY_BITS=bits[0], VALUE_BITS=bits[1], DIM=dim, WIDTH=max(16, triton.next_power_of_2(dim)), HEADS=group,
            GROUP=max(16, triton.next_power_of_2(group)), TOKENS=TOKENS,
        )  # fmt: skip
        done += count
    weights = (largest - largest.amax(1, keepdim=True)).exp()
    total = (weights * totals).sum(1)
    return ((weights[..., None] * mixed).sum(1) / total[..., None]).view(batch, heads, group, dim)


def _tokens_each(tokens: int, rows: int) -> int:
    """How many of the tokens a program takes: whole blocks, and all programs together about `PROGRAMS`."""
    return TOKENS * max(1, triton.cdiv(tokens * rows, PROGRAMS * TOKENS))


@triton.jit
def _numbers(side, token, there, channel, BITS: tl.constexpr, DIM: tl.constexpr):
    """Codes or floats (tokens, channels) as float32; zero where there is none."""
    mask = there[:, None] & (channel < DIM)[None, :]
    if BITS == 16:
        return tl.load(side + token[:, None] * DIM + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    SIZE: tl.constexpr = DIM * BITS // 8  # bytes of a token; neighbours in a byte lie so far apart
    byte = tl.load(side + token[:, None] * SIZE + (channel % SIZE)[None, :], mask=mask, other=0).to(tl.int32)
    return ((byte >> (channel // SIZE * BITS)[None, :]) & (2**BITS - 1)).to(tl.float32)


@triton.jit
def _attend(
    query, keys, values, key_scales, value_scales, pages, largest, totals, mixed, scale,
    first, tokens, key_room, value_room, page_count, page_room, heads, page_heads, each, done, parts,
    KEY_BITS: tl.constexpr, VALUE_BITS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr,
    GROUP: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, channel = tl.arange(0, GROUP), tl.arange(0, WIDTH)
    inside = (head < HEADS)[:, None] & (channel < DIM)[None, :]
    at = (row * HEADS + head)[:, None] * DIM + channel[None, :]
    q = tl.load(query + at, mask=inside, other=0.0)
    keys += row * key_room * (DIM * KEY_BITS // 8 if KEY_BITS < 16 else DIM)
    values += row * value_room * (DIM * VALUE_BITS // 8 if VALUE_BITS < 16 else DIM)
    page_row = row // heads * page_heads + row % heads % page_heads
    most = tl.full([GROUP], float("-inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    sums = tl.zeros([GROUP, WIDTH], tl.float32)
    begin = first + part * each
    end = tl.minimum(tokens, begin + each)
    for start in range(begin, end, TOKENS):
        token = start + tl.arange(0, TOKENS)
        there = token < end
        mask = there[:, None] & (channel < DIM)[None, :]
        k = _numbers(keys, token, there, channel, KEY_BITS, DIM)
        if KEY_BITS < 16:
            page = tl.load(pages + page_row * page_room + token, mask=there, other=0).to(tl.int64)
            of_page = key_scales + ((row * page_count + page) * 2)[:, None] * DIM + channel[None, :]
            step = tl.load(of_page, mask=mask, other=0.0).to(tl.float32)
            k = tl.load(of_page + DIM, mask=mask, other=0.0).to(tl.float32) + step * k
        score = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
        score = tl.where(there[None, :], score, float("-inf"))
        highest = tl.maximum(most, tl.max(score, 1))
        weight = tl.exp(score - highest[:, None])
        v = _numbers(values, token, there, channel, VALUE_BITS, DIM)
        if VALUE_BITS < 16:
            of_token = value_scales + (row * value_room + token) * 2
            step = tl.load(of_token, mask=there, other=0.0).to(tl.float32)
            v = tl.load(of_token + 1, mask=there, other=0.0).to(tl.float32)[:, None] + step[:, None] * v
            v = tl.where(mask, v, 0.0)
        shrunk = tl.exp(most - highest)
        total = total * shrunk + tl.sum(weight, 1)
        sums = sums * shrunk[:, None] + tl.dot(weight, v, input_precision="ieee")
        most = highest
    place = (row * parts + done + part) * HEADS + head
    tl.store(largest + place, most, mask=head < HEADS)
    tl.store(totals + place, total, mask=head < HEADS)
    tl.store(mixed + place[:, None] * DIM + channel[None, :], sums, mask=inside)
