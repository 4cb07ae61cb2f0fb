"""The first and the last layer of a network with binary weights at 8 bits, in memory and on disk.

There is no kernel for them: two small layers of a network, computed by torch in float32 from int8 weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from hardy import checks
from hardy.core.registry import register
from hardy.errors import InputError
from hardy.quant.binary import Levels
from hardy.quant.binary_arrays import RoundToGrid
from hardy.quant.packed_levels import PackedConvolution, PackedLevels, PackedProduct


class PackedInt8(PackedLevels):
    """What `PackedInt8Conv2d` and `PackedInt8Linear` have in common; see `PackedLevels`.

    `codes` are int8 in the shape of the weight; there is no offset.
    """

    weight_bits = 8
    codes: torch.Tensor

    def _hold(self, device: Any) -> None:
        self.register_buffer("codes", torch.zeros(self.shape, dtype=torch.int8, device=device))

    def _take(self, levels: Levels) -> None:
        self.codes = levels.codes.to(torch.int8).view(self.shape)

    def dense_codes(self) -> torch.Tensor:
        return self.codes

    def _rounded(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """The input on its grid, float32, with a gradient straight through."""
        checks.finite("scale of a binary layer", self.scale)
        x = checks.finite("the input of a layer with 8-bit weights", x.float())
        return RoundToGrid(self.grid(), channel)(x)


@register
class PackedInt8Conv2d(PackedInt8, PackedConvolution):
    """A 2-D convolution with 8-bit weights and activations, groups included."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in, height, width) -> (..., out, height, width), in the dtype of `x`.

        Raises:
            InputError: the input has another shape, or holds NaN or infinity.
        """
        window, channels = self.window, self.shape[1] * self.window.groups
        if x.ndim not in (3, 4) or x.shape[-3] != channels:
            raise InputError(f"the layer takes (batch, {channels}, height, width), got {tuple(x.shape)}")
        y = F.conv2d(
            self._rounded(x, -3), self.codes.float(), None, window.stride, window.padding, window.dilation,
            window.groups,
        )  # fmt: skip
        y = y * self.scale[:, None, None]
        return (y if self.bias is None else y + self.bias.float()[:, None, None]).to(x.dtype)


@register
class PackedInt8Linear(PackedInt8, PackedProduct):
    """A linear layer with 8-bit weights and activations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), in the dtype of `x`.

        Raises:
            InputError: the last dimension is not `in_features`, or the input holds NaN or infinity.
        """
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise InputError(f"the layer takes (..., {self.in_features}), got {tuple(x.shape)}")
        y = F.linear(self._rounded(x, -1), self.codes.flatten(1).float()) * self.scale
        return (y if self.bias is None else y + self.bias.float()).to(x.dtype)
