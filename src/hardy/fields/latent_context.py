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
PAD = 3
BEFORE = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
FEATURES = len(BEFORE) + 3 + 5 + 2 + 6 + 4
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
        self.sizes = [
            [np.zeros((planes, height + 2 * PAD, width + 2 * PAD), dtype=np.uint8) for height, width in level]
            for level in shapes
        ]

    def put(self, place: Place, symbols: np.ndarray) -> None:
        """The symbols (rows, columns) at a place are known."""
        height, width = self.shapes[place.level][place.detail]
        inner = self.sizes[place.level][place.detail][place.plane, PAD : PAD + height, PAD : PAD + width]
        inner[place.where] = LOGARITHM[symbols]

    def features(self, place: Place) -> np.ndarray:
        """What is known at each latent of a place, (FEATURES, latents), float32 of integers."""
        height, width = self.shapes[place.level][place.detail]
        down, right = PHASES[place.phase]
        rows, columns = (height - down + 1) // 2, (width - right + 1) // 2
        found = np.zeros((FEATURES, rows, columns), dtype=np.float32)
        level, index = self.sizes[place.level], 0

        def around(sizes: np.ndarray, y: int, x: int) -> np.ndarray:
            top, left = PAD + down + y, PAD + right + x
            return sizes[top : top + 2 * rows - 1 : 2, left : left + 2 * columns - 1 : 2]

        own = level[place.detail][place.plane]
        for y, x in BEFORE:
            found[index] = around(own, y, x)
            index += 1
        for far in (
            ((0, -2), (0, 2)),
            ((-2, 0), (2, 0)),
            ((-1, -2), (-1, 2), (1, -2), (1, 2), (-2, -1), (-2, 1), (2, -1), (2, 1)),
        ):
            for y, x in far:
                found[index] += around(own, y, x)
            index += 1
        if place.level + 1 < len(self.sizes):
            coarse = self.sizes[place.level + 1]
            for y, x in ((0, 0), *BEFORE[:4]):
                found[index] = _window(coarse[place.detail][place.plane], y, x, rows, columns)
                index += 1
            for other in (1, 2):
                found[index] = _window(coarse[(place.detail + other) % DETAILS][place.plane], 0, 0, rows, columns)
                index += 1
        else:
            index += 7
        for before in range(2):
            if before < place.detail:
                other = _like(level[before][place.plane], own)
                found[index] = around(other, 0, 0)
                for y, x in BEFORE[:2]:
                    found[index + 1] += around(other, y, x)
                for y, x in BEFORE[2:4]:
                    found[index + 2] += around(other, y, x)
            index += 3
        for before in range(2):
            if before < place.plane:
                other = level[place.detail][place.plane - 1 - before]
                found[index] = around(other, 0, 0)
                for y, x in BEFORE[:4]:
                    found[index + 1] += around(other, y, x)
            index += 2
        return found.reshape(FEATURES, -1)


def _window(sizes: np.ndarray, y: int, x: int, rows: int, columns: int) -> np.ndarray:
    """A part of a detail at the coarser level, with zeros where it ends too early."""
    part = sizes[PAD + y : PAD + y + rows, PAD + x : PAD + x + columns]
    return np.pad(part, ((0, rows - part.shape[0]), (0, columns - part.shape[1])))


def _like(sizes: np.ndarray, own: np.ndarray) -> np.ndarray:
    """A detail of the same level, which may have a row or column more or less."""
    rows, columns = own.shape
    part = sizes[:rows, :columns]
    return np.pad(part, ((0, rows - part.shape[0]), (0, columns - part.shape[1])))


HIDDEN = 16
CLASSES = 48
WEIGHT_BITS = 6
"""Weights are multiples of 2^-6, sizes of 2^-4; so are the numbers of the hidden layer."""
SIZE_BITS = 4
_MOST_HIDDEN = 1023
LEARNING = 16
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
