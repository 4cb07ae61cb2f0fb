"""What both ways of the trit product on CUDA begin with: the activations of a token rounded to words, in Triton.

A word is four consecutive inputs (a quad, as in `hardy.ops.trit_matrix`).
"""

# Triton compiles the functions below; its stubs describe them as the Python that they are not. What a kernel is
# compiled for is in capitals, as is the habit with Triton.
# ruff: noqa: N803
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAssignmentType=false, reportReturnType=false

from typing import Any

import torch
import triton
import triton.language as tl

from hardy.ops.plane_layout import lines_per_group, padded_group
from hardy.ops.trit_matrix import TritMatrix

# Bit patterns of float32: infinity, and 2^-100, below which a group counts as zero.
INFINITY = tl.constexpr(0x7F800000)
SMALLEST = tl.constexpr(0x0D800000)
# At 1.5 * 2^23 floats are integers: adding it rounds, half to even; and an integer below 2^22 added to its bit pattern
# gives the pattern of the sum.
SHIFT = tl.constexpr(12582912.0)
SHIFT_BITS = tl.constexpr(0x4B400000)

# Products and sums of floats must not be fused, or the bits would differ from the CPU's.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}
WORDS_AT_A_TIME = 1024  # of activations, to a program


def words_of(matrix: TritMatrix) -> int:
    """Words of a group, as a power of two of at least four."""
    return max(4, triton.next_power_of_2(padded_group(matrix.group_size, matrix.planes) // 4))


def shape_of(matrix: TritMatrix) -> tuple[int, int, int]:
    """Groups, and the lines of a group that hold planes 0 and 1 and those that hold the last of 1 or 3."""
    lines = lines_per_group(matrix.group_size, matrix.planes)
    pairs = {1: 0, 2: lines, 3: lines // 3 * 2}[matrix.planes]
    return -(-matrix.width // matrix.group_size), pairs, lines - pairs


def has_ptx(x: torch.Tensor) -> bool:
    return x.is_cuda and torch.version.hip is None


@triton.jit
def rounded(x, token, group, width, group_size, WORDS: tl.constexpr):
    """The activations of some groups as words (groups, WORDS); the groups' steps; the sums of their codes."""
    position = tl.arange(0, 4 * WORDS)
    at = group[:, None] * group_size + position[None, :]
    inside = (position < group_size)[None, :] & (at < width)
    values = tl.load(x + token * width + at, mask=inside, other=0.0).to(tl.float32)
    largest_bits = tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)  # NaN is the largest
    largest = largest_bits.to(tl.float32, bitcast=True)
    usable = (largest_bits < INFINITY) & (largest_bits >= SMALLEST)
    scale = tl.div_rn(127.0, tl.where(usable, largest, 1.0))
    whole = (values * scale[:, None] + SHIFT).to(tl.int32, bitcast=True) - SHIFT_BITS
    whole = tl.where(usable[:, None], whole, 0)
    bytes_of_words = ((whole & 0xFF) << (8 * (position % 4))[None, :]).reshape(whole.shape[0], WORDS, 4)
    step = tl.where(usable, tl.div_rn(largest, 127.0), 0.0)
    step = tl.where(largest_bits < INFINITY, step, float("nan"))
    return tl.sum(bytes_of_words, 2), step, tl.sum(whole, 1)
