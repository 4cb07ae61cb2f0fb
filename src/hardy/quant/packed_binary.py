"""Layers whose weights take one bit and whose activations a few, in memory and on disk.

Source: XNOR-Net (arXiv 1603.05279) and BWMA (2508.21524). Products are those of `hardy.ops.binary_conv`.
"""

from __future__ import annotations

from typing import Any

import torch

from hardy import checks
from hardy.core.registry import register
from hardy.errors import InputError
from hardy.ops.binary_conv import BinaryMatrix, binary_conv
from hardy.ops.packing import pack_codes, unpack_codes
from hardy.quant.binary import Levels
from hardy.quant.packed_levels import PackedConvolution, PackedLevels, PackedProduct


class PackedBinary(PackedLevels):
    """What `PackedBinaryConv2d` and `PackedBinaryLinear` have in common; see `PackedLevels`.

    Their codes are `signs` (ceil(weights / 8),) uint8, a bit for each weight.
    """

    weight_bits = 1
    signs: torch.Tensor
    _matrix: tuple[tuple[Any, ...], BinaryMatrix] | None = None

    def _hold(self, device: Any) -> None:
        self.register_buffer("signs", torch.zeros(-(-self.weights // 8), dtype=torch.uint8, device=device))

    def _take(self, levels: Levels) -> None:
        self.signs = pack_codes((levels.codes > 0).to(torch.uint8).flatten(), 1)

    def dense_codes(self) -> torch.Tensor:
        return 2 * unpack_codes(self.signs, self.weights, 1).to(torch.int8).view(self.shape) - 1

    def matrix(self) -> BinaryMatrix:
        """The weight in the form for products, made when what is stored has changed.

        Raises:
            InputError: the stored tensors are damaged or have other shapes than this layer's.
        """
        assert self.offset is not None
        stored = [self.signs, self.scale, self.offset, self.step, self.zero_point, self.shift, self.bias]
        stamp = tuple(None if t is None else (t.data_ptr(), t._version, t.device) for t in stored)
        if self._matrix is None or self._matrix[0] != stamp:
            for name, values in (("scale", self.scale), ("offset", self.offset), ("step", self.step)):
                checks.finite(f"{name} of a binary layer", values)
            self._matrix = (
                stamp,
                BinaryMatrix(self.signs, self.shape, self.scale, self.offset, self.bias, self.grid(), self.window),
            )
        return self._matrix[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_matrix": None}


@register
class PackedBinaryConv2d(PackedBinary, PackedConvolution):
    """A 2-D convolution with one-bit weights. With several groups it is right, but has no kernel of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in, height, width) -> (..., out, height, width), in the dtype of `x`.

        Raises:
            InputError: the input has another shape, or holds NaN or infinity.
        """
        if x.requires_grad and torch.is_grad_enabled():
            return _WithGradient.apply(x, self)  # pyright: ignore[reportReturnType]
        y = binary_conv(x.float() if x.ndim == 4 else x.float()[None], self.matrix())
        return (y if x.ndim == 4 else y[0]).to(x.dtype)


@register
class PackedBinaryLinear(PackedBinary, PackedProduct):
    """A linear layer with one-bit weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), in the dtype of `x`.

        Raises:
            InputError: the last dimension is not `in_features`, or the input holds NaN or infinity.
        """
        if x.requires_grad and torch.is_grad_enabled():
            return _WithGradient.apply(x, self)  # pyright: ignore[reportReturnType]
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise InputError(f"the layer takes (..., {self.in_features}), got {tuple(x.shape)}")
        y = binary_conv(x.float().reshape(1, 1, -1, self.in_features), self.matrix(), channels_last=True)
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)


class _WithGradient(torch.autograd.Function):
    """The output of a packed layer, with the gradient of its input: straight through the grid where it is on it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: PackedBinary) -> torch.Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer(x)  # no gradients are recorded here

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(ctx.layer.as_array()(x), x, gradients[0])[0], None
