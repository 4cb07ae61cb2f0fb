"""Which places of a store stay: the best by their scores, what is protected in any case, rows in step."""

from __future__ import annotations

import torch

from hardy.errors import InputError


def places_to_keep(
    scores: torch.Tensor, protected: torch.Tensor, padding: torch.Tensor, packed: int, target: int
) -> torch.Tensor:
    """The places of the `target` best tokens of each row, ascending, (batch, heads or 1, target).

    One row gets exactly its best tokens. Several rows are stored side by side, so each must keep as many packed tokens
    as any other: as many as they would keep on average, and then the best of the packed and the best of the others.

    Args:
        scores: (batch, heads or 1, tokens), finite.
        protected: of the same shape; these stay.
        padding: of the same shape; these go first.
        packed: tokens that are packed; they come first.
        target: tokens to keep.

    Raises:
        InputError: more is protected than may stay, or a score is not finite.
    """
    if not scores.isfinite().all():
        raise InputError("scores of cached tokens must be finite; a key, a value or a query is not")
    rank = scores.float().masked_fill(padding, -torch.inf).masked_fill(protected, torch.inf)
    bound = protected.sum(-1)
    if int(bound.max()) > target:
        raise InputError(f"a budget of {target} tokens is less than what is protected, {int(bound.max())} tokens")
    best = rank.topk(target, -1, sorted=False).indices
    if rank.shape[0] == rank.shape[1] == 1 or packed in (0, rank.shape[-1]):
        return best.sort(-1).values
    share = (best < packed).sum(-1).double().mean()
    plain = rank.shape[-1] - packed
    low = max(int(protected[..., :packed].sum(-1).max()), target - plain)
    high = min(packed, target - int(protected[..., packed:].sum(-1).max()))
    if low > high:
        raise InputError(f"the rows of this batch protect tokens at places too different for a budget of {target}")
    count = min(max(round(float(share)), low), high)
    sealed = rank[..., :packed].topk(count, -1, sorted=False).indices
    others = rank[..., packed:].topk(target - count, -1, sorted=False).indices + packed
    return torch.cat([sealed, others], -1).sort(-1).values
