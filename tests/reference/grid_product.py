"""Activations times codes on a grid, one number at a time: the oracle of `hardy.ops.grid_product`."""

import numpy as np
from reference.trit_product import F, quantize_group


def product(x: np.ndarray, codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, width: int) -> np.ndarray:
    """x (tokens, width) float32; codes (rows, groups, group_size), scales and zero points (rows, groups)."""
    rows, groups, size = codes.shape
    result = np.zeros((len(x), rows), dtype=F)
    for token, activations in enumerate(x):
        for g in range(groups):
            rounded, step = quantize_group([float(a) for a in activations[g * size : min((g + 1) * size, width)]])
            shift = F(-sum(rounded))
            for row in range(rows):
                dot = sum(int(code) * number for code, number in zip(codes[row, g], rounded, strict=False))
                total = F(F(scales[row, g]) * F(F(dot) + F(F(zero_points[row, g]) * shift)))
                result[token, row] = F(result[token, row] + F(step * total))
    return result
