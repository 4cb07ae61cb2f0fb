"""Latents of a picture at halved and halved again sizes, and the picture from them, by lifting: in integers one way.

Source: lifting (Sweldens 1998) with the four steps of the CDF 9/7 wavelet (Daubechies and Sweldens 1998) as the start
of the filters. Where we differ: the filters that make a picture from its latents are integers over 2^14, so that all
machines round alike; the other way, which only an encoder goes, is in floating point.

A level takes a plane apart into a smaller one and three details: `right` (between columns), `below` (between rows) and
`across` (both), each next to orthonormal, so that an error of a latent is an error of the picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

FILTER_BITS = 14
CDF97 = (-1.586134342, -0.05298011854, 0.8829110762, 0.4435068522)
GAIN = 1.149604398
"""Of the smaller plane, and one over that of details."""
DETAILS = 3
MOST_LEVELS = 8


def halved(size: int) -> tuple[int, int]:
    """How many of so many samples go to the smaller plane and to the details."""
    return (size + 1) // 2, size // 2


def shapes(grid: Sequence[int], levels: int) -> list[tuple[tuple[int, int], ...]]:
    """Of the three details at each level, the finest first, and last that of the smallest plane."""
    height, width = grid
    found: list[tuple[tuple[int, int], ...]] = []
    for _ in range(levels):
        (height, below), (width, right) = halved(height), halved(width)
        found.append(((height, right), (below, width), (below, right)))
    return [*found, ((height, width),)]


def levels_of(grid: Sequence[int]) -> int:
    """So many that the smallest plane has 4 to 7 rows or columns: 7 for 768 x 512, 0 for 4 x 4."""
    return min(MOST_LEVELS, max(0, (min(grid) // 4).bit_length() - 1)) if min(grid) >= 4 else 0


@dataclasses.dataclass(frozen=True, eq=False)
class Filters:
    """Of all levels.

    Attributes:
        steps: (4,) int64, over 2^14: of the lifting steps, in the order of taking apart.
        low, high: what the smaller plane and details are multiplied by when a picture is made, over 2^14.
    """

    steps: np.ndarray
    low: int
    high: int

    @classmethod
    def cdf97(cls) -> Filters:
        """Those of the 9/7 wavelet."""
        one = 1 << FILTER_BITS
        return cls(np.array([round(step * one) for step in CDF97]), round(one / GAIN), round(one * GAIN))


def taken_apart(plane: np.ndarray, levels: int, filters: Filters) -> list[list[np.ndarray]]:
    """The latents of `plane` (channels, height, width), float, in the order of `shapes`."""
    found = []
    for _ in range(levels):
        low, right = _split(plane, filters)
        (low, below), (right, across) = (_split(part.swapaxes(1, 2), filters) for part in (low, right))
        plane = low.swapaxes(1, 2)
        found.append([right.swapaxes(1, 2), below.swapaxes(1, 2), across.swapaxes(1, 2)])
    return [*found, [plane]]


def put_together(smaller: np.ndarray, details: Sequence[np.ndarray], filters: Filters) -> np.ndarray:
    """Planes (channels, height, width) of one level, from the smaller ones and their three details, int64."""
    right, below, across = details
    low = _join(smaller.swapaxes(1, 2), below.swapaxes(1, 2), filters).swapaxes(1, 2)
    high = _join(right.swapaxes(1, 2), across.swapaxes(1, 2), filters).swapaxes(1, 2)
    return _join(low, high, filters)


def _split(x: np.ndarray, filters: Filters) -> tuple[np.ndarray, np.ndarray]:
    """Halves of the last axis, even and odd samples, float."""
    even, odd = x[..., 0::2].astype(np.float64), x[..., 1::2].astype(np.float64)
    if not odd.shape[-1]:
        return even, odd
    one = float(1 << FILTER_BITS)
    for index, step in enumerate(filters.steps / one):
        if index % 2 == 0:
            odd = odd + step * _beside_odd(even, odd.shape[-1])
        else:
            even = even + step * _beside_even(odd, even.shape[-1])
    return even * (one / filters.low), odd * (one / filters.high)


def _join(even: np.ndarray, odd: np.ndarray, filters: Filters) -> np.ndarray:
    """The opposite of `_split`, in integers."""
    if not odd.shape[-1]:
        return even
    even, odd = _times(even, filters.low), _times(odd, filters.high)
    for index, step in reversed(list(enumerate(filters.steps.tolist()))):
        if index % 2 == 0:
            odd -= _times(_beside_odd(even, odd.shape[-1]), step)
        else:
            even -= _times(_beside_even(odd, even.shape[-1]), step)
    joined = np.empty((*even.shape[:-1], even.shape[-1] + odd.shape[-1]), dtype=np.int64)
    joined[..., 0::2], joined[..., 1::2] = even, odd
    return joined


def _times(x: np.ndarray, factor: int) -> np.ndarray:
    return (x * factor + (1 << (FILTER_BITS - 1))) >> FILTER_BITS


def _beside_odd(even: np.ndarray, count: int) -> Any:
    """The sum of an odd sample's two neighbours; the picture is mirrored at its last sample."""
    after = even[..., 1:] if even.shape[-1] > count else np.concatenate([even[..., 1:], even[..., -1:]], -1)
    return even[..., :count] + after[..., :count]


def _beside_even(odd: np.ndarray, count: int) -> Any:
    """The sum of an even sample's two neighbours; the picture is mirrored at both ends."""
    before = np.concatenate([odd[..., :1], odd[..., : count - 1]], -1)
    after = odd if odd.shape[-1] == count else np.concatenate([odd, odd[..., -1:]], -1)
    return before + after
