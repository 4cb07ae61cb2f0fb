"""What an example still teaches: a number for each, of at least 0, the higher the sooner it is taught.

A score is a function of `Examples` (graphs, pixels, sequences: whatever is trained on) to (examples,).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from hardy import checks
from hardy.core.teaching import Examples
from hardy.errors import InputError
from hardy.runs.checkpoint import digest

Score = Callable[[Examples], torch.Tensor]


def gradient_norm(examples: Examples) -> torch.Tensor:
    """The norm of the loss's gradient at the output: GraNT's and INT's rule (arXiv 2505.14170, 2405.10531).

    With p the output: |p - y| for a squared error (times 2), |sigmoid(p) - y| for binary, |softmax(p) - onehot(y)| for
    softmax cross entropy, each divided by the example's labels that are there, or by the nodes of its graph.
    """
    return examples.gradient_norms()


def loss(examples: Examples) -> torch.Tensor:
    """The loss itself: selective backprop's rule (arXiv 1910.00762), cheaper where outputs are wide, as for tokens."""
    return examples.losses()


def kernel_norm(examples: Examples) -> torch.Tensor:
    """How far a step on all examples would move this one's output: NINT's (arXiv 2511.15487), one vjp and one jvp."""
    return examples.kernel_norms()


@dataclasses.dataclass(frozen=True, eq=False)
class ReducibleLoss:
    """The loss above what a model trained on other data has, at least 0: RHO-loss (arXiv 2206.07137).

    What is noise in a label no model can learn, so such examples are not taught for being wrong.

    Args:
        irreducible: the losses of that model on the same examples, (examples,); see `hardy.teach.losses`.
    """

    irreducible: torch.Tensor

    def __repr__(self) -> str:
        return f"ReducibleLoss({digest([self.irreducible])})"

    def __call__(self, examples: Examples) -> torch.Tensor:
        losses = examples.losses()
        if self.irreducible.shape != losses.shape:
            raise InputError(f"irreducible losses are {tuple(self.irreducible.shape)}, examples {tuple(losses.shape)}")
        return (losses - self.irreducible.to(losses)).clamp(min=0)


@dataclasses.dataclass(frozen=True, repr=False)
class LossCap:
    """Another score, but 0 for the examples whose loss is above the `quantile` of all: those are taken for mislabelled.

    Raises:
        InputError: the quantile is not in (0, 1].
    """

    quantile: float = 0.9
    score: Score = gradient_norm

    def __post_init__(self) -> None:
        checks.number("quantile", self.quantile, above=0, at_most=1)

    def __repr__(self) -> str:
        return f"LossCap(quantile={self.quantile}, score={name_of(self.score)})"

    def __call__(self, examples: Examples) -> torch.Tensor:
        losses = examples.losses()
        cap = losses.double().kthvalue(max(1, int(self.quantile * len(losses)))).values
        return torch.where(losses > cap, 0.0, self.score(examples))


def name_of(score: Score) -> str:
    """The same in every process, as the address of a function is not."""
    return getattr(score, "__qualname__", None) or repr(score)


SCORES: dict[str, Score] = {
    "gradient-norm": gradient_norm,
    "loss": loss,
    "kernel-norm": kernel_norm,
    "loss-cap": LossCap(),
}
