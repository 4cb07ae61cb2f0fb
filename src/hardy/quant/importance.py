"""One score from several diagnostics of a layer: each scaled to 0..1 over the layers, then their weighted mean.

Source: LieQ (arXiv 2508.03332), first version: perplexity drop, effective-rank drop and energy gain in one score; the
second version keeps the effective rank alone, which is `hardy.quant.effective_rank`. The first version's scaling and
weights are not known to us: ours are min-max and equal, and the caller's to choose.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR, Selector
from hardy.errors import InputError
from hardy.quant.block_removal import perplexity_drop
from hardy.quant.spectral import ENERGY_GAIN, RANK_DROP, rankings


def combined(parts: Sequence[Ranking], weights: Sequence[float] | None = None, *, by: str = "combined") -> Ranking:
    """The weighted mean of several rankings of the same units, each scaled to 0..1 by its least and largest score.

    Args:
        parts: the rankings.
        weights: one for each, at least 0 and not all 0; equal by default.
        by: name of the result.

    Raises:
        InputError: the rankings are of different units, one gives all units the same score, or the weights do not fit.
    """
    weights = [1.0] * len(parts) if weights is None else list(weights)
    numbers = all(isinstance(w, int | float) and not isinstance(w, bool) and math.isfinite(w) for w in weights)
    if not (parts and numbers and len(weights) == len(parts) and min(weights) >= 0 and sum(weights) > 0):
        raise InputError(f"weights must be {len(parts)} numbers of at least 0 and not all 0, got {weights!r}")
    totals = dict.fromkeys(parts[0].scores, 0.0)
    for part, weight in zip(parts, weights, strict=True):
        if set(part.scores) != set(totals):
            other = sorted(set(part.scores) ^ set(totals))[0]
            raise InputError(f"{parts[0].by} and {part.by} rank different units; {other} is in one of them only")
        low, high = min(part.scores.values()), max(part.scores.values())
        if low == high:
            raise InputError(f"{part.by} gives all {len(part)} units the same score, {low}, so it cannot be scaled")
        for name, score in part.scores.items():
            totals[name] += weight / sum(weights) * (score - low) / (high - low)
    names = ", ".join(part.by for part in parts)
    return Ranking(scores=totals, meaning=f"weighted mean of {names}, each scaled to 0..1", unit="0 to 1", by=by)


def layer_importance(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    select: Selector = LINEAR,
    seeds: Sequence[int] = (0, 1, 2),
) -> Ranking:
    """Rank blocks by perplexity drop, effective-rank drop and energy gain together: LieQ's first score.

    Args:
        model, batches, select: as in `perplexity_drop`, whose measure is the perplexity here, as in the paper.
        weights: of the three, in this order.
        seeds: of the random references, as in `effective_rank`.

    Raises:
        InputError: as `perplexity_drop`, `effective_rank` and `combined`.
    """
    batches = list(batches)
    spectral = rankings(model, batches, [RANK_DROP, ENERGY_GAIN], select=select, seeds=seeds)  # may refuse the text
    drop = perplexity_drop(model, batches, select=select, measure="perplexity")
    return combined([drop, *spectral], weights, by="lieq-v1")
