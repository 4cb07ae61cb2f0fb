"""What it takes to train one zoo model, as data: the trainer and the model card both read it."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hardy.zoo.optimizers import trapezoid


class Data(Protocol):
    """What a model is trained on and judged by."""

    tokenizer: PreTrainedTokenizerFast

    def batch(self, step: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of a step, both (batch, context) token ids; a target of -100 does not count."""
        ...

    def validation_loss(self, model: PreTrainedModel) -> float:
        """Nats per token on what training never sees."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the data is, for the card."""
        ...

    def held_out(self, model: PreTrainedModel) -> dict[str, Any]:
        """The card's figures, on what training never sees."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A language model that `hardy zoo train NAME` can make with nothing to download.

    Args:
        name: zoo name, also the folder of the weights.
        summary: one line for `hardy zoo list`.
        data: `data(recipe, out) -> Data`, with `out` the folder of the run.
        build: `build(vocab_size) -> model` with freshly initialised float32 weights.
        vocab_size: tokens that the tokenizer knows.
        context: tokens per training window.
        batch: windows per step.
        steps: optimizer steps in all.
        warmup, decay: share of `steps` in which the learning rate rises, and falls to zero; flat in between,
            so a run can be prolonged from any checkpoint before its decay.
        focus: for the standard library's text: share of `steps` after which its modules are drawn `focus_weight`
            times as often as its tests, which are over half of the text and unlike what the model is for.
        matrix_lr: Muon's learning rate, for the weight matrices inside the layers (update RMS matched to AdamW's).
        other_lr: AdamW's, for embeddings, head, norms and everything that is not a matrix.
        weight_decay: of the matrices.
        seed: of initialisation and data order.
        training: `training()` is a context in which the steps run, for an architecture that transformers computes in
            a way too slow to train. It changes how long they take, not what they compute.
    """

    name: str
    summary: str
    data: Callable[["Recipe", Path], Data]
    build: Callable[[int], PreTrainedModel]
    vocab_size: int = 3072
    context: int = 512
    batch: int = 16
    steps: int = 4500
    warmup: float = 0.027
    decay: float = 0.778
    focus: float = 4 / 9
    focus_weight: int = 3
    matrix_lr: float = 1.5e-2
    other_lr: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0
    training: Callable[[], AbstractContextManager[None]] = nullcontext

    def learning_rate(self, step: int, steps: int) -> float:
        """The factor on both learning rates at `step` of `steps`: trapezoidal, ends at zero."""
        return trapezoid(step, steps, self.warmup, self.decay)
