"""One account of what a model and its cache hold: weights, packed or not, and keys and values."""

from __future__ import annotations

from typing import Any

from torch import nn

from hardy.artefacts.packing import packed_layers
from hardy.report import Report, Row
from hardy.stream.cache import CompressedCache


def memory(model: nn.Module, cache: CompressedCache) -> Report:
    """Bytes of weights and cache, and what the same would take with 16 bits for every weight, key and value.

    Args:
        model: with packed layers (`hardy.quant`) or without.
        cache: of this model.
    """
    packed = list(packed_layers(model).values())
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    inside = {id(t): t for layer in packed for t in (*layer.parameters(), *layer.buffers())}
    held = {
        "packed weights": sum(t.numel() * t.element_size() for t in inside.values()),
        "other weights": sum(t.numel() * t.element_size() for key, t in tensors.items() if key not in inside),
        "cache": cache.nbytes,
        "unpacking workspace": cache.workspace_bytes,
    }
    others = sum(t.numel() for key, t in tensors.items() if key not in inside)
    sixteen = {
        "packed weights": 2 * sum(layer.weights for layer in packed),
        "other weights": 2 * others,
        "cache": _sixteen_bit_cache(cache),
    }
    held_weights = held["packed weights"] + held["other weights"]
    whole = held_weights + held["cache"]
    rows = [Row(metric="bytes held", condition=name, value=size, unit="B") for name, size in held.items()]
    rows.append(Row(metric="bytes held", condition="weights and cache", value=whole, unit="B"))
    rows += [Row(metric="bytes in 16 bits", condition=name, value=size, unit="B") for name, size in sixteen.items()]
    total = sum(sixteen.values())
    rows.append(Row(metric="bytes in 16 bits", condition="weights and cache", value=total, unit="B"))
    return Report(
        title=f"Memory of {type(model).__name__} and its cache",
        summary=(
            f"Weights {held_weights / 1e6:.4g} MB and cache {held['cache'] / 1e6:.4g} MB, {whole / 1e6:.4g} MB "
            f"together; in 16 bits, with every token seen, {total / 1e6:.4g} MB.",
        ),
        rows=tuple(rows),
        settings={"policy": str(cache.policy), "packed layers": len(packed), **cache.stats},
        notes=(
            "the workspace is of one layer, where attention does not read the packed cache itself (more than one "
            "query, padding, a GPU); it is not part of the sum",
        ),
    )


def _sixteen_bit_cache(cache: CompressedCache) -> int:
    layers: list[Any] = [layer for layer in cache.layers if getattr(layer, "is_initialized", False)]
    total = 0
    for layer in layers:
        batch, heads, dim = layer.store.shape
        tokens = layer.store.seen if layer.window is None else min(layer.store.seen, layer.window - 1)
        total += 4 * batch * heads * dim * tokens
    return total
