"""A matrix of trit-planes in the form that products read: two bits per trit, codes trit + 1 in `plane_layout`.

Groups and rows are filled up with trits of zero.
"""

import dataclasses

import torch

from hardy.errors import InputError
from hardy.ops.plane_layout import (
    ROWS,
    check_rows,
    empty_codes,
    lengths,
    pack_planes,
    pack_vectors,
    row_ranges,
    unpack_planes,
    unpack_vectors,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TritMatrix:
    """A (rows, width) matrix of trit-planes, packed for `hardy.ops.trit_product`.

    Args:
        codes: uint8, flat and contiguous.
        scales: float16, flat and contiguous.
        rows, width: output and input features.
        group_size: inputs that share a scale.
        planes: 1 to 3.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    rows: int
    width: int
    group_size: int
    planes: int

    def __post_init__(self) -> None:
        codes, scales = sizes(self.rows, self.width, self.group_size, self.planes)
        for name, tensor, size, dtype in (
            ("codes", self.codes, codes, torch.uint8),
            ("scales", self.scales, scales, torch.float16),
        ):
            if tensor.shape != (size,) or tensor.dtype != dtype or not tensor.is_contiguous():
                raise InputError(f"{name} must be {size} contiguous {dtype}, got {tensor.dtype} {_shape(tensor)}")
        if self.codes.device != self.scales.device:
            raise InputError(f"codes are on {self.codes.device} and scales on {self.scales.device}")

    @property
    def bits_per_weight(self) -> float:
        """What this form takes in memory, scales and padding counted."""
        return 8 * (self.codes.numel() + 2 * self.scales.numel()) / (self.rows * self.width)

    def rows_at(self, begin: int, end: int) -> "TritMatrix":
        """The rows from `begin` to `end`, without a copy; both are multiples of 64, or `end` is the last.

        Raises:
            InputError: they are not.
        """
        check_rows(begin, end, self.rows)
        cut = [sizes(rows, self.width, self.group_size, self.planes) if rows else (0, 0) for rows in (begin, end)]
        (codes, scales), (codes_end, scales_end) = cut
        return dataclasses.replace(
            self, codes=self.codes[codes:codes_end], scales=self.scales[scales:scales_end], rows=end - begin
        )

    def parts(self) -> list[tuple[int, int]]:
        """Ranges of rows of about `AT_A_TIME` weights, as `rows_at` takes them."""
        return row_ranges(self.rows, self.width * self.planes)


def sizes(rows: int, width: int, group_size: int, planes: int) -> tuple[int, int]:
    """How many codes, in bytes, and scales a matrix has.

    Raises:
        InputError: there is no such matrix.
    """
    if planes not in (1, 2, 3):
        raise InputError(f"planes must be 1, 2 or 3, got {planes!r}")
    return lengths(rows, width, group_size, planes, planes)


def float16_exactly(scales: torch.Tensor) -> torch.Tensor:
    """`scales` as float16.

    Raises:
        InputError: a scale is not finite or no float16 number: it would be rounded, and the weights with it.
    """
    halves = scales.to(torch.float16)
    if not torch.isfinite(halves).all() or not torch.equal(halves.to(scales.dtype), scales):
        raise InputError(f"scales must be finite float16 numbers, got {scales.dtype} with others among them")
    return halves


def pack(trits: torch.Tensor, scales: torch.Tensor, width: int) -> TritMatrix:
    """Trits and scales, as `hardy.quant.trit_planes.fit` gives them, in the form for products.

    Args:
        trits: (planes, rows, groups, group_size) int8, of -1, 0 and 1.
        scales: (planes, rows, groups, 1) or (planes, rows, groups), floats with float16 values.
        width: inputs, without the last group's padding, whose trits are ignored.

    Raises:
        InputError: shapes do not fit together, a trit is none, or a scale is no float16 number.
    """
    if trits.ndim != 4 or trits.dtype != torch.int8:
        raise InputError(f"trits must be int8 (planes, rows, groups, group_size), got {trits.dtype} {_shape(trits)}")
    planes, rows, groups, group_size = trits.shape
    bytes_of_codes, _ = sizes(rows, width, group_size, planes)
    if groups != -(-width // group_size):
        raise InputError(f"{width} inputs make {-(-width // group_size)} groups of {group_size}, got {groups}")
    if scales.shape not in ((planes, rows, groups, 1), (planes, rows, groups)):
        raise InputError(f"scales must be {(planes, rows, groups, 1)} for these trits, got {_shape(scales)}")
    if trits.min() < -1 or trits.max() > 1:
        raise InputError(f"trits are -1, 0 and 1, got values from {trits.min()} to {trits.max()}")
    halves = float16_exactly(scales).reshape(planes, rows, groups)
    codes = empty_codes(bytes_of_codes, trits.device)
    per_row = bytes_of_codes // -(-rows // ROWS) // ROWS
    inside = torch.arange(groups * group_size, device=trits.device).view(groups, group_size) < width
    for begin, end in row_ranges(rows, width * planes):
        part = pack_planes(trits[:, begin:end] * inside + 1, 1)
        codes[begin * per_row : begin * per_row + len(part)] = part
    return TritMatrix(
        codes=codes, scales=pack_vectors(halves), rows=rows, width=width, group_size=group_size, planes=planes
    )


def unpack(matrix: TritMatrix) -> tuple[torch.Tensor, torch.Tensor]:
    """What `pack` was given: trits (planes, rows, groups, group_size), zero in padding; scales (..., groups, 1).

    The trits take eight bits each; `TritMatrix.parts` says how to do it in pieces.
    """
    groups = -(-matrix.width // matrix.group_size)
    trits = unpack_planes(matrix.codes, groups, matrix.group_size, matrix.planes).sub_(1)
    return trits[:, : matrix.rows, :, : matrix.group_size], row_scales(matrix)[..., None]


def row_scales(matrix: TritMatrix) -> torch.Tensor:
    """Scales (planes, rows, groups), float16."""
    groups = -(-matrix.width // matrix.group_size)
    return unpack_vectors(matrix.scales, groups, matrix.planes, matrix.rows)


def dequantize(matrix: TritMatrix, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The dense matrix (rows, width), summed over the planes in float32."""
    dense = torch.empty(matrix.rows, matrix.width, dtype=dtype, device=matrix.codes.device)
    for begin, end in matrix.parts():
        trits, scales = unpack(matrix.rows_at(begin, end))
        dense[begin:end] = (trits * scales.float()).sum(0).flatten(1)[:, : matrix.width]
    return dense


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
