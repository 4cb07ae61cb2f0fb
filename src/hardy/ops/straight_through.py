"""Straight-through gradients: a value goes forward that has no useful derivative, and a chosen one goes back.

Source: Bengio et al. 2013 (arXiv 1308.3432).
"""

from typing import Any

import torch


def straight_through(source: torch.Tensor, value: torch.Tensor, slope: torch.Tensor | None = None) -> torch.Tensor:
    """`value`, whose gradient goes to `source`, times `slope` where that is given.

    Args:
        source: what is trained.
        value: what is computed with; of the same shape.
        slope: the derivative that is taken for that of `value` by `source`, of the same shape; one by default.
    """
    return _StraightThrough.apply(source, value, slope)  # pyright: ignore[reportReturnType]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, value: torch.Tensor, slope: torch.Tensor | None) -> torch.Tensor:
        if slope is not None:
            ctx.save_for_backward(slope)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        return gradient * ctx.saved_tensors[0] if ctx.saved_tensors else gradient, None, None
