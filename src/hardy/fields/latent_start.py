"""What the codec of latents learned on other photographs: filters, networks and tables, 30 KB of integers.

`python -m hardy.fields.latent_training` makes `latent_start.npz` from the two photographs that scikit-learn brings
along. A file names the start that it was made with by its number; a start that files were made with is never changed.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from hardy.fields.latent_context import SIZE_BITS, WEIGHT_BITS, ContextNetworks, exact_product
from hardy.fields.lifting import Filters

FILE = Path(__file__).with_name("latent_start.npz")
_REACH = 8 << SIZE_BITS
_MOST_HIDDEN = 1023
_WIDE = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0)]
_NEAR = [(y, x) for y, x in _WIDE if max(abs(y), abs(x)) == 1]
AROUND = (_WIDE, _NEAR, _NEAR)
"""What the synthesis network sees of each of three planes: differences to the pixel's own value."""
_ROWS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Synthesis:
    """A network that goes over three planes once they are put together, and adds to each pixel what it lacks.

    Attributes:
        first: (hidden, 40) int8 over 2^6.
        first_bias: (hidden,) int32 over 2^10.
        second: (3, hidden) int8 over 2^6.
        second_bias: (3,) int32 over 2^10.
    """

    first: np.ndarray
    first_bias: np.ndarray
    second: np.ndarray
    second_bias: np.ndarray

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """Planes (3, height, width) int64, over 2^10 steps, with what they lacked."""
        _, height, width = planes.shape
        padded = np.pad(planes, ((0, 0), (2, 2), (2, 2)), mode="edge")
        found = np.empty_like(planes)
        for top in range(0, height, _ROWS):  # a few rows at a time, so that all of it stays in the cache
            rows = min(_ROWS, height - top)
            seen = differences(padded[:, top : top + rows + 4]).reshape(-1, rows * width)
            hidden = exact_product(self.first, seen) + self.first_bias[:, None]
            hidden = (hidden >> WEIGHT_BITS).clip(0, _MOST_HIDDEN)
            added = exact_product(self.second, hidden) + self.second_bias[:, None]
            found[:, top : top + rows] = planes[:, top : top + rows] + added.reshape(3, rows, width)
        return found


def differences(padded: np.ndarray) -> np.ndarray:
    """What the synthesis network sees, (40, height, width) int16, of planes with two pixels more on each side."""
    height, width = padded.shape[1] - 4, padded.shape[2] - 4
    shift = 10 - SIZE_BITS
    rounded = (padded + (1 << (shift - 1))) >> shift
    found = []
    for plane, around in zip(rounded, AROUND, strict=True):
        own = plane[2 : 2 + height, 2 : 2 + width]
        for y, x in around:
            found.append((plane[2 + y : 2 + y + height, 2 + x : 2 + x + width] - own).clip(-_REACH, _REACH))
    return np.stack(found).astype(np.int16)


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """All that was learned.

    Attributes:
        filters: that put levels together.
        contexts: that say how large a latent may be expected.
        frequencies: (CLASSES, SYMBOLS) int32 of at least 1; of each class they sum to about 4096.
        synthesis: over three planes.
    """

    filters: Filters
    contexts: ContextNetworks
    frequencies: np.ndarray
    synthesis: Synthesis


@functools.cache
def start() -> Start:
    """The one in the package."""
    with np.load(FILE, allow_pickle=False) as found:
        contexts = ContextNetworks(*(found[f"context_{name}"] for name in _OF_NETWORK))
        synthesis = Synthesis(*(found[f"synthesis_{name}"] for name in _OF_NETWORK))
        return Start(Filters.cdf97(), contexts, found["frequencies"], synthesis)


_OF_NETWORK = ("first", "first_bias", "second", "second_bias")
