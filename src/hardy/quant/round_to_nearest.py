"""Round-to-nearest on a uniform grid per group of weights: the baseline that every quantizer is judged against.

Source: common practice (the "RTN" rows of GPTQ, arXiv 2210.17323, and AWQ, arXiv 2306.00978). Scales are rounded to
float16 before the codes are chosen, because that is how they are stored.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.ops.rotation import rotate
from hardy.ops.rounding import FLOAT16_SMALLEST, grouped, round_to_grid, symmetric_grid, ungrouped, uniform_grid
from hardy.quant.quantizer import Quantizer


def fit(weight: torch.Tensor, bits: int, group_size: int | None, symmetric: bool) -> "GridWeight":
    """`weight` (..., in) on the grid that holds the smallest and the largest weight of each group.

    Raises:
        InputError: a scale is beyond float16's largest number, 65504.
    """
    groups = grouped(weight, group_size or weight.shape[-1])
    grid = symmetric_grid if symmetric else uniform_grid
    scale, zero_point = grid(groups, bits)
    if torch.isinf(scale).any():
        raise InputError(f"a weight of {weight.abs().max():.3g} needs a scale beyond float16 (65504) at {bits} bits")
    codes = round_to_grid(groups, scale, zero_point, bits)
    return GridWeight(codes.to(torch.uint8), scale, zero_point, bits, weight.shape[-1], symmetric)


@dataclasses.dataclass(frozen=True, eq=False)
class GridWeight:
    """A weight (..., in) as codes on a uniform grid per group: `(code - zero_point) * scale`.

    Attributes:
        codes: (..., groups, group_size) uint8, below 2^bits; the padding of the last group is not stored.
        scale: (..., groups, 1) float32 with float16 values.
        zero_point: (..., groups, 1) float32 integers, below 2^bits.
        bits_per_code: 2 to 8.
        width: inputs; the last group of a row may be shorter.
        symmetric: whether the zero point is the middle code everywhere, and so not stored.
        rotation: of the weight that this is of, as `hardy.quant.quantizer.Quantizer` says; 0 for none.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    bits_per_code: int
    width: int
    symmetric: bool
    rotation: int = 0

    def dequantize(self) -> torch.Tensor:
        """The weight, (..., in) float32."""
        return rotate(ungrouped((self.codes - self.zero_point) * self.scale, self.width), self.rotation)

    def joined(self, others: "Sequence[GridWeight]") -> "GridWeight | None":
        """This weight (out, in) and the rows of others below it; None if they do not agree in bits and groups."""
        every = [self, *others]
        kinds = {
            (part.bits_per_code, *part.codes.shape[1:], part.width, part.symmetric, part.rotation) for part in every
        }
        if len(kinds) > 1:
            return None
        parts = [[part.codes, part.scale, part.zero_point] for part in every]
        codes, scale, zero_point = (torch.cat(kind) for kind in zip(*parts, strict=True))
        return GridWeight(codes, scale, zero_point, self.bits_per_code, self.width, self.symmetric, self.rotation)

    def expert(self, index: int) -> "GridWeight":
        """One matrix (out, in) of a stack (experts, out, in)."""
        parts = (self.codes[index], self.scale[index], self.zero_point[index])
        return GridWeight(*parts, self.bits_per_code, self.width, self.symmetric, self.rotation)

    @property
    def bits(self) -> int:
        """What has to be stored: codes, a float16 scale per group and, unless symmetric, a zero point of a code."""
        *rows, groups, _ = self.codes.shape
        return stored_bits((*rows, self.width), self.bits_per_code, groups, self.symmetric)


def stored_bits(shape: Sequence[int], bits: int, groups: int, symmetric: bool) -> int:
    """Bits for a weight of `shape` (..., in) whose rows have `groups` groups each."""
    return math.prod(shape[:-1]) * (bits * shape[-1] + (16 if symmetric else 16 + bits) * groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundToNearest(Quantizer):
    """Replace each weight by the nearest point of its group's uniform grid.

    Args:
        bits: per code, 2 to 8.
        symmetric: a grid that is the same on both sides of zero, without a zero point, instead of min to max.

    The report counts what has to be stored: codes, a float16 scale per group and, unless symmetric, a zero point of
    `bits` bits per group. The last group of a row may be shorter; its padding is not stored. Where weights are so
    small that float16 cannot hold the scale that they need, the report counts those that became zero for it, as
    `underflow`.
    """

    bits: int
    symmetric: bool = False

    def check(self) -> None:
        super().check()
        if type(self.bits) is not int or not 2 <= self.bits <= 8:
            raise InputError(f"bits must be an integer from 2 to 8, got {self.bits!r}")
        if not isinstance(self.symmetric, bool):
            raise InputError(f"symmetric must be True or False, got {self.symmetric!r}")

    def fit(self, weight: torch.Tensor) -> GridWeight:
        """What the function `fit` returns for these fields."""
        return fit(weight, self.bits, self.group_size, self.symmetric)

    def quantize(self, weight: torch.Tensor, site: Site) -> tuple[GridWeight, Mapping[str, float]]:
        found = self.fit(weight)
        facts = {"bits": found.bits}
        floor = ungrouped((found.scale == FLOAT16_SMALLEST).expand_as(found.codes), found.width)
        underflow = int((floor & (found.dequantize() == 0) & (weight != 0)).sum())
        return found, facts | {"underflow": underflow} if underflow else facts

    def stored_bits(self, shape: Sequence[int]) -> int:
        groups = -(-shape[-1] // (self.group_size or shape[-1]))
        return stored_bits(shape, self.bits, groups, self.symmetric)
