"""Showing a cache what a model computes: rotated queries by its attention function, MLPs by hooks."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from hardy.errors import InputError
from hardy.hooks import Hooks, watch
from hardy.hooks.caches import cache_of
from hardy.stream.attention import NAME

if TYPE_CHECKING:
    from hardy.stream.cache import CompressedCache


@contextlib.contextmanager
def observe(model: nn.Module, cache: CompressedCache) -> Iterator[None]:
    """While this lasts, each forward of `model` with `cache` shows the cache its queries, and reads it packed.

    Rotated queries exist only inside of attention, where no hook reaches: for the length of such a forward the model's
    attention function is "hardy". Forwards without this cache are as ever, and nothing is left on the model.

    Raises:
        InputError: the model cannot be watched, or the cache was made for another.
    """
    remove = bind(model, cache)
    try:
        yield
    finally:
        remove()


def bind(model: nn.Module, cache: CompressedCache) -> Callable[[], None]:
    """What `observe` does, until the function that this returns is called. The model does not keep the cache alive."""
    configs = _attention_configs(model)
    reference = weakref.ref(cache)
    layers = len(cache.layers)
    if (count := getattr(cache.config, "num_hidden_layers", layers)) != _text_layers(model):
        raise InputError(f"the cache was made for {count} layers, {type(model).__name__} has {_text_layers(model)}")
    running: list[tuple[contextlib.ExitStack, CompressedCache]] = []

    def begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        cache = reference()
        if cache is None or cache_of(kwargs) is not cache:
            return
        stack = contextlib.ExitStack()
        for config in configs:
            stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
            config._attn_implementation = NAME
        if cache.policy.rule.needs == "mlp_out":
            stack.enter_context(_watched_mlps(module, cache))
        stack.enter_context(cache.being_observed())
        running.append((stack, cache))

    def end(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if running and cache_of(kwargs) is running[-1][1]:
            running.pop()[0].close()

    handles = [
        model.register_forward_pre_hook(begin, with_kwargs=True, prepend=True),
        model.register_forward_hook(end, with_kwargs=True, always_call=True),
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove


def _watched_mlps(model: nn.Module, cache: CompressedCache) -> Hooks:
    layers: dict[str, Any] = {f"blocks.{number}.mlp_out": cache.layers[number] for number in cache.full}
    return watch(model, {name: layer.after_mlp for name, layer in layers.items()}, strict=False)


def _attention_configs(model: nn.Module) -> list[Any]:
    """Every configuration that a part of `model` asks for its attention function."""
    found = {id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), "_attn_implementation")}
    if not found:
        raise InputError(f"{type(model).__name__} asks no configuration for its attention; it cannot be observed")
    return list(found.values())


def _text_layers(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    return config.get_text_config(decoder=True).num_hidden_layers
