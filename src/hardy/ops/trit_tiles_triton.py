"""Many tokens times a matrix of trit-planes on CUDA, on the tensor cores, in Triton.

One launch rounds the activations; in the other a program multiplies a tile of tokens and rows, group after group. A
tile of codes is unpacked in registers; nothing dense is written to memory. Rounded activations stand in the order of
the fields of the codes: all words of a group that meet a line's first field, then those of its second.
"""

# Triton compiles the functions below; its stubs describe them as the Python that they are not. What a kernel is
# compiled for is in capitals, as is the habit with Triton.
# ruff: noqa: N803, N806
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAssignmentType=false

import torch
import triton
import triton.language as tl

from hardy.ops.plane_layout import padded_group
from hardy.ops.trit_matrix import TritMatrix
from hardy.ops.trit_rounding_triton import (
    OPTIONS,
    SHIFT,
    SHIFT_BITS,
    WORDS_AT_A_TIME,
    has_ptx,
    rounded,
    shape_of,
    words_of,
)


def many_tokens(
    x: torch.Tensor, matrix: TritMatrix, output: torch.Tensor, tile: int = 0, rows: int = 64, warps: int = 4,
    stages: int = 3,
) -> None:  # fmt: skip
    """Fill `output`, with a tile of `tile` tokens and `rows` rows to a program."""
    groups, pairs, singles = shape_of(matrix)
    padded = padded_group(matrix.group_size, matrix.planes)
    words = words_of(matrix)
    copies = 2 if matrix.planes == 3 else 1  # planes 0 and 1 meet activations in another order than plane 2
    codes = torch.empty(len(x), groups, copies * padded // 4, dtype=torch.int32, device=x.device)
    facts = torch.empty(groups, 2, len(x), dtype=torch.int32, device=x.device)  # sums, and the bits of steps
    at_a_time = max(1, min(triton.next_power_of_2(groups), WORDS_AT_A_TIME // words))
    _round[(len(x), triton.cdiv(groups, at_a_time))](
        x, codes, facts, matrix.width, matrix.group_size, groups, pairs, singles,
        GROUPS=at_a_time, WORDS=words, **OPTIONS,
    )  # fmt: skip
    tile = tile or (16 if len(x) <= 16 else 64 if len(x) <= 64 or matrix.planes == 3 else 128)
    grid = (triton.cdiv(len(x), tile), triton.cdiv(matrix.rows, rows))
    _multiply_many[grid](
        codes.view(torch.int8), facts, matrix.codes, matrix.scales, output, len(x), matrix.rows, groups,
        groups * copies * padded, PLANES=matrix.planes, PAIRS=pairs, SINGLES=singles, PADDED=padded, TOKENS=tile,
        ROWS=rows, SMALL=127 * matrix.group_size < 2**22, PTX=has_ptx(x), num_warps=warps, num_stages=stages,
        **OPTIONS,
    )  # fmt: skip


@triton.jit
def _round(
    x, codes, facts, width, group_size, groups, pairs, singles,
    GROUPS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    here = group < groups
    words, step, offset = rounded(x, token, group, width, group_size, WORDS)
    facts += 2 * group * tl.num_programs(0) + token
    tl.store(facts, offset, mask=here)
    tl.store(facts + tl.num_programs(0), step.to(tl.int32, bitcast=True), mask=here)
    word = tl.arange(0, WORDS)
    codes += (token * groups + group)[:, None] * (2 * pairs + 4 * singles)
    mask = here[:, None] & (word < tl.maximum(2 * pairs, 4 * singles))[None, :]
    if pairs:
        tl.store(codes + (word % 2 * pairs + word // 2)[None, :], words, mask=mask)
    if singles:
        tl.store(codes + (2 * pairs + word % 4 * singles + word // 4)[None, :], words, mask=mask)


@triton.jit
def _fields(packed, PTX: tl.constexpr):
    """The four fields of bytes of codes, int8."""
    if PTX:
        first, second, third, fourth = tl.inline_asm_elementwise(
            """
            {
            .reg .b32 shifted;
            and.b32 $0, $4, 0x03030303;
            shr.b32 shifted, $4, 2;
            and.b32 $1, shifted, 0x03030303;
            shr.b32 shifted, $4, 4;
            and.b32 $2, shifted, 0x03030303;
            shr.b32 shifted, $4, 6;
            and.b32 $3, shifted, 0x03030303;
            }
            """,
            "=&r,=&r,=&r,=&r,r",
            [packed],
            dtype=(tl.int8, tl.int8, tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    else:
        whole = packed.to(tl.int32)
        first, second = (whole & 3).to(tl.int8), ((whole >> 2) & 3).to(tl.int8)
        third, fourth = ((whole >> 4) & 3).to(tl.int8), (whole >> 6).to(tl.int8)
    return first, second, third, fourth


@triton.jit
def _tile(codes, stride, first, LINES: tl.constexpr, CHUNK: tl.constexpr):
    """Bytes (rows, 4 CHUNK) of the lines from `first` on, where there are so many."""
    place = tl.arange(0, 4 * CHUNK)
    at = codes[:, None] + ((first + place // 4) * stride + place % 4)[None, :]
    if LINES % CHUNK:
        return tl.load(at, mask=(first + place // 4 < LINES)[None, :], other=0)
    return tl.load(at)


@triton.jit
def _activations(activations, first, LINES: tl.constexpr, CHUNK: tl.constexpr, QUADS: tl.constexpr):
    """Bytes (4 CHUNK QUADS, tokens) that meet the fields of those lines, field after field."""
    place = tl.arange(0, 4 * CHUNK * QUADS)
    line = first + place % (4 * CHUNK) // 4
    at = place if LINES == CHUNK else place // (4 * CHUNK) * (4 * LINES) + 4 * line + place % 4
    if LINES % CHUNK:
        return tl.load(activations[None, :] + at[:, None], mask=(line < LINES)[:, None], other=0)
    return tl.load(activations[None, :] + at[:, None])


@triton.jit
def _side_by_side(first, second):
    """(rows, k) twice -> (rows, 2 k)."""
    both = tl.permute(tl.join(first, second), (0, 2, 1))
    return both.reshape(both.shape[0], both.shape[1] * both.shape[2])


@triton.jit
def _scaled(scale, dots, SMALL: tl.constexpr, PTX: tl.constexpr):
    """Scales times dot products, which were begun at `SHIFT_BITS` if SMALL."""
    if SMALL:
        shifted = dots.to(tl.float32, bitcast=True)
        if PTX:  # as scales are float16, their product with the shift is exact, and so this rounds but once
            return tl.fma(scale[:, None], shifted, (scale * -SHIFT)[:, None])
        return scale[:, None] * (shifted - SHIFT)
    return scale[:, None] * dots.to(tl.float32)


@triton.jit
def _multiply_many(
    activations, facts, codes, scales, output, tokens, rows, groups, token_stride,
    PLANES: tl.constexpr, PAIRS: tl.constexpr, SINGLES: tl.constexpr, PADDED: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, SMALL: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    # Lines at a time: tensor cores take at least 32 products at once, and more than 128 take too many registers.
    # Not by min and max, which give no constant in older releases of Triton.
    PAIR_CHUNK: tl.constexpr = 16 if PAIRS > 8 else 8 if PAIRS > 4 else 4
    SINGLE_CHUNK: tl.constexpr = 8 if SINGLES > 4 else 4 if SINGLES > 2 else 2
    program = tl.program_id(1)
    superblock = (program * ROWS) // 64
    blocks = tl.minimum(tl.cdiv(rows, 16) - 4 * superblock, 4)  # of this superblock, whose lines take turns
    local = (program * ROWS) % 64 + tl.arange(0, ROWS)
    row = superblock * 64 + local
    local = tl.minimum(local, 16 * blocks - 1)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    present = tl.minimum(token, tokens - 1)
    stride = 64 * blocks
    codes += superblock.to(tl.int64) * 256 * groups * (PAIRS + SINGLES) + 4 * local
    scales += superblock.to(tl.int64) * 64 * groups * PLANES + local // 16 * (16 * PLANES) + local % 16
    activations += present.to(tl.int64) * token_stride
    which = tl.arange(0, 2)[:, None]
    facts += which * tokens + present[None, :]
    result = tl.zeros((ROWS, TOKENS), tl.float32)
    # Of what belongs to a group, what is small is fetched while the group before it is multiplied.
    known, scale = tl.load(facts), tl.load(scales)
    scale1 = tl.load(scales + 16) if PLANES > 1 else scale
    scale2 = tl.load(scales + 32) if PLANES > 2 else scale
    for group in range(groups):
        begin = tl.sum(tl.where(which == 0, -known, 0), 0)
        step = tl.sum(tl.where(which == 1, known, 0), 0).to(tl.float32, bitcast=True)
        if SMALL:
            begin += SHIFT_BITS
        factor, factor1, factor2 = scale, scale1, scale2
        after = tl.minimum(group + 1, groups - 1)
        known = tl.load(facts + after * 2 * tokens)
        scale_at = scales + after * (16 * blocks * PLANES)
        scale = tl.load(scale_at)
        if PLANES > 1:
            scale1 = tl.load(scale_at + 16)
        if PLANES > 2:
            scale2 = tl.load(scale_at + 32)
        group_codes = codes + group * (stride * (PAIRS + SINGLES))
        if PLANES > 1:
            even = tl.broadcast_to(begin[None, :], (ROWS, TOKENS))
            odd = tl.broadcast_to(begin[None, :], (ROWS, TOKENS))
            for first in tl.static_range(0, PAIRS, PAIR_CHUNK):
                given = _activations(activations + group * (PADDED * (PLANES - 1)), first, PAIRS, PAIR_CHUNK, 2)
                one, two, three, four = _fields(_tile(group_codes, stride, first, PAIRS, PAIR_CHUNK), PTX)
                even = tl.dot(_side_by_side(one, three), given, even, out_dtype=tl.int32)
                odd = tl.dot(_side_by_side(two, four), given, odd, out_dtype=tl.int32)
            total = _scaled(factor.to(tl.float32), even, SMALL, PTX)
            total = total + _scaled(factor1.to(tl.float32), odd, SMALL, PTX)
        if PLANES != 2:
            last = tl.broadcast_to(begin[None, :], (ROWS, TOKENS))
            single_codes = group_codes + PAIRS * stride
            OFFSET: tl.constexpr = PADDED if PLANES == 3 else 0
            for first in tl.static_range(0, SINGLES, SINGLE_CHUNK):
                at = activations + group * (PADDED + OFFSET) + OFFSET
                given = _activations(at, first, SINGLES, SINGLE_CHUNK, 4)
                one, two, three, four = _fields(_tile(single_codes, stride, first, SINGLES, SINGLE_CHUNK), PTX)
                whole = _side_by_side(_side_by_side(one, two), _side_by_side(three, four))
                last = tl.dot(whole, given, last, out_dtype=tl.int32)
            term = _scaled((factor if PLANES == 1 else factor2).to(tl.float32), last, SMALL, PTX)
            total = term if PLANES == 1 else total + term
        result = result + step[None, :] * total
    at = output + token[None, :].to(tl.int64) * rows + row[:, None]
    tl.store(at, result.to(output.dtype.element_ty), mask=(token < tokens)[None, :] & (row < rows)[:, None])
