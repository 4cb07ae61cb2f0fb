"""Trit-planes: each weight as a sum of one to three trits (-1, 0, 1), each times a scale of its group; needs no data.

Source: PTQTP, post-training quantization to trit-planes (arXiv 2509.16989). Where we differ: a second start beside the
paper's, the better of the two kept group by group (two planes on Gaussian weights: error 0.167 instead of 0.169; three
planes: 0.060 instead of 0.063); groups are normalised before the fit, so that convergence does not depend on units;
non-finite weights are refused, not skipped. `starts=("sign",)` is the paper's.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from hardy.core.method import WeightMethod
from hardy.core.select import Site
from hardy.errors import InputError
from hardy.ops.rounding import grouped, ungrouped
from hardy.ops.trits import Start, fit_trits


def fit(
    weight: torch.Tensor,
    planes: int,
    group_size: int | None = 128,
    starts: tuple[Start, ...] = ("sign", "magnitude"),
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The trit-planes of `weight` (..., in), of any floating dtype: the weight is about `(trits * scales).sum(0)`.

    Args:
        weight: its last dimension is cut into groups, the last of which may be shorter: padded with trits of zero.
        planes: 1 to 3.
        group_size: None for one group per row.
        starts, iterations, tolerance: see `hardy.ops.trits.fit_trits`.

    Returns:
        Trits (planes, ..., groups, group_size) int8; scales (planes, ..., groups, 1), float32 with float16 values of
        at least 0; whether each group (..., groups) converged.

    Raises:
        InputError: a weight is NaN or infinite, or needs a scale beyond float16's largest number, 65504.
    """
    if not torch.isfinite(weight).all():
        bad = int((~torch.isfinite(weight)).sum())
        raise InputError(f"{bad} weights of {weight.numel()} are NaN or infinite; trit-planes need finite ones")
    size = group_size or weight.shape[-1]
    lengths = grouped(torch.ones(weight.shape[-1], device=weight.device), size).sum(-1)
    trits, scales, converged = fit_trits(grouped(weight, size), lengths, planes, starts, iterations, tolerance)
    if torch.isinf(scales).any():
        raise InputError(f"a weight of {weight.abs().max():.3g} needs a scale beyond float16 (65504)")
    return trits, scales, converged


@dataclasses.dataclass(frozen=True, kw_only=True)
class TritPlanes(WeightMethod):
    """Replace each weight by the nearest sum of `planes` trits times their group's scales.

    Args:
        planes: 1 to 3; two take 3.45 bits per weight with groups of 128.
        group_size: weights along the input dimension that share scales; None for one group per output channel.
        starts: where the fit begins, "sign" or "magnitude"; of several the best is kept for each group.
        iterations: the most that a group gets.
        tolerance: a group has converged when its scales move no more than this, in units of its mean |w|.

    The report counts what has to be stored: for each plane the trits of a row, five to a byte, with the trits that
    fill the row's last byte, and a float16 scale per group. The last group of a row may be shorter; its padding is not
    stored. `unconverged_per_weight` is the share of weights in groups that used up their iterations. Where all weights
    of a group are too small for float16 scales, they become zero and are counted as `underflow`.
    """

    planes: int = 2
    group_size: int | None = 128
    starts: tuple[Start, ...] = ("sign", "magnitude")
    iterations: int = 50
    tolerance: float = 1e-4

    def check(self) -> None:
        super().check()
        if type(self.planes) is not int or not 1 <= self.planes <= 3:
            raise InputError(f"planes must be 1, 2 or 3, got {self.planes!r}")
        if self.group_size is not None and (type(self.group_size) is not int or self.group_size < 1):
            raise InputError(f"group_size must be a positive integer or None, got {self.group_size!r}")
        known = get_args(Start)
        if not isinstance(self.starts, tuple) or not self.starts or any(s not in known for s in self.starts):
            given = "none" if self.starts == () else self.starts
            raise InputError(f"starts must be one or more of {', '.join(known)}, got {given!r}")
        if type(self.iterations) is not int or self.iterations < 1:
            raise InputError(f"iterations must be an integer of at least 1, got {self.iterations!r}")
        number = isinstance(self.tolerance, int | float) and not isinstance(self.tolerance, bool)
        if not (number and math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise InputError(f"tolerance must be a finite number of at least 0, got {self.tolerance!r}")

    def stored_bits(self, shape: Sequence[int]) -> int:
        """Bits to store a weight of `shape`, (..., in), as the report counts them; nothing is fitted."""
        return stored_bits(shape, self.planes, self.group_size)

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        width = weight.shape[-1]
        trits, scales, converged = fit(
            weight, self.planes, self.group_size, self.starts, self.iterations, self.tolerance
        )
        rebuilt = ungrouped((trits * scales).sum(0), width)
        unconverged = ungrouped((~converged)[..., None].expand(trits.shape[1:]), width).sum().item()
        lost = ungrouped((scales == 0).all(0).expand(trits.shape[1:]), width) & (weight != 0)
        facts = {"bits": self.stored_bits(weight.shape), "unconverged": unconverged}
        return rebuilt, facts | {"underflow": int(lost.sum())} if lost.any() else facts


def stored_bits(shape: Sequence[int], planes: int, group_size: int | None) -> int:
    """Bits for a weight of `shape`, (..., in): each row's trits five to a byte, a float16 scale per group."""
    rows, width = math.prod(shape[:-1]), shape[-1]
    groups = -(-width // (group_size or width))
    return planes * rows * (8 * -(-width // 5) + 16 * groups)
