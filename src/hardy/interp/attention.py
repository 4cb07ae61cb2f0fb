"""What attention looks at: heads that match prefixes (induction), and heads that rest on the first token (sinks)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from hardy import hooks
from hardy.errors import InputError
from hardy.interp.locator import Locator
from hardy.interp.task import Task, last_logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixMatching(Locator):
    """How much each head attends from a repeated token to the token after its earlier occurrence: induction heads.

    Needs attention that is computed step by step: `model.set_attn_implementation("eager")`; it is set for the run and
    put back.
    """

    by = "prefix-matching"
    family = "magnitude"
    meaning = "attention to the token after the earlier occurrence of the same token"
    unit = "attention"
    kinds = ("head",)
    why_not = "it reads attention patterns"
    needs_corrupt = False

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        same = task.clean.unsqueeze(2) == task.clean.unsqueeze(1)  # (n, query, key)
        earlier = same.tril(-1)
        if task.mask is not None:
            earlier = earlier & (task.mask.unsqueeze(1) * task.mask.unsqueeze(2)).bool()
        target = earlier.roll(1, 2)  # the key one later; what rolls over is no key before any query
        target[..., 0] = False
        rows = target.any(2)
        if not rows.any():
            raise InputError(f"no token of {task.name} occurs twice, so there is no prefix to match")
        found = {}
        for name, pattern in patterns(model, task).items():
            weight = (pattern.float() * target.unsqueeze(1)).sum(3)  # (n, head, query)
            means = (weight * rows.unsqueeze(1)).sum((0, 2)) / rows.sum()
            found |= {f"{name}.attn.z.{head}": value for head, value in enumerate(means.tolist())}
        return found


@contextlib.contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Attention that is computed step by step, so that its pattern can be seen, for as long as the block lasts."""
    chosen = getattr(getattr(model, "config", None), "_attn_implementation", None)
    setter = getattr(model, "set_attn_implementation", None)
    if chosen in (None, "eager") or not callable(setter):
        yield
        return
    setter("eager")
    try:
        yield
    finally:
        setter(chosen)


def patterns(model: nn.Module, task: Task) -> dict[str, torch.Tensor]:
    """ "blocks.3" -> attention pattern (n, head, query, key) on the clean prompts."""
    with eager(model), torch.no_grad(), hooks.record(model, "blocks.*.attn.pattern") as seen:
        last_logits(model, task.inputs())
    return {str(name).removesuffix(".attn.pattern"): pattern for name, pattern in seen.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sink(Locator):
    """How much of its attention each head gives to the first token: attention sinks (Xiao et al. 2024).

    Sets "eager" attention for the run, as `PrefixMatching` does.
    """

    by = "sink"
    family = "magnitude"
    meaning = "attention to the first token, mean over later ones"
    unit = "attention"
    kinds = ("head",)
    why_not = "it reads attention patterns"
    needs_corrupt = False

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        n, length = task.clean.shape
        real = torch.ones(n, length, dtype=torch.bool) if task.mask is None else task.mask.bool().cpu()
        first = real.long().argmax(1)
        later = real & (torch.arange(length) > first.unsqueeze(1))
        if not later.any():
            raise InputError(f"the prompts of {task.name} have one token: there is no later one that could rest on it")
        found = {}
        for name, pattern in patterns(model, task).items():
            to_first = pattern.float().cpu().gather(3, first.view(n, 1, 1, 1).expand(*pattern.shape[:3], 1))[..., 0]
            means = (to_first * later.unsqueeze(1)).sum((0, 2)) / later.sum()
            found |= {f"{name}.attn.z.{head}": value for head, value in enumerate(means.tolist())}
        return found
