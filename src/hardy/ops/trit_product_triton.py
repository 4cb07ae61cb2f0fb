"""The trit product on CUDA, in Triton: the same integers and the same order of float operations as elsewhere.

Two kernels: one rounds the activations, a program for each token and group; the other multiplies, a program for a tile
of tokens and a superblock of 64 rows, which are dot products of int8 on the tensor cores. A tile of codes is unpacked
in registers; nothing dense is written to memory.

Products and sums of floats must not be fused (`enable_fp_fusion=False`) nor divisions shortened (`div_rn`), or the bits
would differ from the CPU's.
"""

# Triton compiles the functions below; its stubs describe them as the Python that they are not.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from typing import Any

import torch
import triton
import triton.language as tl

from hardy.ops.trit_matrix import SUPERBLOCK, TritMatrix, lines_per_group, padded_group

# Bit patterns of float32: infinity, and 2^-100, below which a group counts as zero.
_INFINITY = tl.constexpr(0x7F800000)
_SMALLEST = tl.constexpr(0x0D800000)
# At 1.5 * 2^23 floats are integers: adding it rounds, half to even.
_SHIFT = tl.constexpr(12582912.0)


def trit_product_triton(x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    """(tokens, width) float32 times the matrix, both on one CUDA device (or anywhere in Triton's interpreter)."""
    x = x.contiguous()
    tokens, groups = len(x), -(-matrix.width // matrix.group_size)
    padded = padded_group(matrix.group_size, matrix.planes)
    lines = lines_per_group(matrix.group_size, matrix.planes)
    pairs = {1: 0, 2: lines, 3: lines // 3 * 2}[matrix.planes]
    codes = torch.empty(tokens, groups, padded, dtype=torch.int8, device=x.device)
    steps = torch.empty(tokens, groups, dtype=torch.float32, device=x.device)
    output = torch.empty(tokens, matrix.rows, dtype=torch.float32, device=x.device)
    if tokens == 0:
        return output
    options: dict[str, Any] = {"enable_fp_fusion": False}
    _quantize[(tokens, groups)](
        x, codes, steps, matrix.width, matrix.group_size, padded, SIZE=triton.next_power_of_2(padded), **options
    )
    tile = 16 if tokens <= 16 else 64
    grid = (triton.cdiv(matrix.rows, SUPERBLOCK), triton.cdiv(tokens, tile))
    _multiply[grid](
        codes, steps, matrix.codes, matrix.scales, output, tokens, matrix.rows, groups, padded, pairs, lines - pairs,
        PLANES=matrix.planes, TOKENS=tile, LINES=16, ROWS=SUPERBLOCK, **options,
    )  # fmt: skip
    return output


@triton.jit
def _quantize(x, codes, steps, width, group_size, padded, SIZE: tl.constexpr):  # noqa: N803
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    groups = tl.num_programs(1)
    position = tl.arange(0, SIZE)
    inside = (position < group_size) & (group * group_size + position < width)
    values = tl.load(x + token * width + group * group_size + position, mask=inside, other=0.0)
    largest_bits = tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0)  # as integers NaN is the largest
    largest = largest_bits.to(tl.float32, bitcast=True)
    usable = (largest_bits < _INFINITY) & (largest_bits >= _SMALLEST)
    divisor = tl.where(usable, largest, 1.0)
    rounded = values * tl.div_rn(127.0, divisor) + _SHIFT
    whole = rounded.to(tl.int32, bitcast=True) - 0x4B400000
    at = (token * groups + group) * padded + position
    tl.store(codes + at, tl.where(usable, whole, 0).to(tl.int8), mask=position < padded)
    step = tl.where(usable, tl.div_rn(largest, 127.0), 0.0)
    tl.store(steps + token * groups + group, tl.where(largest_bits < _INFINITY, step, float("nan")))


@triton.jit
def _dot_of_field(
    activations, codes, field, quad, quads_per_line, first, lines, padded_token, row_at, line_stride, tokens_inside,
    rows_inside, LINES: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """Dot products (tokens, rows) int32 of one field of `LINES` lines from `first` on, where there are so many."""
    place = tl.arange(0, LINES * 4)
    line, byte = first + place // 4, place % 4
    inside = line < lines
    packed = tl.load(
        codes + row_at[None, :] + line[:, None] * line_stride + byte[:, None],
        mask=inside[:, None] & rows_inside[None, :],
        other=0x55,
    )
    trits = ((packed.to(tl.int32) >> (2 * field)) & 3) - 1
    at = padded_token[:, None] + ((line * quads_per_line + quad) * 4 + byte)[None, :]
    given = tl.load(activations + at, mask=tokens_inside[:, None] & inside[None, :], other=0)
    return tl.dot(given, trits.to(tl.int8), out_dtype=tl.int32)


@triton.jit
def _multiply(
    activations, steps, codes, scales, output, tokens, rows, groups, padded, pair_lines, single_lines,
    PLANES: tl.constexpr, TOKENS: tl.constexpr, LINES: tl.constexpr, ROWS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    superblock = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    tokens_inside = token < tokens
    first_block = superblock * 4
    blocks = tl.minimum(tl.cdiv(rows, 16) - first_block, 4)  # of this superblock, whose lines take turns
    local = tl.arange(0, ROWS)
    block, row = local // 16, local % 16
    rows_inside = block < blocks
    lines = pair_lines + single_lines
    stride = blocks * 64
    result = tl.zeros((TOKENS, ROWS), tl.float32)
    for group in range(groups):
        group_codes = codes + (first_block.to(tl.int64) * groups + group * blocks) * lines * 64
        single_codes = group_codes + pair_lines * stride
        row_at = block * 64 + row * 4
        token_at = (token * groups + group) * padded
        scale_at = ((first_block * groups + group * blocks) + block) * PLANES * 16 + row
        sums = tl.zeros((TOKENS, ROWS), tl.float32)
        if PLANES > 1:
            even = tl.zeros((TOKENS, ROWS), tl.int32)
            odd = tl.zeros((TOKENS, ROWS), tl.int32)
            for first in range(0, pair_lines, LINES):
                for quad in tl.static_range(2):
                    even += _dot_of_field(
                        activations, group_codes, 2 * quad, quad, 2, first, pair_lines, token_at, row_at, stride,
                        tokens_inside, rows_inside, LINES,
                    )  # fmt: skip
                    odd += _dot_of_field(
                        activations, group_codes, 2 * quad + 1, quad, 2, first, pair_lines, token_at, row_at, stride,
                        tokens_inside, rows_inside, LINES,
                    )  # fmt: skip
            scale = tl.load(scales + scale_at, mask=rows_inside, other=0.0).to(tl.float32)
            sums = scale[None, :] * even.to(tl.float32)
            scale = tl.load(scales + scale_at + 16, mask=rows_inside, other=0.0).to(tl.float32)
            sums = sums + scale[None, :] * odd.to(tl.float32)
        if PLANES != 2:
            last = tl.zeros((TOKENS, ROWS), tl.int32)
            for first in range(0, single_lines, LINES):
                for quad in tl.static_range(4):
                    last += _dot_of_field(
                        activations, single_codes, quad, quad, 4, first, single_lines, token_at, row_at, stride,
                        tokens_inside, rows_inside, LINES,
                    )  # fmt: skip
            scale = tl.load(scales + scale_at + (PLANES - 1) * 16, mask=rows_inside, other=0.0).to(tl.float32)
            term = scale[None, :] * last.to(tl.float32)
            sums = term if PLANES == 1 else sums + term
        step = tl.load(steps + token * groups + group, mask=tokens_inside, other=0.0)
        result = result + step[:, None] * sums
    row_out = superblock * ROWS + local
    at = token[:, None] * rows + row_out[None, :]
    tl.store(output + at, result, mask=tokens_inside[:, None] & (row_out < rows)[None, :])
