"""A cache for `generate` of transformers that stays within its budget, in few bits.

`update` gives dense keys and values, as transformers asks of every cache, whatever attention the model has. Positions
count what was seen, not what is kept, so a token keeps the rotation it had. Layers with a sliding window keep that
window, packed, and no more.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from hardy.errors import InputError
from hardy.stream.attention import NAME, register
from hardy.stream.layer import CompressedLayer
from hardy.stream.observing import bind
from hardy.stream.policy import KVPolicy
from hardy.stream.store import PAGE


class CompressedCache(Cache):
    """Keys and values of a language model within a budget: `model.generate(..., past_key_values=cache)`.

    Args:
        config: of the model.
        policy: what is kept; everything, in 16 bits, by default.

    Attributes:
        turn: position at which the last turn of a chat began, for `Protect(turn=True)`.

    Raises:
        InputError: the model has no keys and values, or layers whose cache is of another kind; the budget is in frames,
            or less than what is protected.
    """

    def __init__(self, config: PreTrainedConfig, policy: KVPolicy | None = None) -> None:
        register()
        self.policy = KVPolicy() if policy is None else policy
        self.config = config.get_text_config(decoder=True)
        self.turn = 0
        self._watchers = 0
        limit = self.policy.limit
        if limit is not None and limit.unit == "frames":
            raise InputError(f"a budget of {limit} is for streams of frames; a language model's is in tokens or bytes")
        if self.policy.guard.frame:
            raise InputError('protect="frame" is for streams of frames; a language model has protect="turn"')
        if limit is not None and limit.unit == "tokens" and limit.amount < self.policy.least:
            first, recent = self.policy.first, self.policy.guard.recent
            raise InputError(
                f"a budget of {limit} is less than what is protected ({first} first and {recent} recent tokens) and "
                f"one more; give at least {self.policy.least}, or protect less"
            )
        super().__init__(layers=[self._layer(*each) for each in enumerate(_dense_layers(self.config))])
        self.shares = dict(zip(self.full, self.policy.shares(self.full), strict=True))

    def _layer(self, number: int, dense: Any) -> Any:
        """What stands for a layer of transformers' own cache of the model."""
        kinds = getattr(self.config, "layer_types", None)
        kind = kinds[number] if kinds else type(dense).__name__
        if type(dense).__name__ == "DummyLayer":  # reads the keys and values of another layer; older releases lack it
            return dense
        if type(dense) is DynamicLayer:
            return CompressedLayer(self, number)
        if type(dense) is DynamicSlidingWindowLayer and kind != "chunked_attention":
            return CompressedLayer(self, number, dense.sliding_window)
        raise InputError(f"layer {number} is {kind}, which has no keys and values that this cache could keep")

    @classmethod
    def for_model(cls, model: nn.Module, policy: KVPolicy | None = None) -> CompressedCache:
        """A cache that is shown the queries of `model` whenever the model runs with it, and only then."""
        return cls(_config_of(model), policy)._bound_to(model)

    def _bound_to(self, model: nn.Module) -> CompressedCache:
        weakref.finalize(self, bind(model, self))
        return self

    @property
    def full(self) -> list[int]:
        """Numbers of the layers of full attention, whose tokens the budget counts."""
        return [layer.number for layer in self._mine if not layer.is_sliding]

    @property
    def observed(self) -> bool:
        """Whether the attention function that runs now is the one that reads this cache."""
        return self._watchers > 0 or self.config._attn_implementation == NAME

    @contextlib.contextmanager
    def being_observed(self) -> Iterator[None]:
        """For as long as a model runs whose attention and MLPs are shown to this cache."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor that this cache keeps alive. What a forward unpacks comes on top, one layer at a time:
        `workspace_bytes`."""
        return sum(layer.nbytes for layer in self._mine)

    @property
    def workspace_bytes(self) -> int:
        """Bytes of one layer's keys and values when they are unpacked; none where attention reads the packed ones."""
        sizes = [0]
        for layer in self._mine:
            if layer.is_initialized:
                batch, heads, dim = layer.store.shape
                sizes.append(2 * batch * heads * dim * layer.store.length * layer.dtype.itemsize)
        return max(sizes)

    @property
    def stats(self) -> dict[str, int]:
        """Tokens seen, kept by the layer that keeps most, evicted and requantized in all; bytes, and pages."""
        layers = self._mine
        return {
            "seen": max((layer.store.seen for layer in layers), default=0),
            "kept": max((layer.store.length for layer in layers if not layer.is_sliding), default=0),
            "evicted": sum(layer.evicted for layer in layers),
            "bytes": self.nbytes,
            "pages": sum(layer.store.page_count for layer in layers),
            "requantized": sum(layer.store.requantized for layer in layers),
        }

    def begin_turn(self) -> None:
        """Say that a turn of a chat begins here: it is protected where the policy protects turns."""
        self.turn = self.get_seq_length()

    def reset(self) -> None:
        super().reset()
        self.turn = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything this cache holds, as `hardy.runs.checkpoint` takes it."""
        return {"turn": self.turn, "layers": [layer.state_dict() for layer in self._mine]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have what `state_dict` of a cache of the same model and policy gave."""
        self.turn = state["turn"]
        for layer, held in zip(self._mine, state["layers"], strict=True):
            layer.load_state_dict(held)

    def copy(self, model: nn.Module | None = None) -> CompressedCache:
        """Another cache that holds the same, for a stream that goes two ways.

        Args:
            model: as of `for_model`; without it the copy is bound to no model.
        """
        other = CompressedCache(self.config, self.policy)
        if model is not None:
            other._bound_to(model)
        other.load_state_dict(tree_map_only(torch.Tensor, torch.clone, self.state_dict()))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressedCache:
        return self.copy()

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: what was evicted cannot come back."""
        raise InputError("a compressed cache cannot be cropped; generate without an assistant model")

    def budget_of(self, number: int, batch: int, heads: int, dim: int) -> tuple[int | None, int | None]:
        """The budget of a layer in tokens, and in bytes where the policy's is; None for all."""
        limit = self.policy.limit
        if limit is None or number not in self.shares:
            return None, None
        share = self.shares[number]
        if limit.unit == "tokens":
            return max(self.policy.least, int(limit.amount * share)), None
        shape = batch, heads, self.config.num_attention_heads, dim
        windows = sum(self.policy.bytes_of(w.window - 1 + PAGE, *shape) for w in self._mine if w.window is not None)
        room = int((limit.amount - windows) / len(self.full) * share)
        if room <= 0:
            raise InputError(f"the windows of the sliding layers take {windows} bytes alone, the budget is {limit}")
        return self.policy.tokens_in(room, *shape), room

    def level(self) -> None:
        """Have all layers that share a mask hold as many tokens, where bytes made some of them hold fewer."""
        if self.policy.limit is not None and self.policy.limit.unit == "bytes" and self.policy.layers is None:
            layers = [layer for layer in self._mine if not layer.is_sliding]
            least = min(layer.store.length for layer in layers)
            for layer in layers:
                if layer.store.length > least:
                    layer.evict_to(least)

    @property
    def _mine(self) -> list[CompressedLayer]:
        return [layer for layer in self.layers if isinstance(layer, CompressedLayer)]


def _config_of(model: nn.Module) -> PreTrainedConfig:
    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise InputError(f"{type(model).__name__} has no config of transformers; a cache is for a language model of it")
    return config


def _dense_layers(config: Any) -> list[Any]:
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{type(config).__name__} is of a model with encoder and decoder; only decoders are supported")
    if not hasattr(config, "num_attention_heads") or not getattr(config, "num_hidden_layers", 0):
        raise InputError(f"{type(config).__name__} is of a model without keys and values: there is nothing to cache")
    return DynamicCache(config=config).layers
