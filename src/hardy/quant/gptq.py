"""GPTQ: round-to-nearest in which what rounding one input's weights does to the outputs, later inputs make up for.

Source: GPTQ (arXiv 2210.17323). Where we differ: the grid of a group may be clipped, as in `ClippedRoundToNearest`; in
activation order groups stay whole, visited by their mean power, so that nothing has to be permuted.
`order="given", range="full"` is the paper's.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.feedback import Order, compiled_for, quantize_groups, round_columns
from hardy.ops.rounding import grouped
from hardy.quant import clipped_round_to_nearest, round_to_nearest
from hardy.quant.calibrated import CalibratedQuantizer, each_matrix
from hardy.quant.round_to_nearest import GridWeight, stored_bits

Range = Literal["full", "clipped"]

_RANGES: dict[Range, Callable[[torch.Tensor, int, int | None, bool], GridWeight]] = {
    "full": round_to_nearest.fit,
    "clipped": clipped_round_to_nearest.fit,
}


def fit(
    weight: torch.Tensor,
    gram: torch.Tensor,
    bits: int,
    group_size: int | None = 128,
    symmetric: bool = False,
    damping: float = 0.01,
    order: Order = "activation",
    range: Range = "clipped",
) -> GridWeight:
    """`weight` (..., out, in) rounded with error feedback, for inputs whose Gram matrix is `gram` (..., in, in).

    The other arguments are the fields of `GPTQ`.

    Raises:
        InputError: a scale is beyond float16's largest number, 65504, or `gram` is singular and `damping` zero.
    """
    size = group_size or weight.shape[-1]

    def quantize(columns: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, GridWeight]:
        grid = _RANGES[range](columns.T, bits, size, symmetric)
        return *_round(columns, factor, grid), grid

    def fit_matrix(weight: torch.Tensor, gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        groups = quantize_groups(weight, gram, size, damping, order, quantize)
        codes = grouped(torch.cat([codes for codes, _ in groups]).T, size)
        scale = torch.cat([grid.scale for _, grid in groups], 1)
        return codes.to(torch.uint8), scale, torch.cat([grid.zero_point for _, grid in groups], 1)

    codes, scale, zero_point = each_matrix(fit_matrix, weight, gram)
    return GridWeight(codes, scale, zero_point, bits, weight.shape[-1], symmetric)


def _round(columns: torch.Tensor, factor: torch.Tensor, grid: GridWeight) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and errors (inputs, out) of `round_columns` on the grid of one group."""
    codes = torch.empty_like(columns)
    scale, zero_point = grid.scale[:, 0, 0], grid.zero_point[:, 0, 0]
    divisor = torch.where(scale > 0, scale, torch.inf)
    lowest, highest = 1 if grid.symmetric else 0, 2**grid.bits_per_code - 1
    if compiled_for(columns):
        module = kernels.extension()
        assert module is not None
        errors = torch.empty_like(columns)
        grids = [values.contiguous() for values in (scale, divisor, zero_point)]
        module.round_to_grid(columns, factor, *grids, lowest, highest, codes, errors, torch.get_num_threads())
        return codes, errors

    def nearest(i: int, weights: torch.Tensor) -> torch.Tensor:
        torch.add((weights / divisor).round_(), zero_point, out=codes[i]).clamp_(lowest, highest)
        return (codes[i] - zero_point) * scale

    _, errors = round_columns(columns, factor, nearest)
    return codes, errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTQ(CalibratedQuantizer):
    """Round each weight to its group's uniform grid, and correct the weights of later inputs for the error.

    Args:
        bits: per code, 2 to 8.
        symmetric: a grid that is the same on both sides of zero, without a zero point.
        range: of a group's grid: "full" holds its smallest and largest weight, "clipped" what has the least squared
            error.

    Storage is that of `RoundToNearest`.
    """

    bits: int
    symmetric: bool = False
    range: Range = "clipped"

    def check(self) -> None:
        super().check()
        if type(self.bits) is not int or not 2 <= self.bits <= 8:
            raise InputError(f"bits must be an integer from 2 to 8, got {self.bits!r}")
        if not isinstance(self.symmetric, bool):
            raise InputError(f"symmetric must be True or False, got {self.symmetric!r}")
        if self.range not in get_args(Range):
            raise InputError(f"range must be {' or '.join(get_args(Range))}, got {self.range!r}")

    def quantize_for(self, weight: torch.Tensor, gram: torch.Tensor) -> tuple[GridWeight, Mapping[str, float]]:
        found = fit(weight, gram, self.bits, self.group_size, self.symmetric, self.damping, self.order, self.range)
        return found, {"bits": found.bits}

    def stored_bits(self, shape: Sequence[int]) -> int:
        groups = -(-shape[-1] // (self.group_size or shape[-1]))
        return stored_bits(shape, self.bits, groups, self.symmetric)
