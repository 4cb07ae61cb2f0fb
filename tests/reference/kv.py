"""Scores of cached tokens, written out from their definitions, one token at a time."""

import math

import torch


def pooled_query(q: torch.Tensor, k: torch.Tensor, pool: int, special: int) -> list[float]:
    """XStreamVGGT's: means over heads, special queries as they are, others in windows; mean of plain dot products."""
    queries = [q[:, i].double().mean(0) for i in range(q.shape[1])]
    rows = queries[:special]
    rest = queries[special:]
    for begin in range(0, len(rest), pool):
        window = rest[begin : begin + pool]
        rows.append(sum(window) / len(window))  # pyright: ignore[reportArgumentType]
    keys = [k[:, j].double().mean(0) for j in range(k.shape[1])]
    return [sum(float(row @ key) for row in rows) / len(rows) for key in keys]


def attention_received(
    q: torch.Tensor, k: torch.Tensor, positions: list[int], last: int, scale: float
) -> list[list[float]]:
    """Softmax of each query over the keys it may see, summed over queries and the heads that share a key."""
    heads, group, count = k.shape[0], q.shape[0] // k.shape[0], q.shape[1]
    found = [[0.0] * len(positions) for _ in range(heads)]
    for head in range(q.shape[0]):
        for i in range(count):
            place = last - count + 1 + i
            seen = [j for j, position in enumerate(positions) if 0 <= position <= place]
            weights = [math.exp(scale * float(q[head, i].double() @ k[head // group, j].double())) for j in seen]
            for j, weight in zip(seen, weights, strict=True):
                found[head // group][j] += weight / sum(weights)
    return found


def key_diversity(k: torch.Tensor) -> list[float]:
    """1 - cosine of each key (tokens, dim) with the mean of the unit keys."""
    unit = [key.double() / key.double().norm() for key in k]
    mean = sum(unit) / len(unit)
    return [1 - float(key @ mean) for key in unit]  # pyright: ignore[reportArgumentType]
