"""Convolutions and linear layers with weights of one bit and activations of one to eight, which stay packed.

The arithmetic, the same to the last bit in the torch reference here, in the compiled paths and for any number of
threads:

1. code = factor * round(clip((x - shift) / step + zero, 0, largest)), halves to even, in float32. The factor is 2 for
   the two values -step / 2 and step / 2, whose zero is a half: as codes 0 and 2 they have the whole number 1 for zero.
2. dot = sum of sign * (code - zero code) and total = sum of (code - zero code) over the window, exact; what is beyond
   the border counts as zero. `total` is the same for all channels: one shared column of ones.
3. y = scale * dot + offset * total + bias, in float32, rounded at every operation.

Source: XNOR-Net (arXiv 1603.05279) for one bit, DoReFa-Net (1606.06160) for bit planes of more.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from hardy import checks
from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.packing import pack_codes, unpack_codes


def pair(values: Sequence[int]) -> tuple[int, int]:
    """Two numbers, as height and width of a window are."""
    first, second = values
    return int(first), int(second)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """What a convolution does beside the product; the default is a linear layer.

    Args:
        kernel, stride, padding, dilation: (height, width); padding by zeros at both sides.
        groups: as for `torch.nn.Conv2d`; more than one is computed by the reference, not by a kernel.
    """

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The grid of activations: `step * (code - zero_point)` for codes 0 .. 2^bits - 1.

    Args:
        bits: 1 to 8.
        step: above 0.
        zero_point: a code, or 1/2.
        shift: (channels,), taken away from the input first; or None.
    """

    bits: int
    step: float
    zero_point: float
    shift: torch.Tensor | None = None

    @property
    def factor(self) -> int:
        """What the codes are multiplied by, so that that of zero is whole."""
        return 2 if self.zero_point % 1 else 1

    @property
    def zero_code(self) -> int:
        """The multiplied code of zero."""
        return int(self.zero_point * self.factor)

    @property
    def planes(self) -> int:
        """Bits of a multiplied code."""
        return self.bits + self.factor - 1

    def codes(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """The multiplied codes of `x`, float32; `channel` is the dimension of the channels."""
        if self.shift is not None:
            shape = [1] * x.ndim
            shape[channel] = -1
            x = x - self.shift.view(shape)
        step, zero = torch.tensor(self.step, device=x.device), self.zero_point
        return (x / step + zero).clamp(0, 2**self.bits - 1).round() * self.factor


class BinaryMatrix:
    """A weight of one bit in the form for products.

    Args:
        signs: (ceil(out * in * kernel / 8),) uint8, as `hardy.ops.packing.pack_codes` packs 0 for -1 and 1 for 1, in
            the order (out, in / groups, height, width).
        shape: of the weight, those four numbers.
        scale, offset: (out,) float32; the levels of a channel are offset - scale and offset + scale.
        bias: (out,) float32, or None.
        grid: of the activations.
        window: of the convolution.

    Raises:
        InputError: shapes do not fit together, or a step is not above zero.
    """

    def __init__(
        self,
        signs: torch.Tensor,
        shape: Sequence[int],
        scale: torch.Tensor,
        offset: torch.Tensor,
        bias: torch.Tensor | None,
        grid: Grid,
        window: Window,
    ) -> None:
        out, inputs, *_ = shape
        checks.number("step", grid.step, above=0)
        self.shape, self.grid, self.window = tuple(shape), grid, window
        bits = unpack_codes(signs, out * inputs * window.kernel[0] * window.kernel[1], 1)
        self.signs = (2 * bits.to(torch.int8) - 1).view(self.shape)
        step = torch.tensor(grid.step / grid.factor, device=scale.device)
        self.scale, self.offset = scale.float() * step, offset.float() * step
        self.bias = torch.zeros_like(self.scale) if bias is None else bias.detach().float()
        for name, values in (("scale", scale), ("offset", offset), ("bias", self.bias)):
            if values.shape != (out,):
                raise InputError(f"{name} must be ({out},), got {tuple(values.shape)}")
        self.sign_sums = grid.zero_code * self.signs.sum((1, 2, 3), dtype=torch.int64)

    @functools.cached_property
    def words(self) -> torch.Tensor:
        """(ceil(out / 8), words, 8) int64: the signs as the kernels read them, eight channels side by side.

        A row of a kernel, (width, channels in whole bytes), is filled up to whole words.
        """
        rows = F.pad((self.signs > 0).permute(0, 2, 3, 1), (0, -self.shape[1] % 8)).flatten(2)  # (out, height, bits)
        rows = F.pad(rows, (0, -rows.shape[-1] % 64)).flatten(1)
        rows = F.pad(rows, (0, 0, 0, -len(rows) % 8))
        packed = pack_codes(rows.to(torch.uint8), 1).view(torch.int64)
        return packed.unflatten(0, (-1, 8)).mT.contiguous()

    @functools.cached_property
    def arguments(self) -> tuple[Any, ...]:
        """What the kernels are told of it."""
        window, grid = self.window, self.grid
        return (
            [*window.kernel, *window.stride, *window.padding, *window.dilation],
            [grid.step, grid.zero_point, float(2**grid.bits - 1)],
            None if grid.shift is None else grid.shift.contiguous(),
            grid.factor,
            grid.zero_code,
            grid.planes,
            self.words,
            self.scale,
            self.offset,
            self.bias,
            self.sign_sums,
        )


def binary_conv(x: torch.Tensor, matrix: BinaryMatrix, *, channels_last: bool = False) -> torch.Tensor:
    """The convolution of `x` (batch, in, height, width) float32: (batch, out, height, width).

    With `channels_last` both are (batch, height, width, channels).

    Raises:
        InputError: the input has another shape or dtype, is smaller than the kernel, or holds NaN or infinity.
    """
    channels = matrix.shape[1] * matrix.window.groups
    if x.ndim != 4 or x.shape[3 if channels_last else 1] != channels or x.dtype != torch.float32:
        layout = f"(batch, height, width, {channels})" if channels_last else f"(batch, {channels}, height, width)"
        raise InputError(f"the weight takes {layout} float32, got {tuple(x.shape)} {x.dtype}")
    height, width = _output_size(x.shape[1:3] if channels_last else x.shape[2:], matrix.window)
    x = x.detach()
    if x.device.type != "cpu" or matrix.window.groups > 1 or (path := kernels.path()) is None:
        return reference(checks.finite(_INPUT, x), matrix, channels_last=channels_last)
    out = len(matrix.scale)
    shape = (len(x), height, width, out) if channels_last else (len(x), out, height, width)
    return compiled(x, matrix, path, x.new_empty(shape), channels_last=channels_last)


_INPUT = "the input of a layer with binary weights"


def compiled(
    x: torch.Tensor, matrix: BinaryMatrix, path: str, output: torch.Tensor, *, channels_last: bool = False
) -> torch.Tensor:
    """`binary_conv` on a path of `hardy.ops.kernels.paths()`, into `output`."""
    module = kernels.extension()
    assert module is not None
    threads = torch.get_num_threads()
    if not module.binary_conv(path, x.contiguous(), output, channels_last, threads, *matrix.arguments):
        checks.finite(_INPUT, x)
    return output


def reference(x: torch.Tensor, matrix: BinaryMatrix, *, channels_last: bool = False) -> torch.Tensor:
    """`binary_conv` in torch: the same bits as the compiled paths, on any device."""
    if channels_last:
        return reference(x.permute(0, 3, 1, 2), matrix).permute(0, 2, 3, 1).contiguous()
    window = matrix.window
    off = (matrix.grid.codes(x, 1) - matrix.grid.zero_code).double()  # in which all sums are exact
    options = (None, window.stride, window.padding, window.dilation, window.groups)
    dot = F.conv2d(off, matrix.signs.double(), *options).float()
    ones = off.new_ones(window.groups, *matrix.shape[1:])
    total = F.conv2d(off, ones, *options).float()
    each = len(matrix.scale) // window.groups

    def column(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None]

    total = total.repeat_interleave(each, 1)
    return column(matrix.scale) * dot + column(matrix.offset) * total + column(matrix.bias)


def _output_size(size: Sequence[int], window: Window) -> tuple[int, int]:
    found = [
        (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for length, padding, dilation, kernel, stride in zip(
            size, window.padding, window.dilation, window.kernel, window.stride, strict=True
        )
    ]
    if min(found) < 1:
        raise InputError(f"the input is {tuple(size)}, smaller than the window of {window.kernel}")
    return found[0], found[1]
