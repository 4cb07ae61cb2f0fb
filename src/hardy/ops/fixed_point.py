"""Integer arithmetic that is the same on every machine: rescaling, and waves of a phase that wraps around.

Source: the fixed-point contract of a QuadINR unit (arXiv 2508.14374): a phase of F fraction bits has the period
2^(F + 2), so that its excess bits are dropped, not saturated: however far a phase overflows, the wave is exact.

Everything is int64 here; the ranges that hardware has to hold are those of the operands.
"""

import math
from collections.abc import Callable

import torch

from hardy.errors import InputError

MULTIPLIER_BITS = 23
LARGEST_SHIFT = 62


def multiplier(factor: float) -> tuple[int, int]:
    """`factor` as (m, shift), m / 2^shift with m of 23 bits: the nearest, to 1.2e-7; below 2^-39 with fewer bits.

    Raises:
        InputError: `factor` is negative, NaN or 2^22 and more, where the shift would leave 1 to 62.
    """
    if not 0 <= factor < 2.0**22:
        raise InputError(f"an integer layer scales by a factor from 0 to 2^22, got {factor:.4g}")
    shift = min(MULTIPLIER_BITS - math.frexp(factor)[1], LARGEST_SHIFT)
    return round(math.ldexp(factor, shift)), shift


def rescale(x: torch.Tensor, m: torch.Tensor | int, shift: torch.Tensor | int) -> torch.Tensor:
    """`x * m / 2^shift` to the nearest integer, halves up. `|x m|` must stay below 2^62."""
    half = 2 ** (shift - 1) if isinstance(shift, int) else torch.ones_like(shift) << (shift - 1)
    return (x * m + half) >> shift


def divide(x: torch.Tensor, by: torch.Tensor | int) -> torch.Tensor:
    """`x / by` to the nearest integer, halves up, for `by` above zero."""
    return torch.div(2 * x + by, 2 * by, rounding_mode="floor")


def wave(phase: torch.Tensor, fraction_bits: int, quarter: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """An odd wave of `phase`, of which only the quarter next to its top is given.

    Args:
        phase: int64, any shape and size; 2^fraction_bits is a quarter of the period.
        fraction_bits: F; the wave's top is 2^F.
        quarter: values 0 to 2^F at distances 0 to 2^F (int64) from the top.

    Returns:
        int64, -2^F to 2^F.
    """
    one = 1 << fraction_bits
    x = phase & (4 * one - 1)
    rest = x & (one - 1)
    y = quarter(torch.where((x & one) != 0, rest, one - rest))
    return torch.where((x & (2 * one)) != 0, -y, y)


def quad_quarter(distance: torch.Tensor, fraction_bits: int) -> torch.Tensor:
    """The quadratic wave next to its top: 2^F - d^2 / 2^F, the square rounded to nearest, halves up."""
    return (1 << fraction_bits) - ((distance * distance + (1 << (fraction_bits - 1))) >> fraction_bits)


def triangle_quarter(distance: torch.Tensor, fraction_bits: int) -> torch.Tensor:
    """The triangle wave next to its top: 2^F - d."""
    return (1 << fraction_bits) - distance


def sine_quarter_table(fraction_bits: int) -> torch.Tensor:
    """The sine next to its top at distances 0 to 2^F, rounded: (2^F + 1,) int64.

    No value is so near to a half that two mathematics libraries could round it differently; tests see to that.
    """
    one = 1 << fraction_bits
    return torch.tensor([round(one * math.cos(math.pi / 2 * i / one)) for i in range(one + 1)])
