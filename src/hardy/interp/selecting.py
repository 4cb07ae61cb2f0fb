"""Choosing one direction of many: made, filtered by what else they change, and the one that works best is picked.

The procedure by which Arditi et al. (2024) find the direction of refusals, for any behaviour: differences of means of
the stream at the input of every block and at each of the last positions, summed in float64; those of the last fifth of
the blocks are left out, those whose ablation changes ordinary answers by more than 0.1 nats, and those that do not
bring the behaviour about where they are added; of the rest the one that leaves least of the behaviour when it is taken
out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.errors import InputError
from hardy.hooks.blocks import blocks_of
from hardy.interp.locator import recorded
from hardy.interp.steering import DirectionalAblation, SteeringVector
from hardy.interp.task import Task, last_logits, scores
from hardy.runs.progress import track


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A direction that was tried.

    Attributes:
        layer: block at whose input it was read.
        position: from the end.
        vector: (d_model,), the difference of means.
        ablated: mean score of the prompts with the behaviour, with it taken out: lower is better.
        added: mean score of those without, with it added: above 0 the behaviour is there.
        divergence: nats per answer that taking it out changes on prompts without the behaviour.
        reason: why it is not taken; "" where it could be.
    """

    layer: int
    position: int
    vector: torch.Tensor
    ablated: float
    added: float
    divergence: float
    reason: str

    def ablation(self) -> DirectionalAblation:
        """The method that takes the behaviour away."""
        return DirectionalAblation(direction=self.vector)

    def steering(self, scale: float = 1.0) -> SteeringVector:
        """The method that brings it about; where the stream enters the first block there is no block to add it after.

        Raises:
            InputError: it was read there.
        """
        if self.layer == 0:
            raise InputError("a direction at the input of block 0 has no block before it to be added after")
        return SteeringVector(vector=self.vector, layer=self.layer - 1, scale=scale)


@dataclasses.dataclass(frozen=True)
class Selection:
    """The direction that was chosen, and all that were tried."""

    best: Candidate
    candidates: tuple[Candidate, ...]


def select_direction(
    model: nn.Module,
    behaviour: Task,
    ordinary: Task,
    *,
    judged_on: tuple[Task, Task] | None = None,
    positions: int = 1,
    most_divergence: float = 0.1,
    leave_out: float = 0.2,
) -> Selection:
    """Find the direction by which a model tells two kinds of prompts apart and acts on it.

    Args:
        model: any decoder whose stream is known.
        behaviour: prompts with the behaviour; `right` answers are those that show it, at the first place of the answer.
        ordinary: prompts without it, with the same right answers: their score is below 0 where it is absent.
        judged_on: other prompts of both kinds for the choice; by default the last third of each, which then does not
            make the directions.
        positions: how many of the last positions are read, such as those of a chat template after the question.
        most_divergence: nats by which taking a direction out may change the next token on ordinary prompts.
        leave_out: share of the blocks, the last, whose directions are not tried.

    Raises:
        InputError: too few prompts, or none of the directions passes the filters; the message says why each fell.
    """
    for name, task in (("behaviour", behaviour), ("ordinary", ordinary)):
        if len(task) < 3 and judged_on is None:
            raise InputError(f"{name} needs at least three prompts, one of them to judge on, got {len(task)}")
        checks.integer("positions", positions, at_least=1, at_most=task.length)
    checks.number("most_divergence", most_divergence, at_least=0)
    checks.number("leave_out", leave_out, at_least=0, below=1)
    if judged_on is None:
        cut = [len(task) - len(task) // 3 for task in (behaviour, ordinary)]
        judged_on = behaviour.take(slice(cut[0], None)), ordinary.take(slice(cut[1], None))
        behaviour, ordinary = behaviour.take(slice(cut[0])), ordinary.take(slice(cut[1]))
    layers = range(1, int(len(blocks_of(model)) * (1 - leave_out)))
    points = [f"blocks.{layer}.resid_pre" for layer in layers]
    if not points:
        raise InputError(f"{type(model).__name__} has too few blocks for leave_out={leave_out}")
    with_it, without_it = (_means(model, points, task, positions) for task in (behaviour, ordinary))
    before = _log_probabilities(model, judged_on[1])
    found = []
    tried = [(layer, position) for layer in layers for position in range(-positions, 0)]
    for layer, position in track(tried, "directions", total=len(tried)):
        vector = (with_it[layer - 1] - without_it[layer - 1])[position].float()
        if not vector.any():
            continue
        with DirectionalAblation(direction=vector).apply(model):
            ablated = scores(model, judged_on[0]).double().mean().item()
            now = _log_probabilities(model, judged_on[1])
        divergence = (before.exp() * (before - now)).sum(-1).mean().item()
        with SteeringVector(vector=vector, layer=layer - 1).apply(model):
            added = scores(model, judged_on[1]).double().mean().item()
        reason = ""
        if divergence > most_divergence:
            reason = f"taking it out changes ordinary answers by {divergence:.3g} nats"
        elif added < 0:
            reason = f"adding it does not bring the behaviour about: score {added:.3g}"
        found.append(Candidate(layer, position, vector, ablated, added, divergence, reason))
    passed = [candidate for candidate in found if not candidate.reason]
    if not passed:
        told = "; ".join(f"block {c.layer}@{c.position}: {c.reason}" for c in found[:4])
        raise InputError(f"none of {len(found)} directions passes: {told}")
    return Selection(min(passed, key=lambda candidate: candidate.ablated), tuple(found))


def _means(model: nn.Module, points: list[str], task: Task, positions: int) -> list[torch.Tensor]:
    """For each point the mean over prompts of the last positions, (positions, d_model), float64."""
    sums: list[Any] = [0.0] * len(points)
    for part in task.batches(32):
        seen, _ = recorded(model, points, part.inputs())
        sums = [total + seen[point][:, -positions:].double().sum(0) for total, point in zip(sums, points, strict=True)]
    return [total / len(task) for total in sums]


@torch.no_grad()
def _log_probabilities(model: nn.Module, task: Task) -> torch.Tensor:
    parts = [last_logits(model, part.inputs()).double().log_softmax(-1) for part in task.batches(32)]
    return torch.cat(parts)
