"""Rounding with error feedback as optimal brain surgery: the inverse Hessian itself, one input eliminated at a time.

No Cholesky factor, no blocks, float64, a row at a time: the oracle of `hardy.ops.feedback` and what is built on it.
"""

from collections.abc import Callable

import numpy as np
from reference import trits as reference


def damped(gram: np.ndarray, damping: float) -> np.ndarray:
    hessian = gram.copy()
    powers = [gram[i, i] for i in range(len(gram)) if gram[i, i] > 0]
    for i in range(len(gram)):
        hessian[i, i] = hessian[i, i] + damping * sum(powers) / len(powers) if gram[i, i] > 0 else 1.0
    return hessian


def eliminated(inverse: np.ndarray, i: int) -> np.ndarray:
    """The inverse Hessian of the inputs that are left when input i is settled."""
    return inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]


def surgery(
    row: np.ndarray, inverse: np.ndarray, inputs: list[int], nearest: Callable[[float], float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Round `inputs` in turn: the row so far, the rounded values, the inverse of what is left, and the error."""
    row, rounded, cost = row.copy(), np.zeros(len(inputs)), 0.0
    for place, i in enumerate(inputs):
        rounded[place] = nearest(row[i])
        error = row[i] - rounded[place]
        cost += error**2 / inverse[i, i]
        row = row - error / inverse[i, i] * inverse[i]
        inverse = eliminated(inverse, i)
    return row, rounded, inverse, cost


def visits(powers: np.ndarray, size: int, order: str) -> list[list[int]]:
    groups = [list(range(begin, min(begin + size, len(powers)))) for begin in range(0, len(powers), size)]
    if order == "given":
        return groups
    groups = [sorted(group, key=lambda i: -powers[i]) for group in groups]
    return sorted(groups, key=lambda group: -np.mean(powers[group]))


def gptq_row(
    row: np.ndarray, gram: np.ndarray, size: int, damping: float, order: str, grid: Callable[[np.ndarray], Callable]
) -> np.ndarray:
    """A row rounded; `grid(weights)` of a group gives its rounding."""
    inverse, result = np.linalg.inv(damped(gram, damping)), np.zeros(len(row))
    for inputs in visits(np.diag(gram), size, order):
        row, result[inputs], inverse, _ = surgery(row, inverse, inputs, grid(row[inputs]))
    return result


def trits_row(
    row: np.ndarray, gram: np.ndarray, planes: int, size: int, damping: float, order: str, iterations: int
) -> np.ndarray:
    """A row as trit-planes: in each group trits with feedback and scales by regression, in turn, the best kept."""
    inverse, result = np.linalg.inv(damped(gram, damping)), np.zeros(len(row))
    for inputs in visits(np.diag(gram), size, order):
        weights = row[inputs]
        _, scales, _ = reference.fit_group(weights.tolist(), planes, ("sign", "magnitude"), 50)
        hessian = np.linalg.inv(inverse[np.ix_(inputs, inputs)])
        best = None
        for _ in range(iterations):
            chosen: list[tuple[int, ...]] = []

            def nearest(weight: float, scales: list[float] = scales, chosen: list = chosen) -> float:
                chosen.append(reference.nearest(weight, scales))
                return sum(s * t for s, t in zip(scales, chosen[-1], strict=True))

            found = surgery(row, inverse, inputs, nearest)
            if best is None or found[3] < best[3]:
                best = found
            trits = np.array(chosen, dtype=float).T
            exact = np.linalg.solve(trits @ hessian @ trits.T, trits @ hessian @ weights)
            scales = [reference.stored_scale(abs(scale)) for scale in exact]
        assert best is not None
        row, result[inputs], inverse, _ = best
    return result
