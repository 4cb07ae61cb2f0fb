"""A trained binary layer taken apart: rounding, an array of +1 and -1 with one column of ones, and what stays digital.

The array of a layer with 8-bit weights holds whole numbers from -127 to 127, and no column of ones.

BWMA (arXiv 2508.21524) on a compute-in-memory array: y = scale * (signs x) + offset * (ones x) + bias. The array is an
ordinary convolution or linear layer with one output more than the layer has, so that `Deploy` programs it like any
other; the column of ones is shared by all outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hardy.errors import InputError
from hardy.ops.binary_conv import Grid, Window


class RoundToGrid(nn.Module):
    """Activations on a grid that is known; straight through for the gradient where they are on it."""

    def __init__(self, grid: Grid, channel: int) -> None:
        super().__init__()
        self.grid, self.channel = grid, channel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape and dtype."""
        grid = self.grid
        code = grid.codes(x.detach().float(), self.channel)
        rounded = ((code - grid.zero_code) * (grid.step / grid.factor)).to(x.dtype)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return rounded
        inside = (code > 0) & (code < (2**grid.bits - 1) * grid.factor)
        return rounded + (x - x.detach()) * inside


class BinaryArray(nn.Module):
    """What a binary layer computes, its product in a module of its own.

    Args:
        codes: (out, in / groups, height, width) of a convolution or (out, in); see `hardy.quant.binary.Levels`.
        scale: (out,).
        offset: (out,), or None where there are none, as with 8-bit weights: then there is no column of ones.
        bias: (out,) or None.
        grid: of the activations.
        window: of a convolution, or None.
    """

    unsaved = "it is a binary layer on an array; take that change back, and store the layer"

    def __init__(
        self,
        codes: torch.Tensor,
        scale: torch.Tensor,
        offset: torch.Tensor | None,
        bias: torch.Tensor | None,
        grid: Grid,
        window: Window | None,
    ) -> None:
        super().__init__()
        self.round = RoundToGrid(grid, -1 if window is None else -3)
        weight = codes.float()
        if offset is not None:
            if window is not None and window.groups > 1:
                raise InputError(
                    f"has {window.groups} groups, which see different inputs: an array with one column of ones takes "
                    "one"
                )
            weight = torch.cat([weight, torch.ones_like(weight[:1])])
        out, inputs = weight.shape[:2]
        if window is None:
            self.array = nn.Linear(inputs, out, bias=False)
        else:
            self.array = nn.Conv2d(
                inputs * window.groups, out, window.kernel, window.stride, window.padding, window.dilation,
                window.groups, bias=False,
            )  # fmt: skip
        self.array.weight = nn.Parameter(weight, requires_grad=False)
        for name, values in (("scale", scale), ("offset", offset), ("bias", bias)):
            self.register_buffer(name, None if values is None else values.detach().float().clone())
        self.spatial = window is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer."""
        y = self.array(self.round(x).to(self.array.weight.dtype))

        def column(values: Any) -> torch.Tensor:
            values = values.to(y.dtype)
            return values[:, None, None] if self.spatial else values

        if self.offset is None:
            result = column(self.scale) * y
        else:
            channel = -3 if self.spatial else -1
            count = y.shape[channel] - 1
            products, ones = y.narrow(channel, 0, count), y.narrow(channel, count, 1)
            result = column(self.scale) * products + column(self.offset) * ones
        return (result if self.bias is None else result + column(self.bias)).to(x.dtype)
