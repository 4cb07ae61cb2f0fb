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

from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.ops.rotation import rotate
from hardy.ops.rounding import grouped, ungrouped
from hardy.ops.trits import Start, fit_trits
from hardy.quant.quantizer import Quantizer


def fit(
    weight: torch.Tensor,
    planes: int = 2,
    group_size: int | None = 128,
    starts: tuple[Start, ...] = ("sign", "magnitude"),
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> "TritWeight":
    """The trit-planes of `weight` (..., in), of any floating dtype.

    Args:
        weight: its last dimension is cut into groups, the last of which may be shorter: padded with trits of zero.
        planes: 1 to 3.
        group_size: None for one group per row.
        starts, iterations, tolerance: see `hardy.ops.trits.fit_trits`.

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
    return TritWeight(trits, scales, weight.shape[-1], converged)


@dataclasses.dataclass(frozen=True, eq=False)
class TritWeight:
    """A weight (..., in) as the sum of its planes: in each group `sum(trits * scales)` over the planes.

    Attributes:
        trits: (planes, ..., groups, group_size) int8; -1, 0 or 1, and 0 in the padding of the last group.
        scales: (planes, ..., groups, 1) float32 with float16 values of at least 0.
        width: inputs; the last group of a row may be shorter.
        converged: (..., groups), whether the fit came to rest in each group.
        rotation: of the weight that this is of, as `hardy.quant.quantizer.Quantizer` says; 0 for none.
    """

    trits: torch.Tensor
    scales: torch.Tensor
    width: int
    converged: torch.Tensor
    rotation: int = 0

    def dequantize(self) -> torch.Tensor:
        """The weight, (..., in) float32."""
        return rotate(ungrouped((self.trits * self.scales).sum(0), self.width), self.rotation)

    def joined(self, others: "Sequence[TritWeight]") -> "TritWeight | None":
        """This weight (out, in) and the rows of others below it; None if they do not agree in planes and groups."""
        every = [self, *others]
        if len({(len(part.trits), *part.trits.shape[2:], part.width, part.rotation) for part in every}) > 1:
            return None
        parts = [[part.trits, part.scales, part.converged] for part in every]
        trits, scales, converged = (list(kind) for kind in zip(*parts, strict=True))
        return TritWeight(torch.cat(trits, 1), torch.cat(scales, 1), self.width, torch.cat(converged), self.rotation)

    def expert(self, index: int) -> "TritWeight":
        """One matrix (out, in) of a stack (experts, out, in)."""
        parts = (self.trits[:, index], self.scales[:, index], self.width, self.converged[index])
        return TritWeight(*parts, self.rotation)

    @property
    def bits(self) -> int:
        """What has to be stored: trits five to a byte, with those that fill a row's last byte; float16 scales."""
        planes, *rows, groups, _ = self.trits.shape
        return stored_bits((*rows, self.width), planes, groups)

    @property
    def bits_per_weight(self) -> float:
        """`bits` for each weight."""
        return self.bits / (math.prod(self.trits.shape[1:-2]) * self.width)


def stored_bits(shape: Sequence[int], planes: int, groups: int) -> int:
    """Bits for a weight of `shape` (..., in) whose rows have `groups` groups each."""
    return planes * math.prod(shape[:-1]) * (8 * -(-shape[-1] // 5) + 16 * groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TritPlanes(Quantizer):
    """Replace each weight by the nearest sum of `planes` trits times their group's scales.

    Args:
        planes: 1 to 3; two take 3.45 bits per weight with groups of 128.
        starts: where the fit begins, "sign" or "magnitude"; of several the best is kept for each group.
        iterations: the most that a group gets.
        tolerance: a group has converged when its scales move no more than this, in units of its mean |w|.

    The report counts what has to be stored: for each plane the trits of a row, five to a byte, with the trits that
    fill the row's last byte, and a float16 scale per group. The last group of a row may be shorter; its padding is not
    stored. `unconverged_per_weight` is the share of weights in groups that used up their iterations. Where all weights
    of a group are too small for float16 scales, they become zero and are counted as `underflow`.
    """

    planes: int = 2
    starts: tuple[Start, ...] = ("sign", "magnitude")
    iterations: int = 50
    tolerance: float = 1e-4

    def check(self) -> None:
        super().check()
        if type(self.planes) is not int or not 1 <= self.planes <= 3:
            raise InputError(f"planes must be 1, 2 or 3, got {self.planes!r}")
        known = get_args(Start)
        if not isinstance(self.starts, tuple) or not self.starts or any(s not in known for s in self.starts):
            given = "none" if self.starts == () else self.starts
            raise InputError(f"starts must be one or more of {', '.join(known)}, got {given!r}")
        if type(self.iterations) is not int or self.iterations < 1:
            raise InputError(f"iterations must be an integer of at least 1, got {self.iterations!r}")
        number = isinstance(self.tolerance, int | float) and not isinstance(self.tolerance, bool)
        if not (number and math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise InputError(f"tolerance must be a finite number of at least 0, got {self.tolerance!r}")

    def quantize(self, weight: torch.Tensor, site: Site) -> tuple[TritWeight, Mapping[str, float]]:
        found = fit(weight, self.planes, self.group_size, self.starts, self.iterations, self.tolerance)
        return found, facts(found, weight)

    def stored_bits(self, shape: Sequence[int]) -> int:
        return stored_bits(shape, self.planes, -(-shape[-1] // (self.group_size or shape[-1])))


def facts(found: TritWeight, weight: torch.Tensor) -> Mapping[str, float]:
    """Bits, weights in groups that did not converge, and weights lost because float16 has no scale so small."""
    unconverged = ungrouped((~found.converged)[..., None].expand(found.trits.shape[1:]), found.width).sum().item()
    lost = ungrouped((found.scales == 0).all(0).expand(found.trits.shape[1:]), found.width) & (weight != 0)
    counts = {"bits": found.bits, "unconverged": unconverged}
    return counts | {"underflow": int(lost.sum())} if lost.any() else counts
