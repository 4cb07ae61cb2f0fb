"""Layers whose weights take one bit and whose activations a few, in memory and on disk.

Source: XNOR-Net (arXiv 1603.05279) and BWMA (2508.21524). They compute what `BinaryConv2d` and `BinaryLinear` do, up
to the order of float32 sums: the products are whole numbers (see `hardy.ops.binary_conv`).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.artefacts.packing import PackedLayer
from hardy.core.registry import register
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.ops.binary_conv import BinaryMatrix, Grid, Window, binary_conv, pair
from hardy.ops.packing import pack_codes, unpack_codes
from hardy.quant.binary_arrays import BinaryArray
from hardy.quant.binary_layers import BinaryConv2d, BinaryLayer, BinaryLinear, numeric_padding

FORMAT = 1


class PackedBinary(PackedLayer):
    """What `PackedBinaryConv2d` and `PackedBinaryLinear` have in common.

    What is stored: `signs` (ceil(weights / 8),) uint8, a bit for each weight; `scale` and `offset` (out,) float32;
    `step` and `zero_point` of the activations, float32, and `shift` (in,), if there is one; `bias`, if any. The weight
    and the bias are frozen; gradients flow to the input. Casting the layer casts the bias only.

    Args:
        shape: of the weight, (out, in / groups, height, width).
        activation_bits: 1 to 8.
        shifted: whether each channel of the input is shifted.
        bias: whether there is one.
        window: of the convolution.
    """

    trained_as: type[BinaryLayer]
    signs: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor
    step: torch.Tensor
    zero_point: torch.Tensor
    shift: torch.Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: Sequence[int],
        activation_bits: int,
        shifted: bool,
        bias: bool,
        window: Window,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.shape, self.window = tuple(shape), window
        self.activation_bits = checks.integer("activation_bits", activation_bits, at_least=1, at_most=8)
        out = self.shape[0]
        self.register_buffer("signs", torch.zeros(-(-self.weights // 8), dtype=torch.uint8, device=device))
        for name, count in (("scale", out), ("offset", out), ("shift", self.shape[1] * window.groups)):
            wanted = shifted or name != "shift"
            self.register_buffer(name, torch.zeros(count, device=device) if wanted else None)
        for name in ("step", "zero_point"):
            self.register_buffer(name, torch.zeros((), device=device))
        empty = nn.Parameter(torch.zeros(out, dtype=dtype, device=device), requires_grad=False) if bias else None
        self.register_parameter("bias", empty)
        self._matrix: tuple[tuple[Any, ...], BinaryMatrix] | None = None

    @classmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, Any]]) -> PackedBinary | None:
        if not isinstance(module, cls.trained_as):
            return None
        rule, levels = module.activation, module.levels()
        step, zero_point = float(rule.step.detach()), float(rule.zero_point)
        if math.isnan(zero_point):
            raise InputError("has seen no input, so the step of its activations is not known; run the model once")
        checks.number("the step of its activations (a lower learning rate keeps it there)", step, above=0)
        weight = module.weight
        layer = cls._empty(module, rule.bits, rule.shift is not None, module.bias, weight.dtype, weight.device)
        layer.signs = pack_codes((levels.signs > 0).to(torch.uint8).flatten(), 1)
        layer.scale, layer.offset = levels.scale.flatten().contiguous(), levels.offset.flatten().contiguous()
        layer.step, layer.zero_point = rule.step.detach().float().clone(), rule.zero_point.detach().float().clone()
        if rule.shift is not None:
            layer.shift = rule.shift.detach().float().clone()
        if module.bias is not None:
            layer.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
        return layer.train(module.training)

    @classmethod
    def _empty(cls, module: Any, bits: int, shifted: bool, bias: Any, dtype: Any, device: Any) -> PackedBinary:
        """The layer in the place of `module`, dense or in training."""
        shape = tuple(module.weight.shape)
        shape = shape if len(shape) == 4 else (*shape, 1, 1)
        return cls(shape, bits, shifted, bias is not None, cls._window(module), dtype, device)

    @classmethod
    @abc.abstractmethod
    def _window(cls, module: Any) -> Window:
        """That of the layer that is packed."""

    @classmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> PackedBinary:
        known = dict(description)
        version = known.pop("format", None)
        if version != FORMAT:
            raise InputError(
                f"it is a binary layer of format {version!r}; this hardy reads format {FORMAT}, and "
                "newer ones need a newer hardy"
            )
        if not isinstance(module, cls._dense):
            raise InputError(
                f"a {type(module).__name__} is no {cls._dense.__name__}: {cls.__name__} cannot stand for it"
            )
        bits, shifted = known.pop("activation_bits"), checks.boolean("shifted", known.pop("shifted"))
        if known:
            raise TypeError(f"unknown settings {sorted(known)}")
        weight: Any = module.weight
        return cls._empty(module, bits, shifted, module.bias, weight.dtype, weight.device)

    _dense: type[nn.Module]

    def describe(self) -> dict[str, Any]:
        return {"format": FORMAT, "activation_bits": self.activation_bits, "shifted": self.shift is not None}

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """A bit for each weight, rounded up to bytes, and scale and offset of each output in float32."""
        return 8 * self.signs.numel() + 64 * self.shape[0]

    @property
    def bits_per_weight(self) -> float:
        """What is stored for the weights, for each."""
        return self.bits / self.weights

    def matrix(self) -> BinaryMatrix:
        """The weight in the form for products, made when what is stored has changed.

        Raises:
            InputError: the stored tensors are damaged or have other shapes than this layer's.
        """
        stored = [self.signs, self.scale, self.offset, self.step, self.zero_point, self.shift, self.bias]
        stamp = tuple(None if t is None else (t.data_ptr(), t._version, t.device) for t in stored)
        if self._matrix is None or self._matrix[0] != stamp:
            signs = self.signs
            for name, values in (("scale", self.scale), ("offset", self.offset), ("step", self.step)):
                checks.finite(f"{name} of a binary layer", values)
            self._matrix = (
                stamp,
                BinaryMatrix(signs, self.shape, self.scale, self.offset, self.bias, self.grid(), self.window),
            )
        return self._matrix[1]

    def grid(self) -> Grid:
        """Of the activations.

        Raises:
            InputError: the stored zero point is none.
        """
        zero_point = float(self.zero_point)
        middle = 0.5 if self.activation_bits == 1 else float(2 ** (self.activation_bits - 1))
        checks.one_of("zero_point of a binary layer", zero_point, (0.0, middle))
        return Grid(bits=self.activation_bits, step=float(self.step), zero_point=zero_point, shift=self.shift)

    def dense_signs(self) -> torch.Tensor:
        """-1 and 1, in the shape of the weight, float32."""
        return 2 * unpack_codes(self.signs, self.weights, 1).float().view(self.shape) - 1

    @abc.abstractmethod
    def as_array(self) -> nn.Module:
        """The layer taken apart for a chip; see `BinaryArray`."""

    def dense(self, dtype: torch.dtype) -> nn.Module:
        return self.as_array().to(dtype).train(self.training)

    def extra_repr(self) -> str:
        return f"{'x'.join(map(str, self.shape))}, activation_bits={self.activation_bits}, bias={self.bias is not None}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_matrix": None}

    def _apply(self, fn: Any, recurse: bool = True) -> PackedBinary:
        kept = {name: tensor for name, tensor in self._buffers.items() if tensor is not None}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():  # moved, but not cast: rounded levels are another weight
            self._buffers[name] = tensor.to(self._buffers[name].device)  # pyright: ignore[reportOptionalMemberAccess]
        return self


@register
class PackedBinaryConv2d(PackedBinary):
    """A 2-D convolution with one-bit weights. With several groups it is right, but has no kernel of its own."""

    trained_as, _dense = BinaryConv2d, nn.Conv2d

    @classmethod
    def _window(cls, module: Any) -> Window:
        padding = module.padding if isinstance(module, BinaryConv2d) else numeric_padding(module)
        return Window(
            kernel=pair(module.kernel_size), stride=pair(module.stride), padding=pair(padding),
            dilation=pair(module.dilation), groups=module.groups,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in, height, width) -> (..., out, height, width), in the dtype of `x`.

        Raises:
            InputError: the input has another shape, or holds NaN or infinity.
        """
        if x.requires_grad and torch.is_grad_enabled():
            return _WithGradient.apply(x, self)  # pyright: ignore[reportReturnType]
        y = binary_conv(x.float() if x.ndim == 4 else x.float()[None], self.matrix())
        return (y if x.ndim == 4 else y[0]).to(x.dtype)

    def as_array(self) -> nn.Module:
        return BinaryArray(self.dense_signs(), self.scale, self.offset, self.bias, self.grid(), self.window)


@register
class PackedBinaryLinear(PackedBinary):
    """A linear layer with one-bit weights."""

    trained_as, _dense = BinaryLinear, nn.Linear

    @classmethod
    def _window(cls, module: Any) -> Window:
        return Window()

    @property
    def in_features(self) -> int:
        return self.shape[1]

    @property
    def out_features(self) -> int:
        return self.shape[0]

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

    def as_array(self) -> nn.Module:
        signs = self.dense_signs().flatten(1)
        return BinaryArray(signs, self.scale, self.offset, self.bias, self.grid(), None)


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


def packed_binary(layer: BinaryLayer) -> PackedBinary:
    """`layer` as it is now, in few bits.

    Raises:
        InputError: it has seen no input yet, or its step is not above zero.
    """
    kind = PackedBinaryConv2d if isinstance(layer, BinaryConv2d) else PackedBinaryLinear
    found = kind.pack(layer, ())
    assert found is not None
    return found
