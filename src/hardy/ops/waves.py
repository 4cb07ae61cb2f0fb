"""Periodic waves of period 4: the quadratic one, whose backward pass keeps only its argument, and the triangle.

Source: QuadINR (arXiv 2508.14374) for the quadratic wave. With p = x folded into one period, [-2, 2], it is
p (2 - |p|): a parabola for each half period, odd, with a continuous slope 2 - 2|p|, values in [-1, 1] and 1 at x = 1.
Its Fourier coefficients are 32 / (pi n)^3 for odd n: 1.032, 0.0382 ...
"""

from typing import Any

import torch


def fold(x: torch.Tensor) -> torch.Tensor:
    """The p in [-2, 2] that differs from `x` by a multiple of the period, 4. Any shape; slope 1.

    Where `x` is half a period from a multiple of 4, p is 2 or -2; both waves are zero there.
    """
    # Rounding a quarter is exact work on floats and runs in vector units, unlike `torch.remainder`.
    return x - 4 * torch.round(x / 4)


class _Quad(torch.autograd.Function):
    """Saves its argument and nothing else: composed of ordinary operations it would keep three tensors as large."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        folded = fold(x)
        return (2 - folded.abs()).mul_(folded)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors  # made of differentiable operations, so that it can be differentiated again
        return gradients[0] * (2 - 2 * fold(x).abs())


def quad(x: torch.Tensor) -> torch.Tensor:
    """The quadratic wave p (2 - |p|) of `x`, element by element; period 4, values in [-1, 1].

    Differentiable twice almost everywhere: the second derivative is -2 for p > 0 and 2 for p < 0.
    """
    result = _Quad.apply(x)
    assert isinstance(result, torch.Tensor)
    return result


def triangle(x: torch.Tensor) -> torch.Tensor:
    """The triangle wave of `x`, element by element: slopes 1 and -1, period 4, values in [-1, 1], 1 at x = 1."""
    folded = fold(x)
    return 2 * folded.clamp(-1, 1) - folded
