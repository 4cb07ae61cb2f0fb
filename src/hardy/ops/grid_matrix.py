"""A matrix of codes on a uniform grid in the form that products read: digits to base 4 in `plane_layout`.

A code of 2, 4, 6 or 8 bits is one to four digits of two bits, each a plane; codes of other widths take the next wider
form in memory. Beside them stand a float16 scale and zero point for each group of a row: a weight is
`(code - zero_point) * scale`.
"""

import torch

from hardy.errors import InputError
from hardy.ops.packed_matrix import PackedMatrix
from hardy.ops.plane_layout import (
    BLOCKS,
    LINE,
    ROWS,
    empty_codes,
    lengths,
    lines_per_group,
    pack_planes,
    pack_vectors,
    row_ranges,
    unpack_planes,
    unpack_vectors,
)
from hardy.ops.rounding import grouped

LONGEST_GROUP = 2**31 // (255 * 127)
"""Inputs that may share a scale: sums of codes times activations are of 32 bits."""


class GridMatrix(PackedMatrix):
    """A (rows, width) matrix on a grid, packed for `hardy.ops.grid_product`; planes are digits of a code, 1 to 4."""

    @staticmethod
    def sizes(rows: int, width: int, group_size: int, planes: int) -> tuple[int, int]:
        if planes not in (1, 2, 3, 4):
            raise InputError(f"codes have 1 to 4 digits of two bits, got {planes!r}")
        if group_size > LONGEST_GROUP:
            raise InputError(f"groups are of at most {LONGEST_GROUP} inputs, got {group_size}")
        return lengths(rows, width, group_size, planes, 2)

    def values(self) -> torch.Tensor:
        codes, scales, zero_points = unpack(self)
        return (codes - zero_points.float()[..., None]) * scales.float()[..., None]


def planes_of(bits: int) -> int:
    """Digits of two bits that codes of `bits` bits, 2 to 8, take."""
    return -(-bits // 2)


def pack(codes: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, width: int, bits: int) -> GridMatrix:
    """Codes, scales and zero points, as `hardy.quant.RoundToNearest` finds them, in the form for products.

    Args:
        codes: (rows, groups, group_size) uint8, below 2^bits.
        scales, zero_points: (rows, groups); float16 numbers, and integers below 2^bits.
        width: inputs, without the last group's padding, whose codes are ignored.
        bits: of a code, 2 to 8.

    Raises:
        InputError: shapes do not fit together, or there is no such matrix.
    """
    if codes.ndim != 3 or codes.dtype != torch.uint8:
        raise InputError(f"codes must be uint8 (rows, groups, group_size), got {codes.dtype} {tuple(codes.shape)}")
    rows, groups, group_size = codes.shape
    planes = planes_of(bits)
    size, _ = GridMatrix.sizes(rows, width, group_size, planes)
    if groups != -(-width // group_size) or not scales.shape == zero_points.shape == (rows, groups):
        raise InputError(
            f"{width} inputs make {-(-width // group_size)} groups of {group_size} with a scale and a zero point each, "
            f"got codes {tuple(codes.shape)}, scales {tuple(scales.shape)}, zero points {tuple(zero_points.shape)}"
        )
    packed, filled = empty_codes(size, codes.device), 0
    inside = torch.arange(groups * group_size, device=codes.device).view(groups, group_size) < width
    places = torch.arange(0, 2 * planes, 2, dtype=torch.uint8, device=codes.device).view(-1, 1, 1, 1)
    for begin, end in row_ranges(rows, width * planes):
        digits = ((codes[begin:end] * inside) >> places) & 3
        part = pack_planes(digits.view(torch.int8), 0)
        packed[filled : filled + len(part)] = part
        filled += len(part)
    vectors = torch.stack([scales.to(torch.float16), zero_points.to(torch.float16)])
    return GridMatrix(
        codes=packed, scales=pack_vectors(vectors), rows=rows, width=width, group_size=group_size, planes=planes
    )


def round_rows(weight: torch.Tensor, bits: int, group_size: int) -> GridMatrix:
    """The matrix nearest to `weight` (rows, width): symmetric round-to-nearest in groups, a few rows at a time.

    For an embedding or a head that was left dense: at 8 bits in groups of 32 its rows are off by 0.3 % about.
    """
    rows, width = weight.shape
    planes = planes_of(bits)
    size, count = GridMatrix.sizes(rows, width, group_size, planes)
    codes = empty_codes(size, weight.device)
    scales = torch.empty(count, dtype=torch.float16, device=weight.device)
    middle, at, beside = 2 ** (bits - 1), 0, 0
    for begin, end in row_ranges(rows, width * planes):
        groups = grouped(weight[begin:end].float(), group_size)
        scale = (groups.abs().amax(-1) / (middle - 1)).clamp_min(2.0**-24).half()
        found = (groups / scale.float()[..., None]).round().clamp(-middle, middle - 1) + middle
        part = pack(found.to(torch.uint8), scale, torch.full_like(scale, middle), width, bits)
        codes[at : at + len(part.codes)] = part.codes
        scales[beside : beside + len(part.scales)] = part.scales
        at, beside = at + len(part.codes), beside + len(part.scales)
    return GridMatrix(codes=codes, scales=scales, rows=rows, width=width, group_size=group_size, planes=planes)


def unpack(matrix: GridMatrix) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `pack` was given: codes (rows, groups, group_size) uint8; scales, zero points (rows, groups) float16."""
    digits = unpack_planes(matrix.codes, matrix.groups, matrix.group_size, matrix.planes).view(torch.uint8)
    codes = sum((digits[p] << 2 * p for p in range(1, matrix.planes)), digits[0])
    scales, zero_points = unpack_vectors(matrix.scales, matrix.groups, 2, matrix.rows)
    return codes[: matrix.rows, :, : matrix.group_size], scales, zero_points


def take_rows(matrix: GridMatrix, rows: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The dense rows (..., width) of the indices `rows` (...), as an embedding looks them up; only they are unpacked.

    Raises:
        InputError: an index is not in 0..rows - 1.
    """
    flat = rows.reshape(-1)
    if not flat.numel():
        return matrix.scales.new_empty(*rows.shape, matrix.width, dtype=dtype)
    if flat.min() < 0 or flat.max() >= matrix.rows:
        raise InputError(f"rows are 0..{matrix.rows - 1}, got {int(flat.min())} to {int(flat.max())}")
    block, blocks = flat // ROWS, -(-matrix.rows // ROWS)
    first = block // BLOCKS * BLOCKS
    neighbours = (blocks - first).clamp_max(BLOCKS)
    lines = lines_per_group(matrix.group_size, matrix.planes)
    # Of a row: each line's four bytes, which are one of the 16 int32 of a line, and each group's two numbers.
    line = torch.arange(matrix.groups * lines, device=flat.device)
    place = ((first * matrix.groups * lines + block - first)[:, None] + line * neighbours[:, None]) * (LINE // 4)
    words = matrix.codes.view(torch.int32)[place + (flat % ROWS)[:, None]]
    group = torch.arange(matrix.groups, device=flat.device)
    beside = ((first * matrix.groups + block - first)[:, None] + group * neighbours[:, None]) * 2 * ROWS
    beside = beside + (flat % ROWS)[:, None]
    digits = unpack_planes(_one_row_to_a_block(words), matrix.groups, matrix.group_size, matrix.planes)
    digits = digits[:, ::ROWS, :, : matrix.group_size].view(torch.uint8)
    codes = sum((digits[p] << 2 * p for p in range(1, matrix.planes)), digits[0])
    scales, zero_points = matrix.scales[beside].float(), matrix.scales[beside + ROWS].float()
    values = (codes - zero_points[..., None]) * scales[..., None]
    return values.flatten(1)[:, : matrix.width].to(dtype).view(*rows.shape, matrix.width)


def _one_row_to_a_block(words: torch.Tensor) -> torch.Tensor:
    """(rows, lines) int32 as the codes of a matrix of which each is the first row of a block."""
    blocks = torch.nn.functional.pad(words[..., None], (0, ROWS - 1))  # (block, line, row)
    whole = len(blocks) // BLOCKS * BLOCKS
    turns = [
        blocks[:whole].unflatten(0, (whole // BLOCKS, BLOCKS)).transpose(1, 2).flatten(),
        blocks[whole:].transpose(0, 1).flatten(),
    ]
    return torch.cat(turns).view(torch.uint8)
