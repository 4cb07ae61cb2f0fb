"""Round-to-nearest on a uniform grid per group of weights: the baseline that every quantizer is judged against.

Source: common practice (the "RTN" rows of GPTQ, arXiv 2210.17323, and AWQ, arXiv 2306.00978). Scales are rounded to
float16 before the codes are chosen, because that is how they are stored.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from hardy.core.method import WeightMethod
from hardy.core.select import Site
from hardy.errors import InputError
from hardy.ops.rounding import FLOAT16_SMALLEST, grouped, round_to_grid, symmetric_grid, ungrouped, uniform_grid


def fit(
    weight: torch.Tensor, bits: int, group_size: int | None, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (..., groups, group_size), scale and zero point (..., groups, 1), all float32, of `weight` (..., in).

    Raises:
        InputError: a scale is beyond float16's largest number, 65504.
    """
    groups = grouped(weight, group_size or weight.shape[-1])
    grid = symmetric_grid if symmetric else uniform_grid
    scale, zero_point = grid(groups, bits)
    if torch.isinf(scale).any():
        raise InputError(f"a weight of {weight.abs().max():.3g} needs a scale beyond float16 (65504) at {bits} bits")
    return round_to_grid(groups, scale, zero_point, bits), scale, zero_point


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundToNearest(WeightMethod):
    """Replace each weight by the nearest point of its group's uniform grid.

    Args:
        bits: per code, 2 to 8.
        group_size: weights along the input dimension that share a scale; None for one scale per output channel.
        symmetric: a grid that is the same on both sides of zero, without a zero point, instead of min to max.

    The report counts what has to be stored: codes, a float16 scale per group and, unless symmetric, a zero point of
    `bits` bits per group. The last group of a row may be shorter; its padding is not stored. Where weights are so
    small that float16 cannot hold the scale that they need, the report counts those that became zero for it, as
    `underflow`.
    """

    bits: int
    group_size: int | None = 128
    symmetric: bool = False

    def check(self) -> None:
        super().check()
        if type(self.bits) is not int or not 2 <= self.bits <= 8:
            raise InputError(f"bits must be an integer from 2 to 8, got {self.bits!r}")
        if self.group_size is not None and (type(self.group_size) is not int or self.group_size < 1):
            raise InputError(f"group_size must be a positive integer or None, got {self.group_size!r}")
        if not isinstance(self.symmetric, bool):
            raise InputError(f"symmetric must be True or False, got {self.symmetric!r}")

    def fit(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes, scale and zero point, as the function `fit` returns them."""
        return fit(weight, self.bits, self.group_size, self.symmetric)

    def stored_bits(self, shape: Sequence[int]) -> int:
        """Bits to store a weight of `shape`, (..., in), as the report counts them; nothing is fitted."""
        groups = math.prod(shape[:-1]) * -(-shape[-1] // (self.group_size or shape[-1]))
        return self.bits * math.prod(shape) + (16 if self.symmetric else 16 + self.bits) * groups

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        codes, scale, zero_point = self.fit(weight)
        rounded = ungrouped((codes - zero_point) * scale, weight.shape[-1])
        facts = {"bits": self.stored_bits(weight.shape)}
        floor = ungrouped((scale == FLOAT16_SMALLEST).expand_as(codes), weight.shape[-1])
        underflow = int((floor & (rounded == 0) & (weight != 0)).sum())
        return rounded, facts | {"underflow": underflow} if underflow else facts
