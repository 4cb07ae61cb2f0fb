"""Layers with binary weights in training: the float weight is what is trained, two levels are what is computed with.

Under the rule `EightBit` they are the first or the last layer of such a network, with weights of 255 levels.

They take the place of nn.Conv2d and nn.Linear and keep their parameters, the very objects, so that an optimizer that
was made before trains on. They are no nn.Conv2d themselves: whatever works on dense weights must not take the float
weight for what the layer computes with.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hardy.errors import InputError
from hardy.ops.binary_conv import Grid, Window, pair
from hardy.quant.activation import ActivationRule
from hardy.quant.binary import Levels, Per, WeightRule
from hardy.quant.binary_arrays import BinaryArray


class BinaryLayer(nn.Module):
    """What `BinaryConv2d` and `BinaryLinear` have in common.

    Args:
        original: the layer whose place it takes; its parameters become this layer's.
        rule: of the weight.
        per: see `WeightRule`.
        activation: of the input.

    Attributes:
        progress: of the training, 0 to 1, for the rules that sharpen. 1 unless somebody anneals.
    """

    unsaved = "its binary weights are still in training; apply Pack, which keeps what was trained"
    channel = -1
    """The dimension of the input's channels."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, original: nn.Module, rule: WeightRule, per: Per, activation: ActivationRule) -> None:
        super().__init__()
        self.rule, self.activation = rule, activation
        self.per: Per = per
        self.register_parameter("weight", original._parameters["weight"])
        self.register_parameter("bias", original._parameters["bias"])
        self.train(original.training)

    @property
    def progress(self) -> float:
        return self.activation.progress

    @progress.setter
    def progress(self, progress: float) -> None:
        self.activation.progress = progress

    def levels(self) -> Levels:
        """The levels of each output channel, of the weight (out, in * kernel) as it is now, float32.

        Raises:
            InputError: the weight is not finite.
        """
        weight = self.weight.detach().flatten(1).float()
        if bad := int((~torch.isfinite(weight)).sum()):
            raise InputError(f"holds {bad} NaN or infinite weights of {weight.numel()}")
        return self.rule.levels(weight, self.per)

    @property
    def stored_bits(self) -> int:
        """Bits that its weight takes when it is packed."""
        return packed_bits(self.rule.bits, self.weight.numel(), len(self.weight))

    def rounded_weight(self) -> torch.Tensor:
        """The weight that is computed with, in the shape and dtype of `weight`, with the gradient of the rule."""
        flat = self.rule(self.weight.flatten(1).float(), self.per, self.progress)
        return flat.view_as(self.weight).to(self.weight.dtype)

    def as_array(self) -> nn.Module:
        """The layer as it is now, taken apart for a chip; see `hardy.quant.binary_arrays.BinaryArray`.

        Raises:
            InputError: it has seen no input yet, so that its grid is not known; or it has several groups.
        """
        rule, levels = self.activation, self.levels()
        grid = Grid(
            bits=rule.bits,
            step=float(rule.step.detach()),
            zero_point=float(rule.zero_point),
            shift=None if rule.shift is None else rule.shift.detach(),
        )
        if math.isnan(grid.zero_point):
            raise InputError("has seen no input, so the step of its activations is not known; run the model once")
        offset = levels.offset.flatten() if self.rule.bits == 1 else None
        codes = levels.codes.view_as(self.weight)
        return BinaryArray(codes, levels.scale.flatten(), offset, self.bias, grid, self.window)

    @property
    def window(self) -> Window | None:
        """Of a convolution."""
        return None

    def extra_repr(self) -> str:
        shape = "x".join(map(str, self.weight.shape))
        return f"{shape}, rule={type(self.rule).__name__}, per={self.per}, bias={self.bias is not None}"


class BinaryConv2d(BinaryLayer):
    """A 2-D convolution with binary weights, groups and dilation included."""

    channel = -3

    def __init__(self, original: nn.Conv2d, rule: WeightRule, per: Per, activation: ActivationRule) -> None:
        super().__init__(original, rule, per, activation)
        self.in_channels, self.out_channels = original.in_channels, original.out_channels
        self.kernel_size, self.stride, self.dilation = original.kernel_size, original.stride, original.dilation
        self.padding, self.groups = numeric_padding(original), original.groups

    @property
    def window(self) -> Window:
        return Window(
            kernel=pair(self.kernel_size), stride=pair(self.stride), padding=pair(self.padding),
            dilation=pair(self.dilation), groups=self.groups,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in, height, width) -> (..., out, height, width)."""
        x = self.activation(x, self.channel)
        weight = self.rounded_weight()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class BinaryLinear(BinaryLayer):
    """A linear layer with binary weights."""

    def __init__(self, original: nn.Linear, rule: WeightRule, per: Per, activation: ActivationRule) -> None:
        super().__init__(original, rule, per, activation)
        self.in_features, self.out_features = original.in_features, original.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(self.activation(x, self.channel), self.rounded_weight(), self.bias)


def packed_bits(bits: int, weights: int, outputs: int) -> int:
    """Bits that so many weights of 1 bit, or of 8, take when they are packed.

    Those of one bit are filled up to bytes, and each output has a scale and an offset in float32; those of 8 bits have
    a scale.
    """
    return 8 * -(-weights // 8) + 64 * outputs if bits == 1 else bits * weights + 32 * outputs


def numeric_padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Zeros at each side, of height and of width.

    Raises:
        InputError: it does not pad by zeros, or not by as many at both sides.
    """
    if conv.padding_mode != "zeros":
        raise InputError(f"pads with padding_mode={conv.padding_mode!r}; binary weights take padding by zeros")
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        whole = [dilation * (kernel - 1) for dilation, kernel in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(both % 2 for both in whole):
            raise InputError("pads with padding='same' by more at one side; give the padding in numbers")
        return whole[0] // 2, whole[1] // 2
    padding: Any = conv.padding
    return int(padding[0]), int(padding[1])
