"""The spectral scores of LieQ as written: outputs are formed, singular values taken, sums written out in loops."""

import math

import torch


def singular_values(inputs: torch.Tensor, weight: torch.Tensor) -> list[float]:
    """Of Z = W H, for `inputs` H^T (tokens, in) and `weight` W (out, in): those that can be more than 0."""
    outputs = [[dot(row, token) for token in inputs.tolist()] for row in weight.tolist()]
    return torch.linalg.svdvals(torch.tensor(outputs, dtype=torch.float64)).tolist()[: min(weight.shape)]


def dot(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def compactness(values: list[float]) -> float:
    total = sum(value**2 for value in values)
    entropy = 0.0
    for value in values:
        share = value**2 / total
        if share > 0:
            entropy -= share * math.log(share)
    return math.exp(entropy)


def top_share(values: list[float]) -> float:
    k = max(1, math.ceil(0.1 * len(values)))
    return sum(value**2 for value in sorted(values, reverse=True)[:k]) / sum(value**2 for value in values)
