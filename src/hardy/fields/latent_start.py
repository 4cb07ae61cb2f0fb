"""What the codec of latents learned on other photographs: filters, networks and tables, 30 KB of integers.

`python -m hardy.fields.latent_training` makes `latent_start.npz` from the two photographs that scikit-learn brings
along. A file names the start that it was made with by its number; a start that files were made with is never changed.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from hardy.fields.latent_context import ContextNetworks, exact_product
from hardy.fields.lifting import Filters

FILE = Path(__file__).with_name("latent_start.npz")
AROUND = tuple((y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0))
_ROWS = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Upsampling:
    """A network that guesses the details between columns and between rows from the smaller plane around a place.

    It sees differences to the place's own value in quarters of a step, and has a hidden layer without biases that ends
    at four steps to both sides: what it guesses of an edge turns with the edge's sign.

    Attributes:
        first: (hidden, 24) int8 over 2^6.
        second: (2, hidden) int8 over 2^6.
    """

    first: np.ndarray
    second: np.ndarray

    def __call__(self, smaller: np.ndarray, step_bits: int) -> np.ndarray:
        """Guesses (2, height, width) int64 for a plane (height, width) int64, a step being 2^`step_bits`."""
        height, width = smaller.shape
        shift = step_bits - 2
        padded = np.pad((smaller + (1 << (shift - 1))) >> shift, 2, mode="edge")
        found = np.empty((2, height, width), dtype=np.int64)
        for top in range(0, height, _ROWS):  # a few rows at a time, so that all of it stays in the cache
            rows = min(_ROWS, height - top)
            own = padded[2 + top : 2 + top + rows, 2 : 2 + width]
            seen = np.empty((len(AROUND), rows, width), dtype=np.float32)
            for index, (y, x) in enumerate(AROUND):
                other = padded[2 + top + y : 2 + top + y + rows, 2 + x : 2 + x + width]
                seen[index] = (other - own).clip(-127, 127)
            hidden = (exact_product(self.first, seen.reshape(len(AROUND), -1)) >> 2).clip(-256, 256)
            guessed = exact_product(self.second, hidden).reshape(2, rows, width)
            found[:, top : top + rows] = guessed.astype(np.int64) << (step_bits - 8) >> 4
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """All that was learned.

    Attributes:
        filters: that put levels together.
        contexts: that say how large a latent may be expected.
        frequencies: (CLASSES, SYMBOLS) int32 of at least 1; of each class they sum to about 4096.
        upsampling: that guesses details.
    """

    filters: Filters
    contexts: ContextNetworks
    frequencies: np.ndarray
    upsampling: Upsampling


@functools.cache
def start() -> Start:
    """The one in the package."""
    with np.load(FILE, allow_pickle=False) as found:
        contexts = ContextNetworks(*(found[f"context_{name}"] for name in _OF_NETWORK))
        upsampling = Upsampling(found["upsampling_first"], found["upsampling_second"])
        return Start(Filters.cdf97(), contexts, found["frequencies"], upsampling)


_OF_NETWORK = ("first", "first_bias", "second", "second_bias")
