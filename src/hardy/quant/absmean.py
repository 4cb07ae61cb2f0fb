"""Absmean ternarization: one trit per weight at the scale of its group's mean |w|, without a fit.

Source: BitNet b1.58 (arXiv 2402.17764), which trains with it; here it is the control of trit-planes at the same bits,
so the scale is per group instead of per matrix.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.ops.rounding import FLOAT16_SMALLEST, float16_scale, grouped, ungrouped
from hardy.quant.quantizer import Quantizer
from hardy.quant.trit_planes import TritWeight, stored_bits


def fit(weight: torch.Tensor, group_size: int | None = 128) -> TritWeight:
    """`weight` (..., in) as one plane of trits.

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
    trits = (groups.sign() * (groups.abs() > scales / 2)).to(torch.int8)
    converged = torch.ones(groups.shape[:-1], dtype=torch.bool, device=groups.device)
    return TritWeight(trits[None], scales[None], weight.shape[-1], converged)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbsmeanTrits(Quantizer):
    """Replace each weight by -1, 0 or 1 times the mean |w| of its group.

    The report counts bits as `TritPlanes` does for one plane, and as `underflow` the weights that are zero because
    float16 has no scale small enough for their group.
    """

    def quantize(self, weight: torch.Tensor, site: Site) -> tuple[TritWeight, Mapping[str, float]]:
        found = fit(weight, self.group_size)
        facts = {"bits": found.bits}
        floor = ungrouped((found.scales[0] == FLOAT16_SMALLEST).expand_as(found.trits[0]), found.width)
        underflow = int((floor & (found.dequantize() == 0) & (weight != 0)).sum())
        return found, facts | {"underflow": underflow} if underflow else facts

    def stored_bits(self, shape: Sequence[int]) -> int:
        return stored_bits(shape, 1, -(-shape[-1] // (self.group_size or shape[-1])))
