"""The mean loss of a language model on batches: what calibration looks at, where perplexity looks at a text."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hardy.errors import InputError
from hardy.hooks import arguments

AT_A_TIME = 2**22
"""Scores that are put into float32 at once: they outnumber all else that a small model computes."""


def next_token_losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of every token but the first of each row, (batch, tokens - 1) float32.

    Args:
        logits: (batch, tokens, vocabulary), of any floating-point type.
        ids: (batch, tokens).
    """
    batch, tokens, vocabulary = logits.shape
    step = max(1, AT_A_TIME // (batch * vocabulary))
    parts = [
        cross_entropy(logits[:, begin:end].float().transpose(1, 2), ids[:, begin + 1 : end + 1], reduction="none")
        for begin in range(0, tokens - 1, step)
        for end in [min(begin + step, tokens - 1)]
    ]
    return torch.cat(parts, 1)


def mean_loss(model: Any, batches: Iterable[Any]) -> torch.Tensor:
    """Mean cross-entropy in nats of every token but each text's first, a float64 number.

    Args:
        model: a causal language model: its output has `logits` (batch, tokens, vocabulary). Run it in eval mode.
        batches: token ids (batch, tokens), mappings with `input_ids`, or tuples that begin with them; unpadded.

    Raises:
        InputError: there are no batches, or one is not unpadded token ids, or the model gives no logits.
    """
    nats, tokens = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        is_batch = isinstance(batch, torch.Tensor | tuple | Mapping)
        positional, keywords = arguments(model, batch) if is_batch else ((batch,), {})
        ids = keywords.get("input_ids", positional[0] if positional else None)
        if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.is_floating_point() or ids.shape[1] < 2:
            shown = (
                f"a {type(batch).__name__}" if not isinstance(ids, torch.Tensor) else f"{ids.dtype} {tuple(ids.shape)}"
            )
            raise InputError(f"a batch for the loss is token ids (batch, tokens of at least 2), got {shown}")
        mask = keywords.get("attention_mask")
        if mask is not None and not mask.all():
            raise InputError("a batch is padded (its attention_mask has zeros); give texts of equal length")
        logits = getattr(model(*positional, **keywords), "logits", None)
        if not isinstance(logits, torch.Tensor):
            raise InputError(f"{type(model).__name__} gives no logits; the loss needs a causal language model")
        losses = next_token_losses(logits, ids)
        nats, tokens = nats + losses.double().sum().cpu(), tokens + losses.numel()
    if not tokens:
        raise InputError("the loss needs at least one batch of text, got none")
    return nats / tokens
