"""A matrix of trit-planes in the form that products read: two bits per trit, codes trit + 1 in `plane_layout`.

Groups and rows are filled up with trits of zero.
"""

import torch

from hardy.errors import InputError
from hardy.ops.packed_matrix import PackedMatrix
from hardy.ops.plane_layout import (
    ROWS,
    empty_codes,
    lengths,
    pack_planes,
    pack_vectors,
    row_ranges,
    unpack_planes,
    unpack_vectors,
)


class TritMatrix(PackedMatrix):
    """A (rows, width) matrix of 1 to 3 trit-planes, packed for `hardy.ops.trit_product`."""

    @staticmethod
    def sizes(rows: int, width: int, group_size: int, planes: int) -> tuple[int, int]:
        if planes not in (1, 2, 3):
            raise InputError(f"planes must be 1, 2 or 3, got {planes!r}")
        return lengths(rows, width, group_size, planes, planes)

    def values(self) -> torch.Tensor:
        trits, scales = unpack(self)
        return (trits * scales.float()).sum(0)


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
    bytes_of_codes, _ = TritMatrix.sizes(rows, width, group_size, planes)
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
    trits = unpack_planes(matrix.codes, matrix.groups, matrix.group_size, matrix.planes).sub_(1)
    return trits[:, : matrix.rows, :, : matrix.group_size], row_scales(matrix)[..., None]


def row_scales(matrix: TritMatrix) -> torch.Tensor:
    """Scales (planes, rows, groups), float16."""
    return unpack_vectors(matrix.scales, matrix.groups, matrix.planes, matrix.rows)


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
