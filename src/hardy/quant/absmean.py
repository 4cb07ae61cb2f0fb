"""Absmean ternarization: one trit per weight at the scale of its group's mean |w|, without a fit.

Source: BitNet b1.58 (arXiv 2402.17764), which trains with it; here it is the control of trit-planes at the same bits,
so the scale is per group instead of per matrix.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from hardy.core.method import WeightMethod
from hardy.core.select import Site
from hardy.errors import InputError
from hardy.ops.rounding import FLOAT16_SMALLEST, float16_scale, grouped, ungrouped
from hardy.quant.trit_planes import stored_bits


def fit(weight: torch.Tensor, group_size: int | None = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Trits (..., groups, group_size) int8 and scales (..., groups, 1), float32 with float16 values, of `weight`.

    A weight gets the trit nearest to `weight / scale`; half way between two, zero.

    Raises:
        InputError: a weight is NaN or infinite, or a scale is beyond float16's largest number, 65504.
    """
    if not torch.isfinite(weight).all():
        raise InputError("weights hold NaN or infinity; absmean trits need finite ones")
    size = group_size or weight.shape[-1]
    lengths = grouped(torch.ones(weight.shape[-1], device=weight.device), size).sum(-1, keepdim=True)
    groups = grouped(weight.float(), size)
    scales = float16_scale((groups.double().abs().sum(-1, keepdim=True) / lengths).float())
    if torch.isinf(scales).any():
        raise InputError(f"a weight of {weight.abs().max():.3g} needs a scale beyond float16 (65504)")
    return (groups.sign() * (groups.abs() > scales / 2)).to(torch.int8), scales


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbsmeanTrits(WeightMethod):
    """Replace each weight by -1, 0 or 1 times the mean |w| of its group.

    Args:
        group_size: weights along the input dimension that share a scale; None for one per output channel.

    The report counts bits as `TritPlanes` does for one plane, and as `underflow` the weights that are zero because
    float16 has no scale small enough for their group.
    """

    group_size: int | None = 128

    def check(self) -> None:
        super().check()
        if self.group_size is not None and (type(self.group_size) is not int or self.group_size < 1):
            raise InputError(f"group_size must be a positive integer or None, got {self.group_size!r}")

    def stored_bits(self, shape: Sequence[int]) -> int:
        """Bits to store a weight of `shape`, (..., in), as the report counts them; nothing is fitted."""
        return stored_bits(shape, 1, self.group_size)

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        trits, scales = fit(weight, self.group_size)
        width = weight.shape[-1]
        rebuilt = ungrouped(trits * scales, width)
        facts = {"bits": self.stored_bits(weight.shape)}
        floor = ungrouped((scales == FLOAT16_SMALLEST).expand_as(trits), width)
        underflow = int((floor & (rebuilt == 0) & (weight != 0)).sum())
        return rebuilt, facts | {"underflow": underflow} if underflow else facts
