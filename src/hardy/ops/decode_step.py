"""What a decoding step of a language model does between its products: normalization, cached attention, gating.

For one token, in float32, on CPU; each function reads and writes tensors that stay where they are, so that a step
allocates nothing. `path` is one of `hardy.ops.kernels.paths()`, or None for torch, which is the reference.

The cache of a layer is float16: keys (key heads, capacity / 16, size, 16), so that a vector holds 16 positions, and
values (key heads, capacity, size).
"""

from typing import Any

import torch

from hardy.ops import kernels

BLOCK = 16
"""Positions that stand side by side in the cache of keys; heads are of a multiple of it."""


def _compiled() -> Any:
    return kernels.extension()


def add_rms_norm(
    path: str | None,
    residual: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    epsilon: float,
    output: torch.Tensor,
) -> None:
    """`residual` += `delta`, unless that is None; `output` = weight * residual / sqrt(mean square + epsilon).

    All tensors are (size,) float32; `output` may be `residual`.
    """
    if path is not None:
        _compiled().add_rms_norm(path, residual, delta, weight, epsilon, output)
        return
    if delta is not None:
        residual += delta
    output.copy_(residual * (residual.square().mean() + epsilon).rsqrt() * weight)


def gate(path: str | None, silu: bool, both: torch.Tensor, output: torch.Tensor) -> None:
    """`output` (size,) = activation(first half of `both`) * second half: SiLU, or GELU in its form with tanh."""
    if path is not None:
        _compiled().gate(path, silu, both, output)
        return
    first, up = both.chunk(2)
    functional = torch.nn.functional
    output.copy_((functional.silu(first) if silu else functional.gelu(first, approximate="tanh")) * up)


def attend(
    path: str | None,
    projected: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    query_norm: torch.Tensor | None,
    key_norm: torch.Tensor | None,
    epsilon: float,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: torch.Tensor,
    window: int,
    scaling: float,
    output: torch.Tensor,
    threads: int,
) -> None:
    """Normalize and rotate a token's query and key, put its key and value into the cache, and attend.

    Args:
        path: see above.
        projected: (heads + 2 * key heads, size): queries, keys, values; what is in it afterwards is not defined.
        cosines, sines: (positions, size) of the rotary embedding, whose second half repeats the first.
        query_norm, key_norm: (size,), weights of RMS norms of each head before the rotation, or None for none.
        epsilon: of those norms.
        keys, values: the cache.
        position: (1,) int64, the token's.
        window: positions that it sees, itself among them.
        scaling: of the scores.
        output: (heads * size,).
        threads: at most so many.
    """
    if path is not None:
        _compiled().attend(
            path, projected, cosines, sines, query_norm, key_norm, epsilon, keys, values, position, window, scaling,
            output, threads,
        )  # fmt: skip
        return
    at, size, key_heads = int(position), keys.shape[2], len(keys)
    heads = projected.view(-1, size)
    queries, fresh, value = heads.split([len(heads) - 2 * key_heads, key_heads, key_heads])
    cosine, sine = cosines[at : at + 1], sines[at : at + 1]
    queries = rotated(normalized(queries, query_norm, epsilon), cosine, sine)
    fresh = rotated(normalized(fresh, key_norm, epsilon), cosine, sine)
    store(keys, values, at, fresh[None], value[None])
    seen_keys, seen_values = seen(keys, values, max(0, at + 1 - window), at + 1)
    grouped = queries.view(key_heads, -1, size)
    weights = (grouped @ seen_keys.transpose(1, 2) * scaling).softmax(-1)
    output.copy_((weights @ seen_values).flatten())


def normalized(heads: torch.Tensor, weight: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """RMS norm of each head (..., size); as it is where there is no weight."""
    return heads if weight is None else torch.nn.functional.rms_norm(heads, weight.shape, weight, epsilon)


def rotated(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Heads (..., size) turned by the rotary embedding: the first half of the numbers against the second."""
    first, second = heads.chunk(2, -1)
    return heads * cosines + torch.cat([-second, first], -1) * sines


def store(keys: torch.Tensor, values: torch.Tensor, at: int, new_keys: torch.Tensor, new_values: torch.Tensor) -> None:
    """Put keys and values (tokens, key heads, size) into the cache from position `at` on."""
    end = at + len(new_keys)
    place = torch.arange(at, end)
    keys[:, place // BLOCK, :, place % BLOCK] = new_keys.half()
    values[:, at:end] = new_values.transpose(0, 1).half()


def seen(keys: torch.Tensor, values: torch.Tensor, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (key heads, positions, size) float32 from position `begin` to `end`."""
    first = begin // BLOCK
    blocks = keys[:, first : -(-end // BLOCK)].float()
    found = blocks.transpose(2, 3).flatten(1, 2)[:, begin - first * BLOCK : end - first * BLOCK]
    return found, values[:, begin:end].float()
