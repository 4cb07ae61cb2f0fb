"""What packed layers of a network with binary weights have in common, those of one bit and those of eight.

Source: XNOR-Net (arXiv 1603.05279) and BWMA (2508.21524). They compute what `BinaryConv2d` and `BinaryLinear` do, up
to the order of float32 sums: the products are whole numbers.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from hardy import checks
from hardy.artefacts.packing import PackedLayer
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.ops.binary_conv import Grid, Window, pair
from hardy.quant.binary import Levels
from hardy.quant.binary_arrays import BinaryArray
from hardy.quant.binary_layers import BinaryConv2d, BinaryLayer, BinaryLinear, numeric_padding, packed_bits

FORMAT = 1


class PackedLevels(PackedLayer):
    """A layer whose weights are `scale * code + offset` and whose inputs are rounded to a grid.

    What is stored: the codes, as the subclass has them; `scale` (out,) float32, and `offset`, if there is one; `step`
    and `zero_point` of the activations, float32, and `shift` (in,), if there is one; `bias`, if any. The weight and the
    bias are frozen; gradients flow to the input. Casting the layer casts the bias only.

    Args:
        shape: of the weight, (out, in / groups, height, width).
        activation_bits: 1 to 8.
        shifted: whether each channel of the input is shifted.
        bias: whether there is one.
        window: of the convolution.
    """

    trained_as: ClassVar[type[BinaryLayer]]
    weight_bits: ClassVar[int]
    scale: torch.Tensor
    offset: torch.Tensor | None
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
        self._hold(device)
        for name, count, wanted in (
            ("scale", out, True), ("offset", out, self.weight_bits == 1),
            ("shift", self.shape[1] * window.groups, shifted),
        ):  # fmt: skip
            self.register_buffer(name, torch.zeros(count, device=device) if wanted else None)
        for name in ("step", "zero_point"):
            self.register_buffer(name, torch.zeros((), device=device))
        empty = nn.Parameter(torch.zeros(out, dtype=dtype, device=device), requires_grad=False) if bias else None
        self.register_parameter("bias", empty)

    @abc.abstractmethod
    def _hold(self, device: Any) -> None:
        """Register the buffer of the codes, empty."""

    @abc.abstractmethod
    def _take(self, levels: Levels) -> None:
        """Keep the codes of `levels`."""

    @abc.abstractmethod
    def dense_codes(self) -> torch.Tensor:
        """The codes of the weight in its shape, int8: -1 and 1, or -127 to 127."""

    @classmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, Any]]) -> PackedLevels | None:
        if not isinstance(module, cls.trained_as) or module.rule.bits != cls.weight_bits:
            return None
        rule, levels = module.activation, module.levels()
        step, zero_point = float(rule.step.detach()), float(rule.zero_point)
        if math.isnan(zero_point):
            raise InputError("has seen no input, so the step of its activations is not known; run the model once")
        checks.number("the step of its activations (a lower learning rate keeps it there)", step, above=0)
        weight = module.weight
        layer = cls._empty(module, rule.bits, rule.shift is not None, module.bias, weight.dtype, weight.device)
        layer._take(levels)
        layer.scale = levels.scale.flatten().contiguous()
        if layer.offset is not None:
            layer.offset = levels.offset.flatten().contiguous()
        layer.step, layer.zero_point = rule.step.detach().float().clone(), rule.zero_point.detach().float().clone()
        if rule.shift is not None:
            layer.shift = rule.shift.detach().float().clone()
        if module.bias is not None:
            layer.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
        return layer.train(module.training)

    @classmethod
    def _empty(cls, module: Any, bits: int, shifted: bool, bias: Any, dtype: Any, device: Any) -> PackedLevels:
        """The layer in the place of `module`, dense or in training."""
        shape = tuple(module.weight.shape)
        shape = shape if len(shape) == 4 else (*shape, 1, 1)
        return cls(shape, bits, shifted, bias is not None, cls._window(module), dtype, device)

    @classmethod
    @abc.abstractmethod
    def _window(cls, module: Any) -> Window:
        """That of the layer that is packed."""

    @classmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> PackedLevels:
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

    _dense: ClassVar[type[nn.Module]]

    def describe(self) -> dict[str, Any]:
        return {"format": FORMAT, "activation_bits": self.activation_bits, "shifted": self.shift is not None}

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """See `hardy.quant.binary_layers.packed_bits`."""
        return packed_bits(self.weight_bits, self.weights, self.shape[0])

    @property
    def bits_per_weight(self) -> float:
        """What is stored for the weights, for each."""
        return self.bits / self.weights

    def grid(self) -> Grid:
        """Of the activations.

        Raises:
            InputError: the stored step or zero point is none.
        """
        zero_point, step = float(self.zero_point), float(self.step)
        middle = 0.5 if self.activation_bits == 1 else float(2 ** (self.activation_bits - 1))
        checks.one_of("zero_point of a binary layer", zero_point, (0.0, middle))
        checks.number("step of a binary layer", step, above=0)
        return Grid(bits=self.activation_bits, step=step, zero_point=zero_point, shift=self.shift)

    @abc.abstractmethod
    def as_array(self) -> nn.Module:
        """The layer taken apart for a chip; see `BinaryArray`."""

    def dense(self, dtype: torch.dtype) -> nn.Module:
        return self.as_array().to(dtype).train(self.training)

    def extra_repr(self) -> str:
        return f"{'x'.join(map(str, self.shape))}, activation_bits={self.activation_bits}, bias={self.bias is not None}"

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLevels:
        kept = {name: tensor for name, tensor in self._buffers.items() if tensor is not None}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():  # moved, but not cast: rounded levels are another weight
            self._buffers[name] = tensor.to(self._buffers[name].device)  # pyright: ignore[reportOptionalMemberAccess]
        return self


class PackedConvolution(PackedLevels):
    """A packed 2-D convolution."""

    trained_as, _dense = BinaryConv2d, nn.Conv2d

    @classmethod
    def _window(cls, module: Any) -> Window:
        padding = module.padding if isinstance(module, BinaryConv2d) else numeric_padding(module)
        return Window(
            kernel=pair(module.kernel_size), stride=pair(module.stride), padding=pair(padding),
            dilation=pair(module.dilation), groups=module.groups,
        )  # fmt: skip

    def as_array(self) -> nn.Module:
        return BinaryArray(self.dense_codes(), self.scale, self.offset, self.bias, self.grid(), self.window)


class PackedProduct(PackedLevels):
    """A packed linear layer."""

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

    def as_array(self) -> nn.Module:
        return BinaryArray(self.dense_codes().flatten(1), self.scale, self.offset, self.bias, self.grid(), None)
