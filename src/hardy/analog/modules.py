"""Layers that compute on a chip: drop-in for nn.Linear, convolutions, GPT-2's Conv1D; the same state-dict keys.

Their parameters are those of the layer that they stand for, the very objects: what an optimizer that was made before
trains, and what is loaded and saved, is the digital weight that is programmed. `stored_weight` is what the arrays hold
of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from hardy.analog.arrays import Array, Passes, StoredWeight
from hardy.analog.reading import WeightOnChip, weight_in_use


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
        self.stored = self.storing(arrays).take(self.parameter)

    def storing(self, arrays: list[Array]) -> StoredWeight:
        """What `arrays` are to hold of the weight."""
        return StoredWeight(arrays, self.is_transposed)

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
    def read_on_chip(self) -> WeightOnChip | None:
        """In a forward pass of the model, where converters or read noise act: what stands for the weight."""
        weight = self.weight if self.passes.depth and not self.reads_exactly else None
        return weight if isinstance(weight, WeightOnChip) else None

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

    def inputs_of(self, array: Array, vectors: torch.Tensor) -> torch.Tensor:
        """The part of `vectors` that one of the arrays is given."""
        return vectors

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


class AnalogConv(AnalogLayer):
    """A convolution on a chip: each patch is one input vector of in_channels / groups * kernel entries.

    Each group of channels is on arrays of its own.
    """

    # What every nn.Conv1d to 3d has.
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding_mode: str
    bias: torch.Tensor | None

    def __init__(self, original: nn.Module, arrays: list[Array], passes: Passes | None = None) -> None:
        nn.Module.__init__(self)
        self.attach(original, arrays, passes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.reads_exactly:
            return self._conv_forward(input, self.stored_weight(), self.bias)  # pyright: ignore[reportCallIssue]
        if input.ndim == len(self.kernel_size) + 1:
            return self.forward(input[None])[0]
        patches = self.patches(input)
        sizes = patches.shape[1:-1]
        vectors = patches.flatten(0, -2)
        self.passes.unused.pop(self.name, None)
        weight = self.stored.matrices(self.stored_weight())
        parts = [array.product(self.inputs_of(array, vectors), weight[array.place]) for array in self.arrays]
        y = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        y = y if self.bias is None else y + self.bias
        return y.reshape(len(input), *sizes, -1).movedim(-1, 1).contiguous()

    def patches(self, input: torch.Tensor) -> torch.Tensor:
        """(batch, *positions, in_channels * kernel) of an input (batch, in_channels, *sizes)."""
        width: Any = self._reversed_padding_repeated_twice
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = nn.functional.pad(input, width, mode=mode)
        axes = range(2, x.ndim)
        for axis, kernel, stride, dilation in zip(axes, self.kernel_size, self.stride, self.dilation, strict=True):
            x = x.unfold(axis, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
        # (batch, channels, *positions, *kernel)
        return x.movedim(1, len(axes) + 1).flatten(len(axes) + 1)

    def vectors(self, x: torch.Tensor) -> torch.Tensor:
        return self.patches(x if x.ndim == len(self.kernel_size) + 2 else x[None]).flatten(0, -2)

    def inputs_of(self, array: Array, vectors: torch.Tensor) -> torch.Tensor:
        if self.groups == 1:
            return vectors
        size = vectors.shape[-1] // self.groups
        group = array.place.start * self.groups // self.out_channels  # pyright: ignore[reportAttributeAccessIssue]
        return vectors[:, group * size : (group + 1) * size]


class AnalogConv1d(AnalogConv, nn.Conv1d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An nn.Conv1d on a chip."""


class AnalogConv2d(AnalogConv, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An nn.Conv2d on a chip."""


class AnalogConv3d(AnalogConv, nn.Conv3d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An nn.Conv3d on a chip."""


class AnalogConvTranspose(AnalogLayer):
    """A transposed convolution on a chip: each position is one input vector, its whole patch of outputs the product.

    Where patches overlap they are added digitally. Each group of channels is on arrays of its own.
    """

    # What every nn.ConvTranspose1d to 3d has.
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    bias: torch.Tensor | None

    def __init__(self, original: nn.Module, arrays: list[Array], passes: Passes | None = None) -> None:
        nn.Module.__init__(self)
        self.attach(original, arrays, passes)

    def storing(self, arrays: list[Array]) -> StoredWeight:
        return StoredWeight(arrays, groups=self.groups)

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        sizes: Any = (self.stride, self.padding, self.kernel_size, len(self.kernel_size), self.dilation)
        more = self._output_padding(input, output_size, *sizes)  # pyright: ignore[reportCallIssue]
        if self.reads_exactly:
            return self._scattered(input, self.stored_weight(), self.bias, more, self.groups)
        if unbatched := input.ndim == len(self.kernel_size) + 1:
            input = input[None]
        positions = input.movedim(1, -1)
        matrices = self.stored.matrices(self.stored_weight())  # (groups, out / groups * kernel, in / groups)
        parts = [a.product(self.inputs_of(a, positions), matrices[a.place]) for a in self.arrays]
        patches = torch.cat(parts, dim=-1).movedim(-1, 1)  # (batch, out * kernel, *positions)
        entries = math.prod(self.kernel_size)  # each of which has one place in the patch, alone
        places = torch.eye(entries, dtype=patches.dtype, device=patches.device).reshape(entries, 1, *self.kernel_size)
        places = places.repeat(self.out_channels, *[1] * (places.ndim - 1))
        y = self._scattered(patches, places, self.bias, more, self.out_channels)
        return y[0] if unbatched else y

    def _scattered(self, x: torch.Tensor, weight: torch.Tensor, bias: Any, more: Any, groups: int) -> torch.Tensor:
        transposed = getattr(nn.functional, f"conv_transpose{len(self.kernel_size)}d")
        return transposed(x, weight, bias, self.stride, self.padding, more, groups, self.dilation)

    def vectors(self, x: torch.Tensor) -> torch.Tensor:
        channels = -len(self.kernel_size) - 1
        return x.movedim(channels, -1).flatten(0, -2)

    def inputs_of(self, array: Array, vectors: torch.Tensor) -> torch.Tensor:
        size = vectors.shape[-1] // self.groups
        assert isinstance(array.place, int)
        return vectors[..., array.place * size : (array.place + 1) * size]


class AnalogConvTranspose1d(AnalogConvTranspose, nn.ConvTranspose1d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An nn.ConvTranspose1d on a chip."""


class AnalogConvTranspose2d(AnalogConvTranspose, nn.ConvTranspose2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An nn.ConvTranspose2d on a chip."""


class AnalogConvTranspose3d(AnalogConvTranspose, nn.ConvTranspose3d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An nn.ConvTranspose3d on a chip."""


CONVOLUTIONS: dict[type[nn.Module], type[AnalogConv | AnalogConvTranspose]] = {
    nn.Conv1d: AnalogConv1d,
    nn.Conv2d: AnalogConv2d,
    nn.Conv3d: AnalogConv3d,
    nn.ConvTranspose1d: AnalogConvTranspose1d,
    nn.ConvTranspose2d: AnalogConvTranspose2d,
    nn.ConvTranspose3d: AnalogConvTranspose3d,
}
"""Which layer takes the place of which."""
