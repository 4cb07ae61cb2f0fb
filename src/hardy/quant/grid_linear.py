"""A linear layer whose weight is codes on a uniform grid, packed without gaps on disk: the dense weight is never made.

On CPU activations are rounded to int8 for each token and group, so that the products are whole numbers (see
`hardy.ops.grid_product`); on other devices the layer computes in the dtype of its input.
"""

from typing import Any

import torch
from torch import nn

from hardy.core.registry import register
from hardy.errors import InputError
from hardy.ops.grid_matrix import GridMatrix, pack, planes_of, unpack
from hardy.ops.grid_product import grid_product
from hardy.ops.packing import pack_codes, unpack_codes
from hardy.ops.plane_layout import empty_codes, row_ranges, unpack_vectors
from hardy.ops.rotation import check_rotation
from hardy.ops.rounding import grouped, ungrouped
from hardy.quant.prepared_linear import PreparedLinear
from hardy.quant.round_to_nearest import GridWeight


@register
class GridLinear(PreparedLinear[GridMatrix]):
    """`x @ weight.T + bias` for a weight on a grid; the output has the dtype of the input.

    What is stored: `codes` (ceil(out * in * bits / 8),) uint8, row after row without gaps; `scales` (out, groups)
    float16; `zero_points` (ceil(out * groups * bits / 8),) uint8, likewise, unless the grid is symmetric; and `bias`.
    In memory, from the first forward on, there is only the form that the product reads: codes of 2, 4, 6 or 8 bits
    (of 3 bits take 4, and so on), and a scale and a zero point of 16 bits for each group (see `PreparedLinear`).

    The weight is frozen; gradients flow to the input and the bias. Casting the layer casts the bias only.

    Args:
        in_features, out_features: as for `torch.nn.Linear`.
        bits: per code, 2 to 8.
        group_size: inputs that share a scale; None for all of a row.
        symmetric: whether there are no zero points.
        bias: whether there is one.
        dtype: of the bias.
        device: where to make the tensors.
        rotation: inputs that are turned together before the product (see `hardy.ops.rotation`); 0 for none.
    """

    holds = GridWeight
    product = grid_product

    codes: torch.Tensor | None
    scales: torch.Tensor | None
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
        rotation: int = 0,
    ) -> None:
        super().__init__()
        check_rotation(rotation)
        self.rotation = rotation
        self.in_features, self.out_features, self.bits_per_code = in_features, out_features, bits
        self.group_size = group_size or in_features
        self.symmetric = symmetric
        self.groups = -(-in_features // self.group_size)
        self.stored_names = ("codes", "scales") if symmetric else ("codes", "scales", "zero_points")

        def empty(*shape: int, dtype: torch.dtype | None) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.register_buffer("codes", empty(-(-out_features * in_features * bits // 8), dtype=torch.uint8))
        self.register_buffer("scales", empty(out_features, self.groups, dtype=torch.float16))
        zero_points = empty(-(-out_features * self.groups * bits // 8), dtype=torch.uint8)
        self.register_buffer("zero_points", None if symmetric else zero_points)
        self._empty_memory()
        self.register_parameter("bias", nn.Parameter(empty(out_features, dtype=dtype)) if bias else None)

    @classmethod
    def from_stored(cls, stored: GridWeight, bias: torch.Tensor | None = None) -> "GridLinear":
        """The layer of what a quantizer found for a weight (out, in)."""
        if stored.codes.ndim != 3:
            raise InputError(f"a linear layer takes a weight (out, in), got codes {tuple(stored.codes.shape)}")
        size, bits = min(stored.codes.shape[-1], stored.width), stored.bits_per_code
        kind = (bits, size, stored.symmetric)
        layer = cls(stored.width, len(stored.codes), *kind, device="meta", rotation=stored.rotation)
        rows = grouped(ungrouped(stored.codes, stored.width), size)
        layer.keep(pack(rows, stored.scale.squeeze(-1), stored.zero_point.squeeze(-1), stored.width, bits))
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())
        return layer

    def describe(self) -> dict[str, Any]:
        kind = {"bits": self.bits_per_code, "group_size": self.group_size, "symmetric": self.symmetric}
        return kind | self.described_rotation()

    def grid(self) -> GridWeight:
        """The weight as its quantizer gave it.

        Raises:
            InputError: a stored tensor has another dtype or shape than this layer's.
        """
        codes, scales, zero_points = unpack(self.matrix())
        scale, zero_point = scales.float()[..., None], zero_points.float()[..., None]
        return GridWeight(codes, scale, zero_point, self.bits_per_code, self.in_features, self.symmetric, self.rotation)

    def _pack(self, stored: dict[str, torch.Tensor]) -> GridMatrix:
        scales, bits, shape = stored["scales"], self.bits_per_code, (self.out_features, self.groups)
        if scales.shape != shape or scales.dtype != torch.float16:
            raise InputError(f"scales must be float16 {shape}, got {scales.dtype} {tuple(scales.shape)}")
        if not scales.isfinite().all():
            raise InputError("scales must be finite, got NaN or infinity among them: the layer is damaged")
        if self.symmetric:
            zero_points = torch.full(shape, 2 ** (bits - 1), dtype=torch.uint8, device=scales.device)
        else:
            zero_points = unpack_codes(stored["zero_points"], self.out_features * self.groups, bits).view(shape)
        # A few rows at a time, each beginning with a whole byte.
        size, _ = GridMatrix.sizes(self.out_features, self.in_features, self.group_size, planes_of(bits))
        codes, filled, numbers = empty_codes(size, scales.device), 0, []
        total = -(-self.weights * bits // 8)
        if stored["codes"].shape != (total,) or stored["codes"].dtype != torch.uint8:
            kind = stored["codes"].dtype
            raise InputError(f"codes must be {total} bytes uint8, got {kind} {tuple(stored['codes'].shape)}")
        for begin, end in self._row_ranges():
            rows = end - begin
            first, last = begin * self.in_features * bits // 8, -(-end * self.in_features * bits // 8)
            flat = unpack_codes(stored["codes"][first:last], rows * self.in_features, bits)
            grouped_rows = grouped(flat.view(rows, self.in_features), self.group_size)
            part = pack(grouped_rows, scales[begin:end], zero_points[begin:end], self.in_features, bits)
            codes[filled : filled + len(part.codes)] = part.codes
            filled += len(part.codes)
            numbers.append(part.scales)
        return self._matrix_of(codes, torch.cat(numbers))

    def _unpack(self, matrix: GridMatrix) -> dict[str, torch.Tensor]:
        packed = []
        for begin, end in self._row_ranges():
            codes, _, _ = unpack(matrix.rows_at(begin, end))
            packed.append(pack_codes(codes.flatten(1)[:, : self.in_features].flatten(), self.bits_per_code))
        scales, zero_points = unpack_vectors(matrix.scales, self.groups, 2, self.out_features)
        found = {"codes": torch.cat(packed), "scales": scales.contiguous()}
        if not self.symmetric:
            found["zero_points"] = pack_codes(zero_points.flatten(), self.bits_per_code)
        return found

    def _matrix_of(self, codes: torch.Tensor, scales: torch.Tensor) -> GridMatrix:
        return GridMatrix(
            codes=codes,
            scales=scales,
            rows=self.out_features,
            width=self.in_features,
            group_size=self.group_size,
            planes=planes_of(self.bits_per_code),
        )

    def _row_ranges(self) -> list[tuple[int, int]]:
        return row_ranges(self.out_features, self.in_features * planes_of(self.bits_per_code))

    @property
    def bits(self) -> int:
        """What the weight takes on disk: codes without gaps, float16 scales and zero points."""
        codes, groups = self.weights * self.bits_per_code, self.out_features * self.groups
        points = 0 if self.symmetric else groups * self.bits_per_code
        return 8 * (-(-codes // 8) + -(-points // 8)) + 16 * groups

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits_per_code}, "
            f"group_size={self.group_size}, symmetric={self.symmetric}, bias={self.bias is not None}, "
            f"rotation={self.rotation}"
        )
