"""Round-to-nearest written weight by weight: the oracle of `hardy.ops.rounding` and `hardy.quant.RoundToNearest`."""

import numpy as np


def round_half_even(x: float) -> float:
    return float(np.rint(x))


def stored_scale(exact: float) -> float:
    """As float16 keeps it; a positive one is never lost to zero."""
    if exact == 0:
        return 0.0
    return max(float(np.float16(np.float32(exact))), 2.0**-24)


def quantize_group(group: list[float], bits: int, symmetric: bool) -> list[float]:
    """The points of the group's grid nearest to its weights, in float32 arithmetic like the real one."""
    f32 = np.float32
    if symmetric:
        top = 2 ** (bits - 1) - 1
        scale = f32(stored_scale(float(f32(max(abs(w) for w in group)) / f32(top))))
        zero = f32(top + 1)
    else:
        low, high = f32(min(0.0, *group)), f32(max(0.0, *group))
        scale = f32(stored_scale(float((high - low) / f32(2**bits - 1))))
        zero = f32(0) if scale == 0 else f32(min(max(round_half_even(float(-low / scale)), 0), 2**bits - 1))
    points = []
    for weight in group:
        step = 0.0 if scale == 0 else round_half_even(float(f32(weight) / scale))
        code = min(max(step + float(zero), 0.0), float(2**bits - 1))
        points.append(float(f32(code - float(zero)) * scale))
    return points


def round_to_nearest(weight: np.ndarray, bits: int, group_size: int | None, symmetric: bool) -> tuple[np.ndarray, int]:
    """`weight` (out, in) after rounding, and the bits it takes to store."""
    rounded, total = np.zeros_like(weight), 0
    out, width = weight.shape
    size = group_size or width
    for row in range(out):
        for begin in range(0, width, size):
            group = [float(w) for w in weight[row, begin : begin + size]]
            rounded[row, begin : begin + size] = quantize_group(group, bits, symmetric)
            total += bits * len(group) + 16 + (0 if symmetric else bits)
    return rounded, total
