"""Hadamard matrices and integer waves, written out."""

import math

import torch

from hardy.ops.hadamard import factors, paley


def hadamard_matrix(width: int) -> torch.Tensor:
    """The whole block-diagonal matrix (width, width) that the fast transform multiplies by, int64."""
    blocks, doublings, base = factors(width)
    matrix = paley(base) if base > 1 else torch.ones(1, 1, dtype=torch.int64)
    for _ in range(doublings):
        matrix = torch.kron(torch.tensor([[1, 1], [1, -1]]), matrix)
    return torch.block_diag(*[matrix] * blocks)


def quad_code(phase: int, fraction_bits: int) -> int:
    """The nearest code to the exact quadratic wave, with the rounding of its square, in Python's integers."""
    one = 2**fraction_bits
    p = (phase + 2 * one) % (4 * one) - 2 * one
    distance = abs(one - abs(p))
    value = one - (distance**2 + one // 2) // one
    return value if p >= 0 else -value


def sine_code(phase: int, fraction_bits: int) -> int:
    return round(2**fraction_bits * math.sin(math.pi / 2 * phase / 2**fraction_bits))
