"""Layers that compute on a chip: drop-in for nn.Linear, nn.Conv2d and GPT-2's Conv1D, with the same state-dict keys.

Their parameters are those of the layer that they stand for, the very objects: what an optimizer that was made before
trains, and what is loaded and saved, is the digital weight that is programmed. `stored_weight` is what the arrays hold
of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hardy.analog.arrays import Array, Passes, StoredWeight
from hardy.analog.reading import weight_in_use
from hardy.errors import InputError


class AnalogLayer(nn.Module):
    """What the layers have in common: a weight on arrays."""

    stored: StoredWeight
    passes: Passes
    name: str
    is_transposed: bool = False

    def attach(self, original: nn.Module, arrays: list[Array], passes: Passes | None = None) -> None:
        """Take the place of `original`, whose weight is on `arrays`: its attributes and its parameters."""
        for key, value in vars(original).items():
            # A forward that was put on the original, by NoiseAware or accelerate, is of a layer that is not on a chip.
            if key not in {"_parameters", "_modules", "_buffers", "forward"}:
                setattr(self, key, value)
        self._parameters.update(original._parameters)
        self.name, self.passes = arrays[0].site.module, passes or Passes()
        self.stored = StoredWeight(arrays, self.is_transposed).take(self.parameter)

    @property
    def parameter(self) -> torch.Tensor:
        """The digital weight."""
        return self._parameters["weight"]  # pyright: ignore[reportReturnType]

    @property
    def weight(self) -> Any:
        """The digital weight; in a forward pass of the model what the arrays hold, as `weight_in_use` gives it."""
        if "weight" not in self._parameters:
            raise AttributeError("weight")
        return weight_in_use(self.name, self.stored, self.parameter, self.passes)

    @property
    def arrays(self) -> list[Array]:
        """The matrices on the chip."""
        return self.stored.arrays

    @property
    def reads_exactly(self) -> bool:
        """Whether a product with the stored weight is all that happens at a use."""
        return self.stored.reads_exactly

    def stored_weight(self) -> torch.Tensor:
        """What the arrays hold, in shape and dtype of the weight; its gradient is the weight's."""
        self.passes.unused.pop(self.name, None)
        return self.stored.values(self.parameter)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out) without bias."""
        self.passes.unused.pop(self.name, None)
        return self.stored.product(x, self.parameter)

    def vectors(self, x: torch.Tensor) -> torch.Tensor:
        """The input vectors of the arrays in an input of the layer, (n, in)."""
        return x.reshape(-1, x.shape[-1])

    def _apply(self, fn: Any, recurse: bool = True) -> AnalogLayer:
        super()._apply(fn, recurse)
        self.stored.moved(fn, self.parameter)
        return self


class AnalogLinear(AnalogLayer, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An nn.Linear whose product is computed on a chip; the bias is added digitally."""

    def __init__(self, original: nn.Linear, arrays: list[Array], passes: Passes | None = None) -> None:
        nn.Module.__init__(self)
        self.attach(original, arrays, passes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.reads_exactly:
            return nn.functional.linear(input, self.stored_weight(), self.bias)
        y = self.product(input)
        return y if self.bias is None else y + self.bias


class AnalogConv1D(AnalogLayer, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """GPT-2's Conv1D on a chip: an nn.Linear that stores its weight as (in, out)."""

    is_transposed = True

    def __init__(self, original: nn.Module, arrays: list[Array], passes: Passes | None = None) -> None:
        nn.Module.__init__(self)
        self.attach(original, arrays, passes)
        self.in_features, self.out_features = self.parameter.shape

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = self.product(input)
        return y if self.bias is None else y + self.bias


class AnalogConv2d(AnalogLayer, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An nn.Conv2d on a chip: each patch of the image is one input vector of in_channels * kernel entries."""

    def __init__(self, original: nn.Conv2d, arrays: list[Array], passes: Passes | None = None) -> None:
        nn.Module.__init__(self)
        if any(not array.reads_exactly for array in arrays) and (reason := unfoldable(original)):
            raise InputError(f"{arrays[0].site.name}: {reason}; use chip.without_periphery()")
        self.attach(original, arrays, passes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.reads_exactly:
            return self._conv_forward(input, self.stored_weight(), self.bias)
        if input.ndim == 3:
            return self.forward(input[None])[0]
        y = self.product(self.patches(input)).transpose(1, 2)
        height, width = (
            (size + 2 * int(self.padding[i]) - self.dilation[i] * (self.kernel_size[i] - 1) - 1) // self.stride[i] + 1
            for i, size in enumerate(input.shape[-2:])
        )
        y = y.reshape(len(input), self.out_channels, height, width)
        return y if self.bias is None else y + self.bias[:, None, None]

    def patches(self, input: torch.Tensor) -> torch.Tensor:
        """(batch, positions, in_channels * kernel) of images (batch, in_channels, height, width)."""
        padding: Any = self.padding
        columns = nn.functional.unfold(input, self.kernel_size, self.dilation, padding, self.stride)  # pyright: ignore[reportArgumentType]
        return columns.transpose(1, 2)

    def vectors(self, x: torch.Tensor) -> torch.Tensor:
        return self.patches(x if x.ndim == 4 else x[None]).flatten(0, 1)


def unfoldable(conv: nn.Conv2d) -> str:
    """Why the products of a convolution cannot be computed patch by patch on arrays; empty if they can."""
    if conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        return ""
    return (
        "a convolution with converters or read noise takes groups=1 and padding by zeros in numbers, got "
        f"groups={conv.groups}, padding={conv.padding!r} ({conv.padding_mode})"
    )
