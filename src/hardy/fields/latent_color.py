"""Details of the planes behind the first as the first one's, times how the smaller planes go together around a place.

Source: prediction of chroma from luma by local least squares, as in VVC (Li and others 2018) and AV1 (CfL, 2018). Where
we differ: slopes are fitted to the smaller planes of a level, which both sides know, so that nothing is written but a
weight for each level and plane; integers only.
"""

from __future__ import annotations

import numpy as np

SLOPE_BITS = 10
WEIGHT_BITS = 4
"""A weight of 2^4 is one."""
LARGEST_WEIGHT = 24
_RADIUS = 2
_VALUE_BITS = 15
_MOST_SLOPE = 4 << SLOPE_BITS


def slopes(smaller: np.ndarray, step_bits: int) -> np.ndarray:
    """How much each plane but the first changes when the first does, around each place.

    Args:
        smaller: planes (planes, height, width) int64; a step between latents is 2^`step_bits`.
        step_bits: see there.

    Returns:
        (planes - 1, height, width) int64 over 2^10, -4 to 4, near zero where the first plane is flat.
    """
    shift = max(step_bits - 4, int(np.abs(smaller).max()).bit_length() - _VALUE_BITS)
    few = smaller >> shift
    flat = (1 << max(0, 2 * (step_bits - shift))) * (2 * _RADIUS + 1) ** 4
    first, *others = few
    variance = _sums(first * first) * (2 * _RADIUS + 1) ** 2 - _sums(first) ** 2 + flat
    found = [
        ((_sums(first * other) * (2 * _RADIUS + 1) ** 2 - _sums(first) * _sums(other)) << SLOPE_BITS) // variance
        for other in others
    ]
    return np.stack(found).clip(-_MOST_SLOPE, _MOST_SLOPE)


def predicted(first: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """A detail (rows, columns) of another plane, where its weight is one, from the first plane's and its slope."""
    rows, columns = first.shape
    part = slope[:rows, :columns]
    part = np.pad(part, ((0, rows - part.shape[0]), (0, columns - part.shape[1])), mode="edge")
    return (part * first) >> SLOPE_BITS


def _sums(plane: np.ndarray) -> np.ndarray:
    """Over the (2 r + 1)^2 places around each; the plane goes on at its edges."""
    for axis in (0, 1):
        edges = [(0, 0), (0, 0)]
        edges[axis] = (_RADIUS + 1, _RADIUS)
        total = np.cumsum(np.pad(plane, edges, mode="edge"), axis)
        width = 2 * _RADIUS + 1
        last, before = (slice(width, None), slice(None, -width))
        plane = total[last] - total[before] if axis == 0 else total[:, last] - total[:, before]
    return plane
