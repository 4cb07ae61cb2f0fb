"""Perplexity drop: what it costs to take one block out of a language model and let the stream pass by it.

Source: the functional saliency of LieQ (arXiv 2508.03332). Where we differ: the increase of the loss, in nats per
token, is the default measure: perplexity grows exponentially with it, so that one early block would drown all others.
"""

import contextlib
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import nn

from hardy.core import selection
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR, Selector
from hardy.core.units import block_of
from hardy.errors import InputError, near_misses
from hardy.evaluate.loss import mean_loss
from hardy.hooks import patch, watch
from hardy.hooks.block_inputs import block_inputs

Measure = Literal["loss", "perplexity"]


@torch.inference_mode()
def perplexity_drop(
    model: nn.Module, batches: Iterable[Any], *, select: Selector = LINEAR, measure: Measure = "loss"
) -> Ranking:
    """Rank the blocks of a language model by how much worse it predicts without each of them.

    A block is replaced by the identity: its output is its input, so that its residual branches are skipped and the
    stream goes on. This works for every model whose blocks map a stream to one of the same shape, attention, experts
    or state space alike. It takes one evaluation of the whole model and one per block, which begins there where the
    blocks make a chain.

    Args:
        model: a causal language model: its output has `logits` (batch, tokens, vocabulary). Run it in eval mode.
        batches: token ids (batch, tokens), or mappings with `input_ids`; unpadded. Gone through once per block.
        select: blocks that hold any of these, as in `hardy.core.selection.select`.
        measure: "loss" for the increase of the mean cross-entropy in nats per token, "perplexity" for that of its
            exponential, as in the paper. The order is the same.

    Returns:
        A ranking of the blocks, named by globs ("model.layers.3.*").

    Raises:
        InputError: the model has no blocks or gives no logits, a block does not keep its input's shape, or the
            batches cannot be used.
    """
    if measure not in get_args(Measure):
        known = get_args(Measure)
        raise InputError(f"measure must be {' or '.join(known)}, got {measure!r}{near_misses(str(measure), known)}")
    batches = list(batches)
    blocks = list(
        dict.fromkeys(block for site in selection.select(model, select) if (block := block_of(site)) is not None)
    )
    if not blocks:
        raise InputError(f"{type(model).__name__} has no numbered blocks that hold {select!r}")
    intact = mean_loss(model, batches)
    inputs = block_inputs(model, batches, blocks)
    increases = {}
    for block in blocks:
        skipped = _Skipped(block, type(model.get_submodule(block)).__name__)
        begin = inputs.before(inputs.blocks.index(block)) if inputs else contextlib.nullcontext(batches)
        with (
            begin as reaching,
            watch(model, {(block, "input"): skipped.enter}),
            patch(model, {(block, "output"): skipped.leave}),
        ):
            increases[f"{block}.*"] = mean_loss(model, reaching) - intact
    if measure == "perplexity":
        whole = intact.exp()
        scores = {name: (whole * increase.expm1()).item() for name, increase in increases.items()}
    else:
        scores = {name: increase.item() for name, increase in increases.items()}
    return Ranking(
        scores=scores,
        meaning=f"increase of the {measure} when this block is replaced by the identity",
        unit="nats/token" if measure == "loss" else "perplexity",
        by="perplexity-drop",
    )


class _Skipped:
    """A block that gives what it was given, in the place of the first of several outputs."""

    def __init__(self, block: str, kind: str) -> None:
        self.block, self.kind = block, kind

    def enter(self, stream: torch.Tensor) -> None:
        self.stream = stream

    def leave(self, output: torch.Tensor) -> torch.Tensor:
        if self.stream.shape != output.shape:
            raise InputError(
                f"{self.block} ({self.kind}) does not map a stream to one of the same shape, so the identity cannot "
                "take its place"
            )
        return self.stream
