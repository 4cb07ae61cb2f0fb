"""What the codec of latents learned on other photographs: filters, networks and tables, 30 KB of integers.

`python -m hardy.fields.latent_training` makes `latent_start.npz` from the two photographs that scikit-learn brings
along. A file names the start that it was made with by its number; a start that files were made with is never changed:
another one is a file and a number more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hardy.fields.latent_context import ContextNetworks, exact_product
from hardy.fields.lifting import Filters

START = 1
"""The number of the start in the package."""
FILE = Path(__file__).with_name("latent_start.npz")
AROUND = tuple((y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0))
PLACES = len(AROUND)
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
        found = np.empty((2, height, width), dtype=np.int64)
        for top in range(0, height, _ROWS):  # a few rows at a time, so that all of it stays in the cache
            rows = slice(top, min(height, top + _ROWS))
            seen = seen_around(smaller, step_bits, rows).reshape(PLACES, -1)
            hidden = (exact_product(self.first, seen) >> 2).clip(-256, 256)
            guessed = exact_product(self.second, hidden).reshape(2, -1, width).astype(np.int64)
            found[:, rows] = guessed << (step_bits - 8) >> 4
        return found


def seen_around(smaller: np.ndarray, step_bits: int, rows: slice = slice(None)) -> np.ndarray:
    """What the network sees in some rows: differences in quarters of a step, (PLACES, rows, width) float32."""
    height, width = smaller.shape
    top, end, _ = rows.indices(height)
    shift = step_bits - 2
    above, below = min(2, top), min(2, height - end)
    part = (smaller[top - above : end + below] + (1 << (shift - 1))) >> shift
    padded = np.pad(part, ((2 - above, 2 - below), (2, 2)), mode="edge").astype(np.float32)
    own = padded[2:-2, 2:-2]
    seen = np.empty((PLACES, end - top, width), dtype=np.float32)
    for index, (y, x) in enumerate(AROUND):
        np.subtract(padded[2 + y : 2 + y + end - top, 2 + x : 2 + x + width], own, out=seen[index])
    return seen.clip(-127, 127, out=seen)


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


def made(tables: Mapping[str, np.ndarray]) -> Start:
    """The start of the arrays of a file."""
    names = ("first", "first_bias", "second", "second_bias")
    contexts = ContextNetworks(*(tables[f"context_{name}"] for name in names))
    upsampling = Upsampling(tables["upsampling_first"], tables["upsampling_second"])
    return Start(Filters.cdf97(), contexts, tables["frequencies"], upsampling)


@functools.cache
def _in_the_package() -> Start:
    with np.load(FILE, allow_pickle=False) as found:
        return made(found)


_used: list[Start] = []


def start() -> Start:
    """The one in the package, or the one that is being learned."""
    return _used[-1] if _used else _in_the_package()


@contextlib.contextmanager
def using(tables: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Another start: for learning one."""
    _used.append(made(tables))
    try:
        yield
    finally:
        _used.pop()
