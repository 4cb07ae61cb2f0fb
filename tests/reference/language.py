"""Perplexity token by token, each in a forward pass of its own: the oracle of `hardy.evaluate`."""

import math

import torch
from torch import nn


def token_losses(model: nn.Module, ids: list[int], window: int, stride: int) -> list[float]:
    """-log p of every token but the first, given what the sliding window leaves of the past.

    The first window predicts all its tokens. Every later one reaches `stride` tokens further, is `window` long, and
    predicts the tokens that no earlier one did.
    """
    losses, end = [], 0
    while end < len(ids):
        first = max(end, 1)
        end = min(len(ids), window if end == 0 else end + stride)
        begin = max(0, end - window)
        for position in range(first, end):
            with torch.inference_mode():
                logits = model(torch.tensor([ids[begin:position]])).logits[0, -1].double()
            losses.append((logits.logsumexp(0) - logits[ids[position]]).item())
    return losses


def perplexity(losses: list[float]) -> float:
    """exp of the mean."""
    return math.exp(math.fsum(losses) / len(losses))
