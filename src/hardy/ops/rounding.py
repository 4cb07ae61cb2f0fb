"""Rounding to a uniform grid, group by group along the input dimension."""

import torch


def grouped(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """(..., in) -> (..., groups, group_size), the last group padded with zeros."""
    padding = -weight.shape[-1] % group_size
    return torch.nn.functional.pad(weight, (0, padding)).unflatten(-1, (-1, group_size))


def ungrouped(groups: torch.Tensor, length: int) -> torch.Tensor:
    """(..., groups, group_size) -> (..., length): the inverse of `grouped`, without its padding."""
    return groups.flatten(-2)[..., :length]


FLOAT16_SMALLEST = 2.0**-24


def float16_scale(scale: torch.Tensor) -> torch.Tensor:
    """`scale` rounded to float16, as float32; a positive one that would become zero is float16's smallest number.

    So the nearest point of the finest grid that can be stored is taken, and not zero for a whole group at once. A
    scale beyond 65504 becomes infinite.
    """
    return torch.where(scale > 0, scale.half().float().clamp(min=FLOAT16_SMALLEST), 0)


def uniform_grid(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The min-max grid of each group, (..., groups, 1): scale (a float16 value) and integer zero point.

    Codes 0..2^bits - 1 stand for `(code - zero_point) * scale`; the grid always holds zero. A group of zeros has the
    scale 0, any other at least float16's smallest number (6e-8): see `float16_scale`.
    """
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    high = groups.amax(-1, keepdim=True).clamp(min=0)
    scale = float16_scale((high - low) / (2**bits - 1))
    zero_point = torch.where(scale > 0, (-low / scale).round(), 0).clamp(0, 2**bits - 1)
    return scale, zero_point


def symmetric_grid(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The absmax grid of each group, (..., groups, 1): codes -(2^(bits-1) - 1)..2^(bits-1) - 1, no zero point.

    Returned in the form of `uniform_grid`: the zero point is the middle code and the lowest code is not used.
    """
    largest = 2 ** (bits - 1) - 1
    scale = float16_scale(groups.abs().amax(-1, keepdim=True) / largest)
    return scale, torch.full_like(scale, largest + 1)


def round_to_grid(groups: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest codes, (..., groups, group_size) float32 integers in 0..2^bits - 1; ties go to even."""
    steps = torch.where(scale > 0, groups / scale, 0)
    return (steps.round() + zero_point).clamp(0, 2**bits - 1)
