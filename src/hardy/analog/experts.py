"""The mixture-of-experts blocks of a model, and a router whose logits and choices can be put right.

transformers keeps the experts of a block in (experts, out, in) tensors and has a router module beside them which
gives (logits, weights of the chosen experts, their indices). All of its routers compute their logits as the product
with `weight`, so logits that are scaled and shifted for each expert are those of a wider weight for inputs with one
more feature, which is 1: that is how the router of any architecture takes them, softmax, groups and all.
"""

import copy
import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from hardy.core.roles import weight_tensors
from hardy.errors import InputError
from hardy.hooks import run, watch
from hardy.hooks.point import PointLike

NEVER = -1e4
"""Shift of a logit that keeps an expert from being chosen; representable in every dtype."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A mixture-of-experts block.

    Attributes:
        router: qualified name of the module that chooses.
        experts: of the module with the stacks; shared experts are not among them.
        stacks: its parameters, each (experts, out, in).
        count: how many experts there are.
        top_k: how many see a token.
    """

    router: str
    experts: str
    stacks: tuple[str, ...]
    count: int
    top_k: int


def blocks(model: nn.Module) -> list[Block]:
    """The blocks of `model`, in order.

    Raises:
        InputError: there are none, or one whose router is of an unknown form.
    """
    found = []
    for name, module in model.named_modules():
        experts = getattr(module, "experts", None)
        if not isinstance(experts, nn.Module):
            continue
        stacks = {key: role for key, role in weight_tensors(experts).items() if role is not None}
        if not stacks:
            continue
        count = len(getattr(experts, next(iter(stacks))))
        prefix = f"{name}." if name else ""
        for leaf in ("gate", "router"):
            router: Any = getattr(module, leaf, None)
            weight = getattr(router, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim == 2 and len(weight) == count:
                top_k = getattr(router, "top_k", None)
                if type(top_k) is not int or getattr(router, "bias", None) is not None:
                    raise InputError(
                        f"{prefix}{leaf} ({type(router).__name__}) is no router without bias and with top_k"
                    )
                found.append(Block(f"{prefix}{leaf}", f"{prefix}experts", tuple(stacks), count, top_k))
                break
        else:
            raise InputError(f"{prefix}experts has no router of {count} rows beside it (gate or router)")
    if not found:
        raise InputError(f"{type(model).__name__} has no mixture of experts in stacks with a router beside them")
    return found


class RepairedRouter(nn.Module):
    """A router whose logits are `scale * logits + shift`, and whose choice of an expert may stand for several.

    `weight` stays a parameter of its own under its old name, so that noise falls on it as before; scale, shift and
    shares are digital.

    Args:
        original: the router; or a repaired one, whose repairs are then the ones to begin with.
        scale, shift: (experts,), identity where None.
        members, shares: (experts, copies): which experts take the place of each, and with which share of its weight;
            itself alone where None.
    """

    def __init__(
        self,
        original: Any,
        *,
        scale: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        members: torch.Tensor | None = None,
        shares: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.train(original.training)
        before = original if isinstance(original, RepairedRouter) else None
        self.weight = original.weight
        self.top_k = original.top_k
        self.hidden_dim = self.weight.shape[1]
        if before is None:
            inner = copy.copy(original)
            inner.__dict__ = {**vars(original), "_parameters": dict(original._parameters)}
            if hasattr(inner, "hidden_dim"):
                inner.hidden_dim = self.hidden_dim + 1
        else:
            inner = before.original[0]
        self.original = (inner,)  # in a tuple, so that it is no submodule: its weight is this one's
        ones, zeros = self.weight.new_ones(len(self.weight)).float(), self.weight.new_zeros(len(self.weight)).float()
        own = torch.arange(len(self.weight), device=self.weight.device)[:, None]
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.members: torch.Tensor
        self.shares: torch.Tensor
        for name, given, default in (
            ("scale", scale, ones),
            ("shift", shift, zeros),
            ("members", members, own),
            ("shares", shares, ones[:, None]),
        ):
            value = given if given is not None else default if before is None else getattr(before, name)
            self.register_buffer(name, value.to(self.weight.device), persistent=False)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the router it stands for; with copies the chosen experts of a token are as many times more."""
        hidden = hidden.reshape(-1, self.hidden_dim)
        weight = torch.cat([self.weight * self.scale[:, None], self.shift[:, None]], dim=1).to(self.weight.dtype)
        wider = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        logits, weights, chosen = functional_call(self.original[0], {"weight": weight}, (wider,))
        if self.members.shape[1] > 1:
            weights = (weights[..., None] * self.shares[chosen].to(weights.dtype)).flatten(1)
            chosen = self.members[chosen].flatten(1)
        return logits, weights, chosen


@torch.inference_mode()
def routing(
    model: nn.Module, batches: Iterable[Any], found: list[Block]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the routers of `found` do on `batches`: logits (tokens, experts), and how often each expert is used.

    Raises:
        InputError: a router gives something other than logits, weights and indices.
    """
    logits: list[list[torch.Tensor]] = [[] for _ in found]
    counts = [torch.zeros(block.count, dtype=torch.float64) for block in found]

    def choose(index: int, chosen: torch.Tensor) -> None:
        if chosen.dtype != torch.int64:
            raise InputError(f"{found[index].router} does not give (logits, weights, indices)")
        counts[index].add_(torch.bincount(chosen.flatten().cpu(), minlength=found[index].count))

    points: dict[PointLike, Any] = {}
    for index, block in enumerate(found):
        kept = logits[index]
        points[block.router, "output", 0] = lambda given, kept=kept: kept.append(given.float())
        points[block.router, "output", 2] = functools.partial(choose, index)
    with watch(model, points):
        for batch in batches:
            run(model, batch)
    return [torch.cat(parts) for parts in logits], counts
