"""Round-to-nearest with the range of each group clipped where that lowers its squared error: the stronger baseline.

Source: common practice (the range search of AWQ, arXiv 2306.00978, and of OmniQuant, arXiv 2308.13137, on weights
alone). Our search is over a fixed list of ratios of the full range, the same for both ends.

A smaller error of the weights is not always a better model: `python -m benchmarks run clipping` compares the perplexity
of tiny-llama with and without clipping. It gains in groups of 128; at 3 bits in groups of 16 the
two are within what another text would change.
"""

import dataclasses

import torch

from hardy.ops.rounding import grouped, round_to_grid, symmetric_grid, uniform_grid
from hardy.quant import round_to_nearest
from hardy.quant.round_to_nearest import GridWeight, RoundToNearest

# Of the full range: 1.00, 0.98 ... 0.30. Of a Gaussian group of 128, two bits want about 0.6 and four 0.9.
RATIOS = tuple(ratio / 100 for ratio in range(100, 28, -2))


def fit(weight: torch.Tensor, bits: int, group_size: int | None, symmetric: bool) -> GridWeight:
    """As `hardy.quant.round_to_nearest.fit`, for each group at the ratio that gives it the least squared error.

    Raises:
        InputError: a scale is beyond float16's largest number, 65504.
    """
    full = round_to_nearest.fit(weight, bits, group_size, symmetric)
    codes, scale, zero_point = full.codes.float(), full.scale, full.zero_point
    groups = grouped(weight, group_size or weight.shape[-1])
    error = ((codes - zero_point) * scale - groups).square().sum(-1, keepdim=True)
    grid = symmetric_grid if symmetric else uniform_grid
    lowest = 1 if symmetric else 0  # weights beyond a clipped range would reach the code that symmetry leaves out
    for ratio in RATIOS[1:]:
        narrow, offset = grid(ratio * groups, bits)
        clipped = round_to_grid(groups, narrow, offset, bits).clamp(min=lowest)
        new = ((clipped - offset) * narrow - groups).square().sum(-1, keepdim=True)
        better = new < error
        codes, scale, zero_point, error = (
            torch.where(better, a, b)
            for a, b in zip((clipped, narrow, offset, new), (codes, scale, zero_point, error), strict=True)
        )
    return dataclasses.replace(full, codes=codes.to(torch.uint8), scale=scale, zero_point=zero_point)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippedRoundToNearest(RoundToNearest):
    """Round-to-nearest that may clip a group's largest weights to make the steps for all others finer.

    Fields, storage and report are those of `RoundToNearest`; the error of a group is never larger.
    """

    def fit(self, weight: torch.Tensor) -> GridWeight:
        return fit(weight, self.bits, self.group_size, self.symmetric)
