"""A linear layer whose weight is codes on a uniform grid, packed without gaps: small on disk and in memory.

There is no kernel for it: every forward makes the dense weight for a moment. Use it to store and ship what
`RoundToNearest` and its kin found; `TritLinear` is the layer that is fast.
"""

from typing import Any

import torch
from torch import nn

from hardy.core.registry import register
from hardy.errors import InputError
from hardy.ops.packing import pack_codes, unpack_codes
from hardy.ops.rounding import grouped, ungrouped
from hardy.quant.packed_linear import PackedLinear
from hardy.quant.round_to_nearest import GridWeight


@register
class GridLinear(PackedLinear):
    """`x @ weight.T + bias` for a weight on a grid; it computes in the dtype of the input.

    What is stored: `codes` (ceil(out * in * bits / 8),) uint8, row after row without gaps; `scales` (out, groups)
    float16; `zero_points` (ceil(out * groups * bits / 8),) uint8, likewise, unless the grid is symmetric; and `bias`.
    The weight is frozen. Casting the layer casts the bias only.

    Args:
        in_features, out_features: as for `torch.nn.Linear`.
        bits: per code, 2 to 8.
        group_size: inputs that share a scale; None for all of a row.
        symmetric: whether there are no zero points.
        bias: whether there is one.
        dtype: of the bias.
        device: where to make the tensors.
    """

    holds = GridWeight

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: int,
        group_size: int | None = 128,
        symmetric: bool = False,
        bias: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits_per_code = in_features, out_features, bits
        self.group_size = group_size or in_features
        self.symmetric = symmetric
        self.groups = -(-in_features // self.group_size)

        def empty(*shape: int, dtype: torch.dtype | None) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.register_buffer("codes", empty(-(-out_features * in_features * bits // 8), dtype=torch.uint8))
        self.register_buffer("scales", empty(out_features, self.groups, dtype=torch.float16))
        zero_points = empty(-(-out_features * self.groups * bits // 8), dtype=torch.uint8)
        self.register_buffer("zero_points", None if symmetric else zero_points)
        self.register_parameter("bias", nn.Parameter(empty(out_features, dtype=dtype)) if bias else None)

    @classmethod
    def from_stored(cls, stored: GridWeight, bias: torch.Tensor | None = None) -> "GridLinear":
        """The layer of what a quantizer found for a weight (out, in)."""
        if stored.codes.ndim != 3:
            raise InputError(f"a linear layer takes a weight (out, in), got codes {tuple(stored.codes.shape)}")
        size = min(stored.codes.shape[-1], stored.width)
        layer = cls(
            stored.width,
            len(stored.codes),
            stored.bits_per_code,
            size,
            stored.symmetric,
            bias is not None,
            None if bias is None else bias.dtype,
            stored.codes.device,
        )
        layer.codes = pack_codes(ungrouped(stored.codes, stored.width).flatten(), stored.bits_per_code)
        layer.scales = stored.scale.squeeze(-1).half()
        if not stored.symmetric:
            layer.zero_points = pack_codes(stored.zero_point.flatten(), stored.bits_per_code)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())
        return layer

    def describe(self) -> dict[str, Any]:
        return {"bits": self.bits_per_code, "group_size": self.group_size, "symmetric": self.symmetric}

    def grid(self) -> GridWeight:
        """The weight as its quantizer gave it.

        Raises:
            InputError: a stored tensor has another dtype or shape than this layer's.
        """
        shape = (self.out_features, self.groups)
        if self.scales.shape != shape or self.scales.dtype != torch.float16:
            raise InputError(f"scales must be float16 {shape}, got {self.scales.dtype} {tuple(self.scales.shape)}")
        scale = self.scales.float()[..., None]
        if self.zero_points is None:
            zero_point = torch.full_like(scale, 2 ** (self.bits_per_code - 1))
        else:
            points = unpack_codes(self.zero_points, self.out_features * self.groups, self.bits_per_code)
            zero_point = points.view(*shape, 1).float()
        codes = unpack_codes(self.codes, self.weights, self.bits_per_code)
        rows = grouped(codes.view(self.out_features, self.in_features), self.group_size)
        return GridWeight(rows, scale, zero_point, self.bits_per_code, self.in_features, self.symmetric)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The dense weight (out, in)."""
        return self.grid().dequantize().to(dtype)

    @property
    def bits(self) -> int:
        return 8 * sum(tensor.nbytes for tensor in (self.codes, self.scales, self.zero_points) if tensor is not None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, self.dequantize(x.dtype), bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits_per_code}, "
            f"group_size={self.group_size}, symmetric={self.symmetric}, bias={self.bias is not None}"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "GridLinear":
        self.scales = self.scales.view(torch.int16)  # moved, but not cast: less precise scales are another weight
        try:
            super()._apply(fn, recurse)
        finally:
            self.scales = self.scales.view(torch.float16)
        return self
