"""A picture at another size, in integers, so that it is the same on every machine.

Source: cubic convolution (Keys 1981) with a = -1/2; where a picture shrinks the kernel is as much wider, so that
nothing is skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

_BITS = 14
_REACH = 2


def resampled(pixels: np.ndarray, grid: Sequence[int], largest: int) -> np.ndarray:
    """`pixels` (height, width, channels), integers from 0 to `largest`, on a grid of another size, int64."""
    found = pixels.astype(np.int64)
    for axis, size in enumerate(grid):
        if size != found.shape[axis]:
            places, weights = _taps(found.shape[axis], size)
            moved = np.moveaxis(found, axis, 0)
            total = np.zeros((size, *moved.shape[1:]), dtype=np.int64)
            for tap in range(places.shape[1]):
                total += weights[:, tap, None, None] * moved[places[:, tap]]
            found = np.moveaxis((total + (1 << (_BITS - 1))) >> _BITS, 0, axis)
    return found.clip(0, largest)


@functools.lru_cache(maxsize=8)
def _taps(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """For each new sample the old ones that make it up and their weights, (after, taps) int64, which sum to 2^14."""
    unit = 2 * max(before, after)  # the kernel's 1, where distances are in 1 / (2 after) of an old sample
    reach = _REACH * unit // (2 * after) + 1
    centre = (2 * np.arange(after, dtype=np.int64) + 1) * before - after  # of a new sample
    places = centre[:, None] // (2 * after) + np.arange(-reach, reach + 1)
    weights = _cubic(np.abs(2 * after * places - centre[:, None]), unit)
    kept = weights.any(0)
    places, weights = places[:, kept], weights[:, kept]
    totals = weights.sum(1, keepdims=True)
    weights = (2 * weights * (1 << _BITS) + totals) // (2 * totals)
    weights[np.arange(after), np.abs(weights).argmax(1)] += (1 << _BITS) - weights.sum(1)
    return places.clip(0, before - 1), weights


def _cubic(distance: np.ndarray, unit: int) -> np.ndarray:
    """The kernel times 2^17, where `unit` is one sample."""
    t = (distance << 16) // unit  # 0 to 2 in 2^-16
    square, cube, one = t * t >> 16, (t * t >> 16) * t >> 16, 1 << 16
    near, far = 3 * cube - 5 * square + 2 * one, -cube + 5 * square - 8 * t + 4 * one
    return np.where(t < one, near, np.where(t < 2 * one, far, 0))
