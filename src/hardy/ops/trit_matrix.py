"""A matrix of trit-planes in the form that products read: two bits per trit, sixteen rows side by side.

A line of 64 bytes holds four consecutive inputs (a quad) of 16 consecutive rows: byte 4 * row + input. Each byte has
four fields of two bits, the lowest first, for codes trit + 1:

- one plane: the fields are four quads, so that a line covers 16 inputs;
- two planes: the fields are quad 0 of plane 0, quad 0 of plane 1, quad 1 of plane 0, quad 1 of plane 1 (8 inputs);
- three planes: for each group first the lines of planes 0 and 1 as above, then those of plane 2.

The lines of four blocks of 16 rows (a superblock; the last may have fewer) take turns, so that products read memory in
one stream: a superblock is (groups, lines, blocks, 64) bytes of codes and (groups, blocks, planes, 16) scales.

One masked line meets one broadcast of four activations in an instruction that adds four products of bytes per row; the
two bits need no table and no division. Groups are filled up to whole lines and rows to 16 with trits of zero.
"""

import dataclasses

import torch

from hardy.errors import InputError
from hardy.ops import kernels

ROWS = 16
LINE = 64
BLOCKS = 4
SUPERBLOCK = ROWS * BLOCKS
# Weights that are unpacked at a time, so that nothing of the size of the dense matrix is ever made.
AT_A_TIME = 2**21
_HUGE_PAGE = 2**21  # bytes


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
        if not 0 <= begin < end <= self.rows or begin % SUPERBLOCK or (end % SUPERBLOCK and end != self.rows):
            raise InputError(f"rows come in 64s of {self.rows}, got {begin} to {end}")
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
    if min(rows, width, group_size) < 1:
        raise InputError(f"rows, width and group_size must be at least 1, got {rows}, {width} and {group_size}")
    blocks, groups = -(-rows // ROWS), -(-width // group_size)
    return blocks * groups * lines_per_group(group_size, planes) * LINE, blocks * groups * planes * ROWS


def empty_codes(size: int, device: torch.device) -> torch.Tensor:
    """Bytes to pack codes into, on CPU in huge pages: a product that reads from memory is a tenth faster for them."""
    codes = torch.empty(size, dtype=torch.uint8, device=device)
    module = kernels.extension()
    if module is not None and device.type == "cpu" and size >= _HUGE_PAGE:
        module.advise_huge_pages(codes)
    return codes


def lines_per_group(group_size: int, planes: int) -> int:
    """Lines that a group of a block takes."""
    inputs = padded_group(group_size, planes)
    return {1: inputs // 16, 2: inputs // 8, 3: inputs // 8 + inputs // 16}[planes]


def padded_group(group_size: int, planes: int) -> int:
    """Inputs of a group filled up to whole lines."""
    step = 8 if planes == 2 else 16
    return -(-group_size // step) * step


def row_ranges(rows: int, weights_per_row: int) -> list[tuple[int, int]]:
    """Ranges of rows of about `AT_A_TIME` weights, each beginning at a multiple of 64."""
    step = max(1, AT_A_TIME // (SUPERBLOCK * weights_per_row)) * SUPERBLOCK
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


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
    for begin, end in row_ranges(rows, width * planes):
        part = _packed_codes(trits[:, begin:end], width)
        codes[begin * per_row : begin * per_row + len(part)] = part
    padded = torch.nn.functional.pad(halves, (0, 0, 0, -rows % ROWS)).unflatten(1, (-1, ROWS))
    blocks = padded.permute(1, 3, 0, 2)  # (block, group, plane, row)
    return TritMatrix(
        codes=codes, scales=_take_turns(blocks, 2), rows=rows, width=width, group_size=group_size, planes=planes
    )


def unpack(matrix: TritMatrix) -> tuple[torch.Tensor, torch.Tensor]:
    """What `pack` was given: trits (planes, rows, groups, group_size), zero in padding; scales (..., groups, 1).

    The trits take eight bits each; `TritMatrix.parts` says how to do it in pieces.
    """
    trits = _unpacked_codes(matrix).sub_(1)
    return trits[:, : matrix.rows, :, : matrix.group_size], row_scales(matrix)[..., None]


def row_scales(matrix: TritMatrix) -> torch.Tensor:
    """Scales (planes, rows, groups), float16."""
    groups = -(-matrix.width // matrix.group_size)
    blocks = _in_order(matrix.scales, (groups,), (matrix.planes, ROWS))  # (block, group, plane, row)
    return blocks.permute(2, 0, 3, 1).flatten(1, 2)[:, : matrix.rows]


def dequantize(matrix: TritMatrix, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The dense matrix (rows, width), summed over the planes in float32."""
    dense = torch.empty(matrix.rows, matrix.width, dtype=dtype, device=matrix.codes.device)
    for begin, end in matrix.parts():
        trits, scales = unpack(matrix.rows_at(begin, end))
        dense[begin:end] = (trits * scales.float()).sum(0).flatten(1)[:, : matrix.width]
    return dense


def _packed_codes(trits: torch.Tensor, width: int) -> torch.Tensor:
    """(planes, rows, groups, group_size) int8 -> the flat codes of these rows."""
    planes, rows, groups, group_size = trits.shape
    inside = torch.arange(groups * group_size, device=trits.device).view(groups, group_size) < width
    filled = torch.nn.functional.pad(
        trits.contiguous() * inside, (0, padded_group(group_size, planes) - group_size, 0, 0, 0, -rows % ROWS)
    )
    # Four codes at a time, one in each byte of an int32: shifts by up to six bits stay in their bytes.
    quads = filled.add_(1).view(torch.int32).unflatten(1, (-1, ROWS))  # (plane, block, row, group, quad)
    lines = []
    if planes > 1:
        pair = quads[:2].unflatten(-1, (-1, 2))
        lines.append(pair[0, ..., 0] | pair[1, ..., 0] << 2 | pair[0, ..., 1] << 4 | pair[1, ..., 1] << 6)
    if planes != 2:
        four = quads[-1].unflatten(-1, (-1, 4))
        lines.append(four[..., 0] | four[..., 1] << 2 | four[..., 2] << 4 | four[..., 3] << 6)
    return _take_turns(torch.cat(lines, -1).permute(0, 2, 3, 1), 3).view(torch.uint8)


def _unpacked_codes(matrix: TritMatrix) -> torch.Tensor:
    """Codes (planes, rows, groups, inputs) int8, with the padding of rows and inputs."""
    planes, groups = matrix.planes, -(-matrix.width // matrix.group_size)
    ordered = _in_order(matrix.codes.view(torch.int32), (groups, lines_per_group(matrix.group_size, planes)), (ROWS,))
    lines = ordered.permute(0, 3, 1, 2)  # (block, row, group, line), four codes in each of four fields
    fields = [(lines >> shift) & 0x03030303 for shift in (0, 2, 4, 6)]
    pairs = {1: 0, 2: lines.shape[-1], 3: lines.shape[-1] // 3 * 2}[planes]
    found = []
    if planes > 1:
        found += [torch.stack([fields[plane], fields[plane + 2]], -1)[..., :pairs, :].flatten(-2) for plane in (0, 1)]
    if planes != 2:
        found.append(torch.stack(fields, -1)[..., pairs:, :].flatten(-2))
    return torch.stack(found).flatten(1, 2).view(torch.int8)


def _take_turns(blocks: torch.Tensor, last: int) -> torch.Tensor:
    """(blocks, ...) flat, four blocks at a time, which take turns behind the dimension before `last`."""
    whole = len(blocks) // BLOCKS * BLOCKS
    parts = [blocks[:whole].unflatten(0, (-1, BLOCKS)), blocks[None, whole:]] if whole else [blocks[None]]
    return torch.cat([part.movedim(1, last).flatten() for part in parts])


def _in_order(flat: torch.Tensor, before: tuple[int, ...], behind: tuple[int, ...]) -> torch.Tensor:
    """(blocks, *before, *behind): the inverse of `_take_turns`, whose blocks stood between the two."""
    size = torch.Size((*before, *behind)).numel()
    whole = len(flat) // size // BLOCKS * BLOCKS
    parts = [
        part.view(-1, *before, blocks, *behind).movedim(1 + len(before), 1).flatten(0, 1)
        for part, blocks in ((flat[: whole * size], BLOCKS), (flat[whole * size :], len(flat) // size - whole))
        if len(part)
    ]
    return torch.cat(parts)


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
