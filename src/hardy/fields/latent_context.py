"""What is known of a latent before it is decoded, and how large it may be expected: a small network of integers.

Latents are decoded from the coarsest level to the finest, planes in turn, the three details in turn, and within a
detail in four phases, the places (even, even), (odd, odd), (even, odd) and (odd, even): all of a phase at once, from
what came before. The network sees sizes around the place in the same detail, at the coarser level, in the details
before and in the planes before, and gives a class; each class has a table of frequencies (`latent_entropy`).
Products are sums of integers below 2^24, which float32 holds exactly in any order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from hardy.fields.lifting import DETAILS

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
PLANES = 3
"""Kinds of planes that the networks know: the first, the second, and all others."""
LEVELS = 4
"""Kinds of levels: the three finest, and all others."""
_MARGIN = 3
BESIDE = ((0, -1), (0, 1), (-1, 0), (1, 0))
NEAR = (*BESIDE, (-1, -1), (-1, 1), (1, -1), (1, 1))
FAR = (
    ((0, -2), (0, 2)),
    ((-2, 0), (2, 0)),
    ((-1, -2), (-1, 2), (1, -2), (1, 2), (-2, -1), (-2, 1), (2, -1), (2, 1)),
)
FEATURES = len(NEAR) + len(FAR) + 7 + 6 + 4
"""Around the place, at the coarser level, in the details before, in the planes before."""
NETWORKS = PLANES * DETAILS * len(PHASES)

# Symbols: sizes up to 11 are themselves; beyond, a symbol stands for 2, 4, 8, ... sizes.
DIRECT = 12
SYMBOLS = 28
_SYMBOL = np.arange(SYMBOLS)
EXTRA_BITS = np.maximum(0, _SYMBOL - DIRECT + 1)
SMALLEST = np.where(_SYMBOL < DIRECT, _SYMBOL, DIRECT - 2 + (1 << np.maximum(1, EXTRA_BITS)))
"""Of the sizes that a symbol stands for; with `EXTRA_BITS` more bits that say which."""
LARGEST = int(SMALLEST[-1] + (1 << EXTRA_BITS[-1]) - 1)
LOGARITHM = np.round(16 * np.log2(1 + SMALLEST)).clip(0, 127).astype(np.uint8)
"""What the network sees of a symbol."""


def symbols_of(sizes: np.ndarray) -> np.ndarray:
    """The symbols of sizes up to `LARGEST`."""
    return (np.searchsorted(SMALLEST, sizes, side="right") - 1).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Place:
    """Latents that are decoded at once."""

    level: int
    plane: int
    detail: int
    phase: int

    @property
    def network(self) -> int:
        """Which of the networks is theirs."""
        return (min(self.plane, PLANES - 1) * DETAILS + self.detail) * len(PHASES) + self.phase

    @property
    def kind(self) -> int:
        """Of the level."""
        return min(self.level, LEVELS - 1)

    @property
    def where(self) -> tuple[slice, slice]:
        """In the detail."""
        down, right = PHASES[self.phase]
        return slice(down, None, 2), slice(right, None, 2)


def order(planes: int, levels: int) -> Iterator[Place]:
    """All places as they are decoded."""
    for level in reversed(range(levels)):
        for plane in range(planes):
            for detail in range(DETAILS):
                for phase in range(len(PHASES)):
                    yield Place(level, plane, detail, phase)


class Seen:
    """Sizes of the latents that are decoded, as the network sees them; those that are not count as zero.

    Args:
        planes: how many.
        shapes: of the details at each level.
    """

    def __init__(self, planes: int, shapes: Sequence[Sequence[tuple[int, int]]]) -> None:
        self.shapes = shapes
        self.sizes = [[_margined(planes, height, width) for height, width in level] for level in shapes]

    def put(self, place: Place, symbols: np.ndarray) -> None:
        """The symbols (rows, columns) at a place are known."""
        height, width = self.shapes[place.level][place.detail]
        inner = self.sizes[place.level][place.detail][
            place.plane, _MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width
        ]
        inner[place.where] = LOGARITHM[symbols]

    def features(self, place: Place) -> np.ndarray:
        """What is known at each latent of a place, (FEATURES, latents), float32 of integers."""
        height, width = self.shapes[place.level][place.detail]
        down, right = PHASES[place.phase]
        rows, columns = (height - down + 1) // 2, (width - right + 1) // 2
        level, found = self.sizes[place.level], _Rows(rows, columns)

        def around(sizes: np.ndarray, y: int, x: int) -> np.ndarray:
            top, left = _MARGIN + down + y, _MARGIN + right + x
            return sizes[top : top + 2 * rows : 2, left : left + 2 * columns : 2]

        own = level[place.detail][place.plane]
        for y, x in NEAR:
            found.add(around(own, y, x))
        for ring in FAR:
            found.add(*(around(own, y, x) for y, x in ring))
        if place.level + 1 < len(self.sizes):
            coarse = self.sizes[place.level + 1]

            def above(detail: int, y: int, x: int) -> np.ndarray:
                top, left = _MARGIN + y, _MARGIN + x
                return coarse[detail % DETAILS][place.plane][top : top + rows, left : left + columns]

            for y, x in ((0, 0), *BESIDE):
                found.add(above(place.detail, y, x))
            for other in (1, 2):
                found.add(above(place.detail + other, 0, 0))
        found.skip_to(len(NEAR) + len(FAR) + 7)
        for before in range(place.detail):
            other = level[before][place.plane]
            found.add(around(other, 0, 0))
            found.add(around(other, 0, -1), around(other, 0, 1))
            found.add(around(other, -1, 0), around(other, 1, 0))
        found.skip_to(len(NEAR) + len(FAR) + 13)
        for before in range(place.plane - 1, max(-1, place.plane - 3), -1):
            other = level[place.detail][before]
            found.add(around(other, 0, 0))
            found.add(*(around(other, y, x) for y, x in BESIDE))
        return found.values.reshape(FEATURES, -1)


class _Rows:
    """Features, one after the other."""

    def __init__(self, rows: int, columns: int) -> None:
        self.values = np.zeros((FEATURES, rows, columns), dtype=np.float32)
        self.index = 0

    def add(self, *parts: np.ndarray) -> None:
        """The sum of these is the next one."""
        for part in parts:
            self.values[self.index] += part
        self.index += 1

    def skip_to(self, index: int) -> None:
        """Those until there stay zero: there is nothing to see."""
        self.index = index


def _margined(planes: int, height: int, width: int) -> np.ndarray:
    """With zeros around, so many that no neighbour, nor one in a detail that is one longer, is missed."""
    return np.zeros((planes, height + 2 * _MARGIN + 2, width + 2 * _MARGIN + 2), dtype=np.uint8)


HIDDEN = 24
CLASSES = 48
WEIGHT_BITS = 6
"""Weights are multiples of 2^-6, sizes of 2^-4; so are the numbers of the hidden layer."""
SIZE_BITS = 4
_MOST_HIDDEN = 1023
LEARNING = 32
"""What a symbol that was seen adds to its frequency, where those of the start sum to 4096."""


@dataclasses.dataclass(frozen=True, eq=False)
class ContextNetworks:
    """One network for each kind of plane, detail and phase.

    Attributes:
        first: (NETWORKS, HIDDEN, FEATURES) int8.
        first_bias: (NETWORKS, LEVELS, HIDDEN) int32, multiples of 2^-10.
        second: (NETWORKS, HIDDEN) int8.
        second_bias: (NETWORKS, LEVELS) int32, multiples of 2^-10.
    """

    first: np.ndarray
    first_bias: np.ndarray
    second: np.ndarray
    second_bias: np.ndarray

    def classes(self, place: Place, features: np.ndarray) -> np.ndarray:
        """The class of each latent, (latents,) uint8."""
        network, kind = place.network, place.kind
        hidden = exact_product(self.first[network], features) + self.first_bias[network, kind, :, None]
        hidden = (hidden >> WEIGHT_BITS).clip(0, _MOST_HIDDEN)
        score = exact_product(self.second[network, None], hidden)[0] + self.second_bias[network, kind]
        shift = WEIGHT_BITS + SIZE_BITS
        return ((score + (1 << (shift - 1))) >> shift).clip(0, CLASSES - 1).astype(np.uint8)


def exact_product(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`weights` (rows, n) times `values` (n, columns), int32: integers whose sums stay below 2^24.

    In float32, which holds all of these and is many times faster than integers; in any order, so on any machine, it
    gives the same.
    """
    return (weights.astype(np.float32) @ values.astype(np.float32)).astype(np.int32)


class Frequencies:
    """How often each symbol is expected, in each class: as in the start, and more and more as in this picture.

    Args:
        learned: on other photographs, (CLASSES, SYMBOLS).

    Attributes:
        tables: (PLANES, CLASSES, SYMBOLS) int64.
    """

    def __init__(self, learned: np.ndarray) -> None:
        self.tables = np.repeat(learned[None].astype(np.int64), PLANES, axis=0)

    def groups(self, place: Place, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each class at a place, which latents are in it and its table of frequencies (SYMBOLS,)."""
        by_class = np.argsort(classes, kind="stable")
        ends = np.cumsum(np.bincount(classes, minlength=CLASSES))
        for found, which in enumerate(np.split(by_class, ends[:-1])):
            if len(which):
                yield which, self.tables[min(place.plane, PLANES - 1), found]

    def count(self, place: Place, classes: np.ndarray, symbols: np.ndarray) -> None:
        """Symbols of these classes were seen at a place."""
        counted = np.bincount(classes.astype(np.int64) * SYMBOLS + symbols, minlength=CLASSES * SYMBOLS)
        self.tables[min(place.plane, PLANES - 1)] += LEARNING * counted.reshape(CLASSES, SYMBOLS)
