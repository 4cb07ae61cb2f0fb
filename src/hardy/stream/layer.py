"""One layer of the cache of a language model, as transformers asks for it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import CacheLayerMixin

from hardy.errors import InputError
from hardy.stream.attention import View
from hardy.stream.bounded import BoundedLayer
from hardy.stream.store import PAGE

if TYPE_CHECKING:
    from hardy.stream.cache import CompressedCache

_NEEDED = {"queries": "the queries of the model", "mlp_out": "what the model's MLPs add"}


class CompressedLayer(BoundedLayer, CacheLayerMixin):
    """One layer of a `CompressedCache`.

    Args:
        cache: it is of.
        number: of the layer.
        window: tokens that a query sees at most, itself included; None for all.
    """

    is_croppable = False

    def __init__(self, cache: CompressedCache, number: int, window: int | None = None) -> None:
        CacheLayerMixin.__init__(self)
        self.window = window
        self.is_sliding = window is not None
        self._cache = weakref.ref(cache)
        self._announced = 0
        BoundedLayer.__init__(self, cache.policy, number, per_head=cache.policy.rule.per_head and window is None)

    @property
    def cache(self) -> CompressedCache:
        cache = self._cache()
        assert cache is not None
        return cache

    @property
    def turn(self) -> int:
        return self.cache.turn

    def reset(self) -> None:
        self.clear()
        self._announced = 0
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

    def get_max_cache_shape(self) -> int:
        """The same, as older releases of transformers call it."""
        return self.get_max_length()

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
        if not self.is_sliding:
            self.show_queries(queries, scale)
        if self.policy.rule.needs != "mlp_out" or self.is_sliding:
            self.settle()

    def after_mlp(self, output: torch.Tensor) -> None:
        """Show the scorer what the MLP adds for the last tokens (batch, n, dim), and evict what is too much."""
        if self.tokens is not None and not self.is_sliding:
            self.show_mlp(output)
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        if self.window is None:
            super().settle()
        else:
            self._settle_window(self.window)

    def evict_to(self, target: int) -> None:
        if self.store.shape[0] > 1 and not self.cache.observed:
            raise InputError(
                f"a batch of {self.store.shape[0]} rows may be padded, which a cache on its own cannot see; evicting "
                'from it needs hardy.stream.observe, CompressedCache.for_model or attn_implementation="hardy"'
            )
        super().evict_to(target)

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
        state = self.held()
        if not self.is_initialized:
            return state | {"known": None}
        return state | {"known": state["known"] | {"dtype": str(self.dtype).removeprefix("torch.")}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.reset()
        if state["known"] is None:
            return
        self.take_back(state)
        self.dtype, self.device = getattr(torch, state["known"]["dtype"]), self.store.positions.device
        self.is_initialized = True
