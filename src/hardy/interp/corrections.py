"""Attribution patching corrected where it is known to fail: the two corrections of AtP* (Kramar et al. 2024).

A head whose softmax is saturated has no gradient at its queries and keys, however much other ones would change: the QK
fix recomputes the pattern exactly and takes the first order from there on. And a positive and a negative path of the
same size hide an object from the gradient: GradDrop cuts one block's gradient off after the other, so that one of the
two is seen. For queries and keys `GradDrop` is both, which is AtP*.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hardy import hooks
from hardy.errors import InputError
from hardy.hooks.blocks import blocks_of
from hardy.interp.attention import eager
from hardy.interp.locator import Locator, per_unit, recorded, starting_at, with_gradients
from hardy.interp.task import Task
from hardy.runs.progress import track

_SOFTMAXED = ("query", "key")


def _shares(totals: torch.Tensor, effect: float, task: Task) -> list[float]:
    if abs(effect) / len(task) < 1e-6:
        raise InputError(f"clean and corrupt prompts of {task.name} score the same: nothing tells them apart")
    return (totals / effect).tolist()


@dataclasses.dataclass(frozen=True, kw_only=True)
class QKFix(Locator):
    """What patching a head's queries or keys does, to first order from its pattern on; signed.

    The pattern of every head with its clean queries (or keys) in the corrupt run is computed, one run of a block each,
    and its difference to the corrupt one multiplied with the gradient there. Exact where what follows is linear,
    however flat the softmax. With `per_position` each key position takes a run of its own; queries take none more.
    Attention is computed step by step ("eager") for the run, and put back.
    """

    object: str = "query"

    by = "qk-fix"
    family = "gradient"
    meaning = "share of the effect that the activation carries, to first order from the attention pattern on"
    kinds = _SOFTMAXED
    why_not = "there is no softmax after it; take attribution-patching"

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        units = self.units(model, task)
        total, effect = torch.zeros(len(units), dtype=torch.float64), 0.0
        with eager(model):
            for part in track(list(task.batches(self.batch)), f"{self.by} {self.object}"):
                change = _PatternChange(model, part, self.object, self.separates_positions)
                _, gradients, corrupt = with_gradients(model, change.patterns, part.inputs("corrupt"), part)
                effect += (change.score - corrupt).double().sum().item()
                total += per_unit(units, change.first_order(gradients)).sum(1).cpu()
        return dict(zip(map(str, units), _shares(total, effect, task), strict=True))


class _PatternChange:
    """How the attention patterns of the corrupt run change with the clean queries or keys of their own block.

    Attributes:
        patterns: names of the activations.
        score: of the clean run, (n,).
    """

    def __init__(self, model: nn.Module, task: Task, object: str, per_position: bool) -> None:
        self.object, self.per_position = object, per_position
        self.labels = [block.label for block in blocks_of(model)]
        end = "q" if object == "query" else "k"
        self.points = [f"{label}.attn.{end}" for label in self.labels]
        self.patterns = [f"{label}.attn.pattern" for label in self.labels]
        streams = [f"{label}.resid_pre" for label in self.labels]
        clean, logits = recorded(model, self.points, task.inputs())
        self.score = task.score(logits)
        corrupt, _ = recorded(model, [*streams, *self.points, *self.patterns], task.inputs("corrupt"))
        self.changes: dict[str, list[torch.Tensor]] = {}
        length = task.length if per_position and object == "key" else 1
        for number, (point, pattern) in enumerate(zip(self.points, self.patterns, strict=True)):
            self.changes[point] = []
            self.heads = corrupt[point].shape[2]
            for position in range(length):
                new = clean[point]
                if length > 1:
                    new = corrupt[point].clone()
                    new[:, position] = clean[point][:, position]
                with (
                    torch.no_grad(),
                    starting_at(model, number, corrupt[streams[number]]),
                    hooks.patch(model, {point: lambda x, new=new: new}),
                    hooks.record(model, [pattern], stop=True) as seen,
                ):
                    hooks.run(model, task.inputs("corrupt"))
                self.changes[point].append(seen[pattern].double() - corrupt[pattern].double())

    def first_order(self, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Point -> (n, positions, heads) with the gradients at the patterns; one position where they are not apart."""
        found = {}
        for point, pattern in zip(self.points, self.patterns, strict=True):
            parts = [(change * gradients[pattern].double()).sum(-1) for change in self.changes[point]]  # (n, head, q)
            if self.object == "query":
                found[point] = parts[0].mT
            else:  # heads that share keys are added up
                sums = [part.sum(2).unflatten(1, (self.heads, -1)).sum(2) for part in parts]
                found[point] = torch.stack(sums, 1)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradDrop(Locator):
    """Attribution patching without cancelling: the mean of the sizes of what it finds with the gradient through one
    block after the other cut off. One backward pass per block; queries and keys by the QK fix.
    """

    by = "grad-drop"
    family = "gradient"
    meaning = "share of the effect to first order, mean of sizes with one block's gradient cut off"

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        units = self.units(model, task)
        points = list(dict.fromkeys(unit.point for unit in units))
        labels = [block.label for block in blocks_of(model)]
        total = torch.zeros(len(labels), len(units), dtype=torch.float64)
        effect = 0.0
        softmaxed = self.object in _SOFTMAXED
        with eager(model) if softmaxed else contextlib.nullcontext():
            for part in track(list(task.batches(self.batch)), f"{self.by} {self.object}"):
                if softmaxed:
                    change = _PatternChange(model, part, self.object, self.separates_positions)
                    clean, clean_score, watched = {}, change.score, change.patterns
                else:
                    change = None
                    clean, logits = recorded(model, points, part.inputs())
                    clean_score, watched = part.score(logits), points
                effect += clean_score.double().sum().item()
                for number, label in enumerate(labels):
                    corrupt, gradients, score = self._dropped(model, part, watched, label)
                    effect -= score.double().sum().item() / len(labels)
                    if change is not None:
                        products = change.first_order(gradients)
                    else:
                        products = {
                            point: (clean[point] - corrupt[point]).double() * gradients[point].double()
                            for point in points
                        }
                    total[number] += per_unit(units, products).sum(1).cpu()
        sizes = total.abs().sum(0) / max(1, len(labels) - 1)
        return dict(zip(map(str, units), map(abs, _shares(sizes, effect, task)), strict=True))

    @staticmethod
    def _dropped(model: nn.Module, part: Task, points: Sequence[str], label: str) -> Any:
        cut = {f"{label}.{end}": lambda x: x.detach() for end in ("attn_out", "mlp_out")}
        with hooks.patch(model, cut):
            return with_gradients(model, points, part.inputs("corrupt"), part)
