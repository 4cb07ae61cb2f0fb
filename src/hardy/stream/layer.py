"""One layer of the cache: its store, what its scorer has gathered, and when it evicts and packs."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import CacheLayerMixin

from hardy.errors import InputError
from hardy.stream.attention import View
from hardy.stream.eviction import places_to_keep
from hardy.stream.scorers import Memory, Stored
from hardy.stream.store import PAGE, LayerStore

if TYPE_CHECKING:
    from hardy.stream.cache import CompressedCache

_NEEDED = {"queries": "the queries of the model", "mlp_out": "what the model's MLPs add"}


class CompressedLayer(CacheLayerMixin):
    """One layer of a `CompressedCache`.

    Attributes:
        store: what it holds.
        tokens: its budget, known from the first keys on; None for all.
        room: its budget in bytes, where the policy's is; the tokens are what that buys with full pages.
        evicted: tokens that were dropped so far, of each row.
    """

    is_croppable = False

    def __init__(self, cache: CompressedCache, number: int, window: int | None = None) -> None:
        super().__init__()
        self.number, self.window = number, window
        self.is_sliding = window is not None
        self._cache = weakref.ref(cache)
        per_head = cache.policy.rule.per_head and window is None
        self.store = LayerStore(cache.policy.coder, per_head=per_head)
        self.reset()

    @property
    def cache(self) -> CompressedCache:
        cache = self._cache()
        assert cache is not None
        return cache

    def reset(self) -> None:
        self.store.clear()
        self.memory = Memory()
        self.tokens: int | None = None
        self.room: int | None = None
        self.evicted = self._announced = 0
        self.is_initialized = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads, _, dim = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.tokens, self.room = self.cache.budget_of(self.number, batch, heads, dim)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in new keys and values; all that attention is to see, dense.

        Raises:
            InputError: a value is not finite in 16 bits; the scorer needs what nobody shows it; or padding or budgets
                per layer need the attention "hardy" and it is off.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        observed = self.cache.observed
        rule, count = self.cache.policy.rule, key_states.shape[2]
        if self.tokens is not None and not self.is_sliding and rule.needs != "nothing" and not observed:
            raise InputError(
                f"the scorer {rule.name} needs {_NEEDED[rule.needs]}: run the model inside of "
                "`with hardy.stream.observe(model, cache):`, or make the cache by CompressedCache.for_model"
            )
        stored = self.store.length
        announced, self._announced = self._announced, 0
        masked = count > 1 or self.cache.config._attn_implementation == "eager"
        if not observed and masked and not self.is_sliding and announced not in (0, stored + count):
            raise InputError(
                f"layer {self.number} holds {stored} tokens and the mask was made for {announced - count}: layers with "
                'budgets of their own need attn_implementation="hardy", or hardy.stream.observe'
            )
        self.store.append(key_states, value_states)
        view = View(self, key_states, value_states, self._first_visible(stored))
        if observed:
            return view.tensors()
        dense = view.dense()
        self.settle()
        return dense

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        if not self.cache.observed and not self.is_sliding:
            self.cache.level()
        seen = self.store.seen
        stored = self.store.length - self._first_visible(self.store.length)
        self._announced = stored + query_length
        for layer in self.cache.layers:  # one mask serves all layers of its kind
            if isinstance(layer, CompressedLayer) and layer.is_sliding == self.is_sliding:
                layer._announced = self._announced
        return stored + query_length, seen - stored

    def get_seq_length(self) -> int:
        return self.store.seen

    def get_max_length(self) -> int:
        return -1

    def note_padding(self, mask: torch.Tensor | None, count: int) -> None:
        """Mark new tokens that not even the last query sees as padding."""
        if mask is None or count == 1:
            return
        new = mask[:, 0, -1, -count:]
        hidden = ~new if new.dtype == torch.bool else new != 0
        if self.window is not None:
            hidden[:, : -self.window] = False  # out of the window, whatever they are
        if hidden.any():
            self.store.positions[..., -count:].masked_fill_(hidden[:, None], -1)
            self.store.padded = True

    def after_attention(self, queries: torch.Tensor, scale: float) -> None:
        """Show the scorer the queries (batch, heads, n, dim) of the last tokens, and evict what is too much."""
        rule = self.cache.policy.rule
        if self.tokens is not None and not self.is_sliding:
            rule.observe_queries(self.memory, queries, self._stored(), scale)
        if rule.needs != "mlp_out" or self.is_sliding:
            self.settle()

    def after_mlp(self, output: torch.Tensor) -> None:
        """Show the scorer what the MLP adds for the last tokens (batch, n, dim), and evict what is too much."""
        if self.tokens is not None and not self.is_sliding:
            self.cache.policy.rule.observe_mlp(self.memory, output.detach(), self._stored())
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Evict what is beyond the budget, and pack what is old enough."""
        if self.window is not None:
            self._settle_window(self.window)
            return
        policy, store, tokens = self.cache.policy, self.store, self.tokens
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
            InputError: more than that is protected, or the rows of a batch may be padded and nobody would see it.
        """
        policy, store = self.cache.policy, self.store
        if store.shape[0] > 1 and not self.cache.observed:
            raise InputError(
                f"a batch of {store.shape[0]} rows may be padded, which a cache on its own cannot see; evicting from "
                'it needs hardy.stream.observe, CompressedCache.for_model or attn_implementation="hardy"'
            )
        if store.length <= target:
            raise InputError(
                f"{self.nbytes} bytes of {store.length} tokens do not fit into the {self.room} of layer {self.number}"
            )
        positions = store.positions
        protected = policy.protected(positions, store.seen, self.cache.turn, self.tokens)
        scores = policy.rule.scores(self._stored())
        self.evicted += store.length - target
        store.evict(places_to_keep(scores, protected, positions < 0, store.packed, target))
        policy.rule.forget(self.memory)

    def _settle_window(self, window: int) -> None:
        store = self.store
        extra, recent = store.length - (window - 1), self.cache.policy.guard.recent
        if extra >= PAGE:
            keep = torch.arange(extra, store.length, device=store.positions.device)
            store.evict(keep.expand(store.shape[0], 1, -1))
            self.evicted += extra
        if store.plain >= PAGE + recent:
            places = torch.arange(store.length, device=store.positions.device)
            store.seal((places >= store.length - recent).expand(store.positions.shape))

    def _first_visible(self, stored: int) -> int:
        """Of `stored` tokens those before this one are out of the window."""
        return 0 if self.window is None else max(0, stored - (self.window - 1))

    def _stored(self) -> Stored:
        store, rule = self.store, self.cache.policy.rule
        if rule.keeps_extra and store.extra is None:
            store.extra = torch.zeros(store.positions.shape, device=store.positions.device)
        made: list[tuple[torch.Tensor, torch.Tensor]] = []

        def dense() -> tuple[torch.Tensor, torch.Tensor]:
            if not made:
                made.append(store.view(torch.float32))
            return made[0]

        return Stored(dense, store.positions, store.extra, self.memory, (self.number, store.seen))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            rows = torch.arange(self.store.shape[0], device=self.device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.is_initialized:
            self.store.select_rows(indices)
            self.memory.select_rows(indices)

    def state_dict(self) -> dict[str, Any]:
        """What this layer holds, and what it knows of itself."""
        known = None
        if self.is_initialized:
            kind = str(self.dtype).removeprefix("torch.")
            known = {"tokens": self.tokens, "room": self.room, "evicted": self.evicted, "dtype": kind}
        return {"known": known, "store": self.store.state_dict(), "memory": dataclasses.asdict(self.memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.reset()
        if state["known"] is None:
            return
        self.store.load_state_dict(state["store"])
        self.memory = Memory(**state["memory"])
        self.tokens, self.room, self.evicted = (state["known"][name] for name in ("tokens", "room", "evicted"))
        self.dtype, self.device = getattr(torch, state["known"]["dtype"]), self.store.positions.device
        self.is_initialized = True

    @property
    def nbytes(self) -> int:
        """Bytes of all that this layer keeps alive."""
        return self.store.nbytes + sum(t.untyped_storage().nbytes() for t in self.memory.tensors)
