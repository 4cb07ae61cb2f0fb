"""A linear layer whose weight is trit-planes, on disk and in memory: the dense weight is never made.

Source: PTQTP (arXiv 2509.16989), whose inference on planes this is. Where we differ: activations are rounded to int8
for each token and group, so that the products are whole numbers (see `hardy.ops.trit_product`).
"""

import math
from typing import Any

import torch
from torch import nn

from hardy.core.registry import register
from hardy.errors import InputError
from hardy.ops.packing import pack_trits, unpack_trits
from hardy.ops.plane_layout import empty_codes, row_ranges
from hardy.ops.rotation import check_rotation
from hardy.ops.rounding import grouped
from hardy.ops.trit_matrix import TritMatrix, float16_exactly, pack, row_scales, unpack
from hardy.ops.trit_product import trit_product
from hardy.quant.prepared_linear import PreparedLinear
from hardy.quant.trit_planes import TritWeight


@register
class TritLinear(PreparedLinear[TritMatrix]):
    """`x @ weight.T + bias` for a weight of one to three trit-planes; the output has the dtype of the input.

    What is stored (`state_dict`): `trits` (planes, out, ceil(in / 5)) uint8, five to a byte, without the last group's
    padding; `scales` (planes, out, groups) float16; `bias` (out,), if any. New layers hold zeros for scales, to be
    loaded into.

    In memory, from the first forward or `prepare` on, there is only the form that the product reads, two bits per
    trit (see `PreparedLinear`). Casting the layer casts the bias only.

    The weight is frozen; gradients flow to the input and the bias.

    Args:
        in_features, out_features: as for `torch.nn.Linear`.
        planes: 1 to 3.
        group_size: inputs that share a scale; None for all of a row.
        bias: whether there is one.
        dtype: of the bias.
        device: where to make the tensors.
        rotation: inputs that are turned together before the product (see `hardy.ops.rotation`); 0 for none.
    """

    holds = TritWeight
    product = trit_product
    stored_names = ("trits", "scales")

    trits: torch.Tensor | None
    scales: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        planes: int = 2,
        group_size: int | None = 128,
        bias: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        rotation: int = 0,
    ) -> None:
        super().__init__()
        check_rotation(rotation)
        self.rotation = rotation
        self.in_features = in_features
        self.out_features = out_features
        self.planes = planes
        self.group_size = in_features if group_size is None else group_size
        TritMatrix.sizes(out_features, in_features, self.group_size, planes)  # refuses what there is no such matrix of
        trits, scales = self._stored_shapes()
        self.register_buffer("trits", torch.zeros(trits, dtype=torch.uint8, device=device))
        self.register_buffer("scales", torch.zeros(scales, dtype=torch.float16, device=device))
        self._empty_memory()
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)

    @classmethod
    def from_trits(
        cls,
        trits: torch.Tensor,
        scales: torch.Tensor,
        width: int,
        bias: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
        rotation: int = 0,
    ) -> "TritLinear":
        """The layer of what `hardy.quant.trit_planes.fit` found.

        Args:
            trits: (planes, out, groups, group_size) int8.
            scales: (planes, out, groups, 1), floats with float16 values.
            width: input features, without the last group's padding.
            bias: (out,).
            dtype: of the bias; its own if None.
            rotation: of the layer's input.

        Raises:
            InputError: shapes do not fit together, a trit is none, or a scale is no float16 number.
        """
        matrix = pack(trits, scales, width)
        if bias is not None and bias.shape != (matrix.rows,):
            raise InputError(f"bias must be ({matrix.rows},), got {tuple(bias.shape)}")
        sizes = (width, matrix.rows, matrix.planes, matrix.group_size)
        layer = cls(*sizes, bias is not None, dtype=dtype, device="meta", rotation=rotation)
        layer.keep(matrix)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().to(dtype=dtype or bias.dtype, copy=True))
        return layer

    @classmethod
    def from_stored(cls, stored: TritWeight, bias: torch.Tensor | None) -> "TritLinear":
        return cls.from_trits(stored.trits, stored.scales, stored.width, bias, rotation=stored.rotation)

    def describe(self) -> dict[str, Any]:
        return {"planes": self.planes, "group_size": self.group_size, **self.described_rotation()}

    def _pack(self, stored: dict[str, torch.Tensor]) -> TritMatrix:
        trits, scales = stored["trits"], stored["scales"]
        shape_of_trits, shape_of_scales = self._stored_shapes()
        if trits.shape != shape_of_trits or trits.dtype != torch.uint8:
            raise InputError(
                f"trits must be uint8 {shape_of_trits}, got {trits.dtype} {tuple(trits.shape)}; "
                "five are packed to a byte"
            )
        if scales.shape != shape_of_scales or scales.dtype not in (torch.float16, torch.float32):
            raise InputError(
                f"scales must be float16 {shape_of_scales}, got {scales.dtype} {tuple(scales.shape)}; "
                "a narrower type would have rounded them"
            )
        halves = float16_exactly(scales)
        # A few rows at a time: trits of a byte each would take four times the memory of what is made.
        size, _ = TritMatrix.sizes(self.out_features, self.in_features, self.group_size, self.planes)
        codes, filled, numbers = empty_codes(size, trits.device), 0, []
        for begin, end in self._row_ranges():
            rows = grouped(unpack_trits(trits[:, begin:end], self.in_features), self.group_size)
            part = pack(rows, halves[:, begin:end], self.in_features)
            codes[filled : filled + len(part.codes)] = part.codes
            filled += len(part.codes)
            numbers.append(part.scales)
        return self._matrix_of(codes, torch.cat(numbers))

    def _unpack(self, matrix: TritMatrix) -> dict[str, torch.Tensor]:
        parts = []
        for begin, end in self._row_ranges():
            rows, _ = unpack(matrix.rows_at(begin, end))
            parts.append(pack_trits(rows.flatten(2)[..., : self.in_features]))
        return {"trits": torch.cat(parts, 1), "scales": row_scales(matrix).contiguous()}

    def _matrix_of(self, codes: torch.Tensor, scales: torch.Tensor) -> TritMatrix:
        return TritMatrix(
            codes=codes,
            scales=scales,
            rows=self.out_features,
            width=self.in_features,
            group_size=self.group_size,
            planes=self.planes,
        )

    @property
    def bits(self) -> int:
        """What the weight takes on disk: trits five to a byte and float16 scales."""
        trits, scales = self._stored_shapes()
        return 8 * math.prod(trits) + 16 * math.prod(scales)

    @property
    def bits_per_weight_in_memory(self) -> float:
        """What the weight takes in the form for products: two bits per trit, float16 scales, and padding."""
        codes, scales = TritMatrix.sizes(self.out_features, self.in_features, self.group_size, self.planes)
        return (8 * codes + 16 * scales) / self.weights

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, planes={self.planes}, "
            f"group_size={self.group_size}, bias={self.bias is not None}, rotation={self.rotation}"
        )

    def _stored_shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        groups = -(-self.in_features // self.group_size)
        return (
            (self.planes, self.out_features, -(-self.in_features // 5)),
            (self.planes, self.out_features, groups),
        )

    def _row_ranges(self) -> list[tuple[int, int]]:
        return row_ranges(self.out_features, self.in_features * self.planes)
