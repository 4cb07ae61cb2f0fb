"""What one layer keeps within its budget, whatever model it is of: a store, a scorer's memory, and eviction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from hardy import checks
from hardy.errors import InputError
from hardy.stream.eviction import places_to_keep
from hardy.stream.policy import KVPolicy
from hardy.stream.scorers import Memory, Stored
from hardy.stream.store import PAGE, LayerStore


class BoundedLayer:
    """Keys and values of one layer, as its policy has them.

    Args:
        policy: what is kept, in tokens or bytes.
        number: of the layer.
        per_head: whether every head keeps tokens of its own.
        together: tokens that see each other: one of a text, those of a frame.

    Attributes:
        store: what it holds.
        tokens: its budget, known from the first keys on; None for all.
        room: its budget in bytes, where the policy's is; the tokens are what that buys with full pages.
        evicted: tokens that were dropped so far, of each row.
    """

    def __init__(self, policy: KVPolicy, number: int, *, per_head: bool, together: int = 1) -> None:
        self.policy, self.number, self.together = policy, number, together
        self.store = LayerStore(policy.coder, per_head=per_head)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.store.clear()
        self.memory = Memory()
        self.tokens: int | None = None
        self.room: int | None = None
        self.evicted = 0

    @property
    def turn(self) -> int:
        """Position at which the last turn of a chat began."""
        return 0

    def show_queries(self, queries: torch.Tensor, scale: float) -> None:
        """Show the scorer the queries (batch, heads, n, dim) of the last tokens."""
        if self.tokens is not None:
            self.policy.rule.observe_queries(self.memory, queries, self.stored(), scale)

    def show_mlp(self, output: torch.Tensor) -> None:
        """Show the scorer what the MLP adds for the last tokens (batch, n, dim)."""
        if self.tokens is not None:
            self.policy.rule.observe_mlp(self.memory, output.detach(), self.stored())

    @torch.no_grad()
    def settle(self) -> None:
        """Evict what is beyond the budget, and pack what is old enough."""
        policy, store, tokens = self.policy, self.store, self.tokens
        if tokens is not None and store.length > tokens:
            self.evict_to(tokens - policy.evicted_at_once(tokens) + 1)
        if store.plain >= PAGE + policy.first + policy.guard.recent:
            store.seal(policy.plain(store.positions, store.seen))
        while self.room is not None and (over := self.nbytes - self.room) > 0:  # sparse pages take more than full ones
            batch, heads, dim = store.shape
            each = batch * heads * policy.coder.bytes_per_token(dim, PAGE)
            self.evict_to(max(policy.least, store.length - math.ceil(over / each)))

    def evict_to(self, target: int) -> None:
        """Drop all but the best `target` tokens.

        Raises:
            InputError: more than that is protected.
        """
        policy, store = self.policy, self.store
        if store.length <= target:
            raise InputError(
                f"{self.nbytes} bytes of {store.length} tokens do not fit into the {self.room} of layer {self.number}"
            )
        positions = store.positions
        protected = policy.protected(positions, store.seen, self.turn, self.tokens)
        scores = policy.rule.scores(self.stored())
        self.evicted += store.length - target
        store.evict(places_to_keep(scores, protected, positions < 0, store.packed, target))
        policy.rule.forget(self.memory)

    def stored(self) -> Stored:
        """What there is to be scored."""
        store = self.store
        if self.policy.rule.keeps_extra and store.extra is None:
            store.extra = torch.zeros(store.positions.shape, device=store.positions.device)
        made: list[tuple[torch.Tensor, torch.Tensor]] = []

        def dense() -> tuple[torch.Tensor, torch.Tensor]:
            if not made:
                made.append(store.view(torch.float32))
            return made[0]

        stream = self.number, store.seen
        return Stored(dense, store.positions, store.extra, self.memory, stream, self.together)

    def held(self) -> dict[str, Any]:
        """Everything that is kept, as `hardy.runs.checkpoint` takes it."""
        known = {"tokens": self.tokens, "room": self.room, "evicted": self.evicted}
        return {"known": known, "store": self.store.state_dict(), "memory": dataclasses.asdict(self.memory)}

    def take_back(self, state: Mapping[str, Any], device: torch.device | None = None) -> None:
        """Have what `held` gave, on `device` if it is given.

        Raises:
            InputError: its numbers and tensors do not fit each other.
        """
        if device is not None:
            state = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), dict(state))
        self.store.load_state_dict(state["store"])
        self.memory = Memory(**state["memory"])
        known = state["known"]
        limits = (known["tokens"], known["room"])
        self.tokens, self.room = (None if n is None else checks.integer("a budget", n, at_least=0) for n in limits)
        self.evicted = checks.integer("evicted", known["evicted"], at_least=0)

    @property
    def nbytes(self) -> int:
        """Bytes of all that this layer keeps alive."""
        return self.store.nbytes + sum(t.untyped_storage().nbytes() for t in self.memory.tensors)
