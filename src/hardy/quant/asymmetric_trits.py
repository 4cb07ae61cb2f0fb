"""One trit per weight with a scale and an offset per group, fitted to the outputs on calibration data.

Source: PT2-LLM (arXiv 2510.03267): an asymmetric ternary grid per row and group, fitted in turn with its trits; then
scale and offset once more for the outputs; errors of a group go to the groups after it, those within it stay. Where we
differ: that last fit counts with the groups after it making up for the errors, as they do, and not with the Gram matrix
of the group alone. The paper's reordering of columns by similarity is left out: it would need a permutation of the
inputs at run time. It is the baseline for `CalibratedTritPlanes` at one plane.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from hardy.errors import InputError
from hardy.ops.feedback import Order, hessian_root, quantize_groups
from hardy.ops.rotation import rotate
from hardy.ops.rounding import grouped, ungrouped
from hardy.quant.calibrated import CalibratedQuantizer, each_matrix

ITERATIONS = 50


@dataclasses.dataclass(frozen=True, eq=False)
class AsymmetricTritWeight:
    """A weight (..., in) as `trits * scale + offset` in each group.

    Attributes:
        trits: (..., groups, group_size) int8; -1, 0 or 1; the padding of the last group is not stored.
        scale: (..., groups, 1) float32 with float16 values of at least 0.
        offset: (..., groups, 1) float32 with float16 values.
        width: inputs; the last group of a row may be shorter.
        rotation: of the weight that this is of, as `hardy.quant.quantizer.Quantizer` says; 0 for none.
    """

    trits: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor
    width: int
    rotation: int = 0

    def dequantize(self) -> torch.Tensor:
        """The weight, (..., in) float32."""
        return rotate(ungrouped(self.trits * self.scale + self.offset, self.width), self.rotation)

    @property
    def bits(self) -> int:
        """What has to be stored: trits five to a byte, with those that fill a row's last byte; scales and offsets."""
        *rows, groups, _ = self.trits.shape
        return stored_bits((*rows, self.width), groups)


def stored_bits(shape: Sequence[int], groups: int) -> int:
    """Bits for a weight of `shape` (..., in) whose rows have `groups` groups each."""
    return math.prod(shape[:-1]) * (8 * -(-shape[-1] // 5) + 32 * groups)


def fit(
    weight: torch.Tensor,
    gram: torch.Tensor,
    group_size: int | None = 128,
    damping: float = 0.01,
    order: Order = "activation",
) -> AsymmetricTritWeight:
    """`weight` (..., out, in) as asymmetric trits, for inputs whose Gram matrix is `gram` (..., in, in).

    Raises:
        InputError: a scale or an offset is beyond float16's largest number, 65504, or `gram` is singular and `damping`
            zero.
    """
    size = group_size or weight.shape[-1]

    def fit_matrix(weight: torch.Tensor, gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        groups = quantize_groups(weight, gram, size, damping, order, fit_group)
        trits = grouped(torch.cat([trits for trits, _ in groups]).T, size)
        scale, offset = (torch.stack(each, 1)[..., None] for each in zip(*(rest for _, rest in groups), strict=True))
        return trits, scale, offset

    trits, scale, offset = each_matrix(fit_matrix, weight, gram)
    return AsymmetricTritWeight(trits, scale, offset, weight.shape[-1])


def fit_group(
    columns: torch.Tensor, factor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Trits (inputs, out) int8 of one group, its errors (inputs, out), and scale and offset (out,).

    Args:
        columns: (inputs, out), the group's weights as corrected for the errors of the groups before it.
        factor: (inputs, inputs), its diagonal block of `hardy.ops.feedback.inverse_factor`.
    """
    rows = columns.T.double()
    offset = rows.mean(-1, keepdim=True)
    deviation = rows - offset
    # The start of ternary weight networks: a threshold of 0.7 mean deviations.
    trits = deviation.sign() * (deviation.abs() > 0.7 * deviation.abs().mean(-1, keepdim=True))
    plain = torch.eye(len(columns), dtype=rows.dtype, device=rows.device)
    for _ in range(ITERATIONS):
        old, (scale, offset) = trits, _scale_and_offset(rows, trits, plain)
        trits = _nearest(rows, scale, offset)
        if torch.equal(trits, old):
            break
    scale, offset = _scale_and_offset(rows, trits, hessian_root(factor))
    trits, scale = torch.where(scale < 0, -trits, trits), scale.abs()  # a sign is the trits' to keep
    scale, offset = scale.half().double(), offset.half().double()
    if torch.isinf(scale).any() or torch.isinf(offset).any():
        raise InputError(f"a weight of {columns.abs().max():.3g} needs a scale or offset beyond float16 (65504)")
    error = (rows - (trits * scale + offset)).T.to(columns.dtype)
    errors = torch.linalg.solve_triangular(factor.mT, error, upper=False)
    return trits.T.to(torch.int8), errors, (scale[:, 0].float(), offset[:, 0].float())


def _nearest(rows: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    return torch.where(scale > 0, (rows - offset) / scale, 0).round().clamp(-1, 1)


def _scale_and_offset(rows: torch.Tensor, trits: torch.Tensor, root: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset (out, 1) that minimise `|(rows - scale * trits - offset) root|^2` in each row.

    Where the trits of a row are all alike, its scale is 0.
    """
    target, slopes, ones = rows @ root, trits @ root, root.sum(0)
    tt, to, oo = slopes.square().sum(-1), slopes @ ones, ones @ ones
    tw, ow = (slopes * target).sum(-1), target @ ones
    determinant = tt * oo - to.square()
    alike = (trits == trits[:, :1]).all(-1)
    scale = torch.where(alike, 0, (oo * tw - to * ow) / determinant)
    return scale[:, None], ((ow - scale * to) / oo)[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AsymmetricTrits(CalibratedQuantizer):
    """Replace each weight by a trit times a scale plus an offset of its group, so that the outputs stay near.

    Storage: five trits to a byte, and a float16 scale and a float16 offset per group.
    """

    def quantize_for(
        self, weight: torch.Tensor, gram: torch.Tensor
    ) -> tuple[AsymmetricTritWeight, Mapping[str, float]]:
        found = fit(weight, gram, self.group_size, self.damping, self.order)
        return found, {"bits": found.bits}

    def stored_bits(self, shape: Sequence[int]) -> int:
        return stored_bits(shape, -(-shape[-1] // (self.group_size or shape[-1])))
