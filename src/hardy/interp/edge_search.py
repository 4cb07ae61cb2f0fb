"""Circuits by other ways than attribution: edges removed one by one (ACDC), and masks that are learned.

ACDC (Conmy et al. 2023) goes from the logits back and lets an edge carry what it does in the corrupt run where that
changes the behaviour by less than a threshold. Masks are hard-concrete gates (Louizos et al. 2018), as subnetwork
probing (Cao et al. 2021) and edge pruning (Bhaskar et al. 2024) learn them. Path patching (Wang et al. 2023) is the
exact effect of single edges. All run on `EdgePatched`, in which only what is named is changed.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.interp.circuit import Circuit, EdgePatched, Graph
from hardy.interp.locator import Locator
from hardy.interp.task import Task
from hardy.runs.progress import progress, track


def acdc(model: nn.Module, task: Task, *, threshold: float = 0.01) -> Circuit:
    """Remove edges one by one, from the logits back; each takes a run of the model.

    Args:
        model, task: as of `hardy.interp.circuit.find`; all examples are run at once.
        threshold: share of the whole effect that an edge must be worth to stay.

    Returns:
        What each edge that stayed was worth when it was tried; 0 for those removed.
    """
    checks.number("threshold", threshold, above=0)
    graph = Graph.of(model)
    patched = EdgePatched(model, graph, task)
    effect = _effect(patched, task)
    corrupted = torch.zeros(graph.possible.shape)
    worth = torch.zeros(graph.possible.shape, dtype=torch.float64)
    score = patched.clean_score.double().mean().item()
    with progress("edges removed one by one", graph.edges) as bar, torch.no_grad():
        for receiver in reversed(range(len(graph.receivers))):
            senders = graph.possible[:, receiver].nonzero().flatten().tolist()
            for sender in reversed(senders):
                corrupted[sender, receiver] = 1
                now = patched.scores(corrupted).double().mean().item()
                lost = (score - now) / effect
                if abs(lost) < threshold:
                    score = now
                else:
                    corrupted[sender, receiver] = 0
                    worth[sender, receiver] = lost
                bar.advance(note=f"{int(corrupted.sum())} removed")
    return Circuit(graph, worth, f"acdc, threshold {threshold:g}")


def learned_masks(
    model: nn.Module, task: Task, *, steps: int = 200, learning_rate: float = 0.1, sparsity: float = 1.0, seed: int = 0
) -> Circuit:
    """Learn a gate for every edge: the behaviour is to stay while as many edges as possible carry the corrupt run.

    Args:
        model, task: as of `hardy.interp.circuit.find`; all examples are run at once.
        steps, learning_rate: of Adam.
        sparsity: weight of the share of edges that are open, beside the squared share of the effect that is lost.
        seed: of the noise in the gates.

    Returns:
        The probability of each edge to be open.
    """
    checks.integer("steps", steps, at_least=1)
    for name, value in (("learning_rate", learning_rate), ("sparsity", sparsity)):
        checks.number(name, value, above=0)
    graph = Graph.of(model)
    patched = EdgePatched(model, graph, task)
    effect = _effect(patched, task)
    clean = patched.clean_score.mean()
    device = task.clean.device
    possible = graph.possible.to(device)
    logits = torch.full(graph.possible.shape, 2.0, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    random = generator(seed, "edge-masks", device=device)
    with torch.enable_grad():
        for _ in track(range(steps), "edge masks"):
            noise = torch.rand(logits.shape, generator=random, device=device).clamp(1e-6, 1 - 1e-6)
            gate = torch.sigmoid((logits + noise.logit()) / _TEMPERATURE) * (_HIGH - _LOW) + _LOW
            closed = (1 - gate.clamp(0, 1)) * possible
            lost = (clean - patched.scores(closed).mean()) / effect
            open_share = _open(logits)[possible].mean()
            loss = lost.square() + sparsity * open_share
            (logits.grad,) = torch.autograd.grad(loss, [logits])
            optimizer.step()
    scores = _open(logits.detach()).cpu().double().masked_fill(~graph.possible, 0.0)
    return Circuit(graph, scores, f"hard-concrete masks, {steps} steps")


_LOW, _HIGH, _TEMPERATURE = -0.1, 1.1, 2 / 3


def _open(logits: torch.Tensor) -> torch.Tensor:
    """Probability that a gate is not 0."""
    return torch.sigmoid(logits - _TEMPERATURE * math.log(-_LOW / _HIGH))


def _effect(patched: EdgePatched, task: Task) -> float:
    effect = (patched.clean_score - patched.corrupt_score).double().mean().item()
    if abs(effect) < 1e-6:
        raise InputError(f"clean and corrupt prompts of {task.name} score the same: nothing tells them apart")
    return effect


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathPatching(Locator):
    """What the path from each object straight to one receiver carries: only that edge has what it has in the corrupt
    run. One run per object.

    Args:
        receiver: "logits", or an input of a block ("blocks.5.attn.q.3", "blocks.5.attn.v.0", "blocks.5.mlp").
    """

    receiver: str = "logits"

    by = "path-patching"
    family = "circuit"
    meaning = "share of the effect that the path to the receiver carries"
    kinds = ("embedding", "head", "ffn")
    why_not = "paths are between heads, MLPs, embedding and logits"

    def check(self) -> None:
        checks.text("receiver", self.receiver)
        if self.per_position:
            raise InputError(f"{self.by} takes all positions of a path at once; per_position=True does not fit")

    @property
    def separates_positions(self) -> bool:
        return False

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        graph = Graph.of(model)
        if self.receiver not in graph.receivers:
            raise InputError(f"receiver must be one of {', '.join(graph.receivers[-4:])} and so on: {self.receiver!r}")
        column = graph.receivers.index(self.receiver)
        ends = {"embedding": "embed", "head": ".attn.z.", "ffn": ".mlp_out"}[self.object]
        senders = [n for n, name in enumerate(graph.senders) if ends in name and graph.possible[n, column]]
        totals, whole = dict.fromkeys(senders, 0.0), 0.0
        for part in task.batches(self.batch):
            patched = EdgePatched(model, graph, part)
            whole += (patched.clean_score - patched.corrupt_score).double().sum().item()
            for sender in track(senders, f"{self.by} {self.object}"):
                mask = torch.zeros(graph.possible.shape)
                mask[sender, column] = 1
                with torch.no_grad():
                    totals[sender] += (patched.clean_score - patched.scores(mask)).double().sum().item()
        if abs(whole) / len(task) < 1e-6:
            raise InputError(f"clean and corrupt prompts of {task.name} score the same: nothing tells them apart")
        return {graph.senders[sender]: total / whole for sender, total in totals.items()}
