"""Activations times trit-planes, one number at a time: the oracle of `hardy.ops.trit_product`."""

import math

import numpy as np

F = np.float32


def quantize_group(activations: list[float]) -> tuple[list[int], np.float32]:
    """int8 codes and the step of one group of float32 activations."""
    if not all(math.isfinite(a) for a in activations):
        return [0] * len(activations), F(math.nan)
    largest = max(abs(a) for a in activations)
    if largest < 2.0**-100:
        return [0] * len(activations), F(0)
    steps = F(127) / F(largest)
    return [round(float(F(a) * steps)) for a in activations], F(largest) / F(127)


def product(x: np.ndarray, trits: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """x (tokens, width) float32; trits (planes, rows, groups, group_size) and scales without the last of these axes."""
    planes, rows, groups, group_size = trits.shape
    result = np.zeros((len(x), rows), dtype=F)
    for token, activations in enumerate(x):
        quantized = [
            quantize_group([float(a) for a in activations[g * group_size : (g + 1) * group_size]])
            for g in range(groups)
        ]
        for row in range(rows):
            for g, (codes, step) in enumerate(quantized):
                total = None
                for plane in range(planes):
                    dot = sum(c * int(t) for c, t in zip(codes, trits[plane, row, g], strict=False))
                    term = F(scales[plane, row, g]) * F(dot)
                    total = term if total is None else F(total + term)
                result[token, row] = F(result[token, row] + F(step * total))
    return result


def packed_line(trits: np.ndarray, row: int, line: int, pairs: int) -> list[int]:
    """The four bytes of `row` in `line` of one group: trits (planes, rows, group_size), with `pairs` lines in pairs.

    A line in pairs holds for each input j of a quad, from the lowest bits up: quad 0 of planes 0 and 1, quad 1 of
    planes 0 and 1. Any other holds four quads of the last plane. What is not there is a trit of zero.
    """

    def code(plane: int, position: int) -> int:
        inside = row < trits.shape[1] and position < trits.shape[2]
        return int(trits[plane, row, position]) + 1 if inside else 1

    four = []
    for j in range(4):
        if line < pairs:
            fields = [code(plane, 8 * line + 4 * quad + j) for quad in range(2) for plane in range(2)]
        else:
            fields = [code(len(trits) - 1, 16 * (line - pairs) + 4 * quad + j) for quad in range(4)]
        four.append(sum(field << (2 * place) for place, field in enumerate(fields)))
    return four
