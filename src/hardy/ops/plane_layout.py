"""The layout of packed matrices: planes of two bits a weight, sixteen rows side by side, as products read them.

A line of 64 bytes holds four consecutive inputs (a quad) of 16 consecutive rows: byte 4 * row + input. Each byte has
four fields of two bits, the lowest first:

- one plane: the fields are four quads, so that a line covers 16 inputs;
- two planes: the fields are quad 0 of plane 0, quad 0 of plane 1, quad 1 of plane 0, quad 1 of plane 1 (8 inputs);
- three planes: for each group first the lines of planes 0 and 1 as above, then those of plane 2;
- four planes: for each group the lines of planes 0 and 1, then those of planes 2 and 3.

The lines of four blocks of 16 rows (a superblock; the last may have fewer) take turns, so that products read memory in
one stream: a superblock is (groups, lines, blocks, 64) bytes of codes and (groups, blocks, vectors, 16) numbers beside
them, such as scales.

One masked line meets one broadcast of four activations in an instruction that adds four products of bytes per row; the
two bits need no table and no division. Groups are filled up to whole lines and rows to 16 with a code of the caller's
choice.
"""

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


def lengths(rows: int, width: int, group_size: int, planes: int, vectors: int) -> tuple[int, int]:
    """How many codes, in bytes, and numbers beside them a matrix has.

    Raises:
        InputError: a size is not positive.
    """
    if min(rows, width, group_size) < 1:
        raise InputError(f"rows, width and group_size must be at least 1, got {rows}, {width} and {group_size}")
    blocks, groups = -(-rows // ROWS), -(-width // group_size)
    return blocks * groups * lines_per_group(group_size, planes) * LINE, blocks * groups * vectors * ROWS


def lines_per_group(group_size: int, planes: int) -> int:
    """Lines that a group of a block takes."""
    inputs = padded_group(group_size, planes)
    return planes // 2 * (inputs // 8) + planes % 2 * (inputs // 16)


def padded_group(group_size: int, planes: int) -> int:
    """Inputs of a group filled up to whole lines."""
    step = 16 if planes % 2 else 8
    return -(-group_size // step) * step


def row_ranges(rows: int, weights_per_row: int) -> list[tuple[int, int]]:
    """Ranges of rows of about `AT_A_TIME` weights, each beginning at a multiple of 64."""
    step = max(1, AT_A_TIME // (SUPERBLOCK * weights_per_row)) * SUPERBLOCK
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


def check_rows(begin: int, end: int, rows: int) -> None:
    """Raise `InputError` unless rows `begin` to `end` of so many can be cut out without a copy."""
    if not 0 <= begin < end <= rows or begin % SUPERBLOCK or (end % SUPERBLOCK and end != rows):
        raise InputError(f"rows come in 64s of {rows}, got {begin} to {end}")


def empty_codes(size: int, device: torch.device) -> torch.Tensor:
    """Bytes to pack codes into, on CPU in huge pages: a product that reads from memory is a tenth faster for them."""
    codes = torch.empty(size, dtype=torch.uint8, device=device)
    module = kernels.extension()
    if module is not None and device.type == "cpu" and size >= _HUGE_PAGE:
        module.advise_huge_pages(codes)
    return codes


def pack_planes(codes: torch.Tensor, fill: int) -> torch.Tensor:
    """Codes 0..3, (planes, rows, groups, group_size) int8, as the flat bytes of these rows, filled up with `fill`."""
    planes, rows, _, group_size = codes.shape
    padding = (0, padded_group(group_size, planes) - group_size, 0, 0, 0, -rows % ROWS)
    filled = torch.nn.functional.pad(codes.contiguous(), padding, value=fill)
    # Four codes at a time, one in each byte of an int32: shifts by up to six bits stay in their bytes.
    quads = filled.view(torch.int32).unflatten(1, (-1, ROWS))  # (plane, block, row, group, quad)
    lines = []
    for plane in range(0, planes - 1, 2):
        pair = quads[plane : plane + 2].unflatten(-1, (-1, 2))
        lines.append(pair[0, ..., 0] | pair[1, ..., 0] << 2 | pair[0, ..., 1] << 4 | pair[1, ..., 1] << 6)
    if planes % 2:
        four = quads[-1].unflatten(-1, (-1, 4))
        lines.append(four[..., 0] | four[..., 1] << 2 | four[..., 2] << 4 | four[..., 3] << 6)
    return take_turns(torch.cat(lines, -1).permute(0, 2, 3, 1), 3).view(torch.uint8)


def unpack_planes(codes: torch.Tensor, groups: int, group_size: int, planes: int) -> torch.Tensor:
    """What `pack_planes` was given, (planes, rows, groups, inputs) int8, with the padding of rows and inputs."""
    ordered = in_order(codes.view(torch.int32), (groups, lines_per_group(group_size, planes)), (ROWS,))
    lines = ordered.permute(0, 3, 1, 2)  # (block, row, group, line), four codes in each of four fields
    fields = [(lines >> shift) & 0x03030303 for shift in (0, 2, 4, 6)]
    found, at, pairs = [], 0, padded_group(group_size, planes) // 8
    for _ in range(planes // 2):
        found += [torch.stack([fields[p], fields[p + 2]], -1)[..., at : at + pairs, :].flatten(-2) for p in (0, 1)]
        at += pairs
    if planes % 2:
        found.append(torch.stack(fields, -1)[..., at:, :].flatten(-2))
    return torch.stack(found).flatten(1, 2).view(torch.int8)


def pack_vectors(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers beside the codes, (vectors, rows, groups), flat, rows filled up with zeros."""
    padded = torch.nn.functional.pad(numbers, (0, 0, 0, -numbers.shape[1] % ROWS)).unflatten(1, (-1, ROWS))
    return take_turns(padded.permute(1, 3, 0, 2), 2)  # (block, group, vector, row)


def unpack_vectors(flat: torch.Tensor, groups: int, vectors: int, rows: int) -> torch.Tensor:
    """What `pack_vectors` was given: (vectors, rows, groups)."""
    blocks = in_order(flat, (groups,), (vectors, ROWS))  # (block, group, vector, row)
    return blocks.permute(2, 0, 3, 1).flatten(1, 2)[:, :rows]


def take_turns(blocks: torch.Tensor, last: int) -> torch.Tensor:
    """(blocks, ...) flat, four blocks at a time, which take turns behind the dimension before `last`."""
    whole = len(blocks) // BLOCKS * BLOCKS
    parts = [blocks[:whole].unflatten(0, (-1, BLOCKS)), blocks[None, whole:]] if whole else [blocks[None]]
    return torch.cat([part.movedim(1, last).flatten() for part in parts])


def in_order(flat: torch.Tensor, before: tuple[int, ...], behind: tuple[int, ...]) -> torch.Tensor:
    """(blocks, *before, *behind): the inverse of `take_turns`, whose blocks stood between the two."""
    size = torch.Size((*before, *behind)).numel()
    whole = len(flat) // size // BLOCKS * BLOCKS
    parts = [
        part.view(-1, *before, blocks, *behind).movedim(1 + len(before), 1).flatten(0, 1)
        for part, blocks in ((flat[: whole * size], BLOCKS), (flat[whole * size :], len(flat) // size - whole))
        if len(part)
    ]
    return torch.cat(parts)
