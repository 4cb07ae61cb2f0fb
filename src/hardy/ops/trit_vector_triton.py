"""A few tokens times a matrix of trit-planes on CUDA, in one launch, in Triton.

A program rounds a token's activations, multiplies four bytes at a time (dp4a) for sixteen rows after the other and all
of their groups at once, and then adds up what the groups gave in the order of the groups. Codes are on their way from
memory before it begins to round.
"""

# Triton compiles the functions below; its stubs describe them as the Python that they are not. What a kernel is
# compiled for is in capitals, as is the habit with Triton.
# ruff: noqa: N803, N806
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAssignmentType=false

import functools

import torch
import triton
import triton.language as tl

from hardy.ops.trit_matrix import TritMatrix
from hardy.ops.trit_rounding_triton import OPTIONS, WORDS_AT_A_TIME, has_ptx, rounded, shape_of, words_of

_UNPACKED = tl.constexpr(0x03030303)

# Up to so many tokens each has programs of its own; with more the tensor cores are faster.
FEW_TOKENS = 4


def takes(tokens: int, matrix: TritMatrix) -> bool:
    """Whether this is the way for so many tokens, and groups are small enough for it."""
    return tokens <= FEW_TOKENS and words_of(matrix) <= WORDS_AT_A_TIME


def few_tokens(x: torch.Tensor, matrix: TritMatrix, output: torch.Tensor, programs: int = 0, warps: int = 4) -> None:
    """Fill `output` in one launch of about `programs` programs to a token."""
    groups, pairs, singles = shape_of(matrix)
    words = words_of(matrix)
    blocks = triton.cdiv(matrix.rows, 16)
    tiles = triton.cdiv(blocks, programs or 2 * _multiprocessors(x.device))
    if matrix.planes == 3:
        tiles = max(tiles, 2)  # with one, all loads go ahead of everything, and registers do not suffice
    programs = triton.cdiv(blocks, tiles)
    terms = torch.empty(len(x) * programs * tiles * 16 * groups, dtype=torch.float32, device=x.device)
    at_a_time = min(triton.next_power_of_2(groups), max(1, 8 * warps * 32 // words))
    _multiply_few[(programs, len(x))](
        x, matrix.codes.view(torch.int32), matrix.scales, terms, output, matrix.rows, matrix.width, matrix.group_size,
        groups, PLANES=matrix.planes, PAIRS=pairs, SINGLES=singles, GROUPS=at_a_time, WORDS=words, TILES=tiles,
        AHEAD=min(32, triton.next_power_of_2(groups)), PTX=has_ptx(x), num_warps=warps, **OPTIONS,
    )  # fmt: skip


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@triton.jit
def _dot4(codes, words, sums, PTX: tl.constexpr):
    """`sums` and the dot product of the four bytes of each word of codes, unsigned, and of activations, signed."""
    if PTX:
        sums = tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [codes, words, sums], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        for byte in tl.static_range(4):
            sums += ((codes >> (8 * byte)) & 0xFF) * ((words << (24 - 8 * byte)) >> 24)
    return sums


@triton.jit
def _codes(codes, block, blocks, group, groups, FROM: tl.constexpr, TO: tl.constexpr, SIZE: tl.constexpr,
           LINES: tl.constexpr):  # fmt: skip
    """Words (groups, SIZE, 16) of a block from its line FROM on, as far as TO; zero where there is no such group."""
    stride = tl.minimum(blocks - block // 4 * 4, 4) * 16  # from a line to the next: blocks take turns
    codes += (block // 4).to(tl.int64) * 64 * groups * LINES + block % 4 * 16
    line = tl.arange(0, SIZE)
    at = (group * (stride * LINES))[:, None, None] + ((FROM + line) * stride)[None, :, None]
    mask = (group < tl.where(block < blocks, groups, 0))[:, None, None]
    if SIZE != TO - FROM:
        mask = mask & (line < TO - FROM)[None, :, None]
    return tl.load(codes + at + tl.arange(0, 16)[None, None, :], mask=mask, other=0)


@triton.jit
def _halves(words):
    """(groups, words) -> its first and its second half, (groups, words / 2) each."""
    return tl.split(tl.permute(words.reshape(words.shape[0], 2, words.shape[1] // 2), (0, 2, 1)))


@triton.jit
def _pair_dots(pair, quad0, quad1, PTX: tl.constexpr):
    """Dot products (groups, 16) of planes 0 and 1."""
    quad0, quad1 = quad0[:, :, None], quad1[:, :, None]
    dots = _dot4(pair & _UNPACKED, quad0, tl.zeros_like(pair), PTX)
    even = tl.sum(_dot4((pair >> 4) & _UNPACKED, quad1, dots, PTX), 1)
    dots = _dot4((pair >> 2) & _UNPACKED, quad0, tl.zeros_like(pair), PTX)
    return even, tl.sum(_dot4((pair >> 6) & _UNPACKED, quad1, dots, PTX), 1)


@triton.jit
def _multiply_few(
    x, codes, scales, terms, output, rows, width, group_size, groups,
    PLANES: tl.constexpr, PAIRS: tl.constexpr, SINGLES: tl.constexpr, GROUPS: tl.constexpr,
    WORDS: tl.constexpr, TILES: tl.constexpr, AHEAD: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = WORDS // 4
    MIDDLE: tl.constexpr = HALF if HALF < PAIRS else PAIRS
    LINES: tl.constexpr = PAIRS + SINGLES
    program, token = tl.program_id(0), tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(rows, 16)
    row = tl.arange(0, 16)
    terms += (token * tl.num_programs(0) + program) * (TILES * 16) * groups
    for first in range(0, groups, GROUPS):
        group = first + tl.arange(0, GROUPS)
        block = program * TILES
        if PLANES > 1:
            pair = _codes(codes, block, blocks, group, groups, 0, MIDDLE, HALF, LINES)
        if PLANES != 2:
            single = _codes(codes, block, blocks, group, groups, PAIRS, LINES, HALF, LINES)
        words, step, offset = rounded(x, token, group, width, group_size, WORDS)
        if PLANES > 1:
            quad0, quad1 = tl.split(words.reshape(GROUPS, WORDS // 2, 2))
            early0, later0 = _halves(quad0)
            early1, later1 = _halves(quad1)
        if PLANES != 2:
            quads02, quads13 = tl.split(words.reshape(GROUPS, WORDS // 4, 2, 2))
            first_quad, third_quad = tl.split(quads02)
            second_quad, fourth_quad = tl.split(quads13)
        for tile in range(TILES):
            neighbours = tl.minimum(blocks - block // 4 * 4, 4)
            scale_at = scales + (block // 4).to(tl.int64) * 64 * groups * PLANES + block % 4 * (16 * PLANES)
            scale_at += (group * (neighbours * (16 * PLANES)))[:, None] + row[None, :]
            mask = (group < tl.where(block < blocks, groups, 0))[:, None]
            if PLANES > 1:
                # What is multiplied next is on its way while this is multiplied.
                later = _codes(codes, block, blocks, group, groups, MIDDLE, PAIRS, HALF, LINES)
                scale = tl.load(scale_at, mask=mask, other=0.0).to(tl.float32)
                scale1 = tl.load(scale_at + 16, mask=mask, other=0.0).to(tl.float32)
                even, odd = _pair_dots(pair, early0, early1, PTX)
                if TILES > 1:
                    pair = _codes(codes, block + 1, blocks, group, groups, 0, MIDDLE, HALF, LINES)
                even_later, odd_later = _pair_dots(later, later0, later1, PTX)
                total = scale * (even + even_later - offset[:, None]).to(tl.float32)
                total = total + scale1 * (odd + odd_later - offset[:, None]).to(tl.float32)
            if PLANES != 2:
                scale = tl.load(scale_at + 16 * (PLANES - 1), mask=mask, other=0.0).to(tl.float32)
                if TILES > 1:
                    after = _codes(codes, block + 1, blocks, group, groups, PAIRS, LINES, HALF, LINES)
                dots = _dot4(single & _UNPACKED, first_quad[:, :, None], tl.zeros_like(single), PTX)
                dots = _dot4((single >> 2) & _UNPACKED, second_quad[:, :, None], dots, PTX)
                dots = _dot4((single >> 4) & _UNPACKED, third_quad[:, :, None], dots, PTX)
                dots = _dot4((single >> 6) & _UNPACKED, fourth_quad[:, :, None], dots, PTX)
                last = scale * (tl.sum(dots, 1) - offset[:, None]).to(tl.float32)
                total = last if PLANES == 1 else total + last
                if TILES > 1:
                    single = after
            at = terms + tile * 16 * groups + (group * 16)[:, None] + row[None, :]
            tl.store(at, step[:, None] * total, mask=mask)
            block += 1
    tl.debug_barrier()  # what the other threads of this program stored is read here
    local = tl.arange(0, triton.next_power_of_2(16 * TILES))
    row = program * (16 * TILES) + local
    inside = (local < 16 * TILES) & (row < rows)
    result = tl.zeros_like(local).to(tl.float32)
    for first in range(0, groups, AHEAD):
        for ahead in tl.static_range(AHEAD):
            at = terms + local // 16 * 16 * groups + (first + ahead) * 16 + local % 16
            result = result + tl.load(at, mask=inside & (local * 0 + first + ahead < groups), other=0.0)
    tl.store(output + token * rows + row, result.to(output.dtype.element_ty), mask=inside)
