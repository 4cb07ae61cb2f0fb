"""Large pictures as tiles of latents, so that the memory of encoding does not grow with the picture.

Tiles overlap by 16 pixels, over which one fades into the next, in integers: at low rates each would end in an edge of
its own otherwise. All have the same step between two values of a latent.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hardy.fields.latent_field import LatentField
from hardy.fields.resampling import resampled

MOST_PIXELS = 1 << 21
"""Of a picture that is one tile."""
SIDE, OVERLAP = 1024, 16
_HALF = OVERLAP // 2


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a picture is cut: where each tile begins and ends, its share of the overlaps included.

    Attributes:
        grid: height and width of the picture.
        counts: of tiles below each other and side by side.
    """

    grid: tuple[int, int]
    counts: tuple[int, int]

    @classmethod
    def of(cls, grid: tuple[int, int]) -> Layout:
        """One tile, or as many as have sides of at most 1024 pixels without the overlaps."""
        if math.prod(grid) <= MOST_PIXELS:
            return cls(grid, (1, 1))
        return cls(grid, (-(-grid[0] // SIDE), -(-grid[1] // SIDE)))

    @property
    def possible(self) -> bool:
        """Whether no tile is narrower than what it shares with its neighbours."""
        pairs = zip(self.grid, self.counts, strict=True)
        return all(count == 1 or size // count >= OVERLAP for size, count in pairs)

    def spans(self, axis: int) -> list[tuple[int, int]]:
        """Where tiles begin and end along an axis."""
        size, count = self.grid[axis], self.counts[axis]
        sides = [size * index // count for index in range(count + 1)]
        return [(max(0, a - _HALF), min(size, b + _HALF)) for a, b in itertools.pairwise(sides)]

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each tile, row by row."""
        for (top, bottom), (left, right) in itertools.product(self.spans(0), self.spans(1)):
            yield slice(top, bottom), slice(left, right)

    def shares(self, axis: int, where: slice) -> np.ndarray:
        """Of a tile at each of its places along an axis, int64 over 2 * OVERLAP: those of all tiles make up one."""
        found = np.full(where.stop - where.start, 2 * OVERLAP, dtype=np.int64)
        rising = 2 * np.arange(OVERLAP, dtype=np.int64) + 1
        if where.start > 0:
            found[:OVERLAP] = rising
        if where.stop < self.grid[axis]:
            found[-OVERLAP:] = rising[::-1]
        return found

    def together(self, tiles: Callable[[int], np.ndarray]) -> np.ndarray:
        """The picture (height, width, channels) of what `tiles` gives for each, uint8 or uint16."""
        if self.counts == (1, 1):
            return tiles(0)
        shift = 2 * (2 * OVERLAP).bit_length() - 2
        first = tiles(0)
        made = np.full((*self.grid, first.shape[-1]), 1 << (shift - 1), dtype=np.int32)
        for index, (rows, columns) in enumerate(self.tiles()):
            tile = tiles(index) if index else first
            share = self.shares(0, rows)[:, None] * self.shares(1, columns)
            made[rows, columns] += (tile * share[..., None]).astype(np.int32)
        return (made >> shift).astype(first.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class TiledField:
    """What a file holds of one large picture.

    Attributes:
        layout: of its tiles.
        tiles: row by row.
    """

    layout: Layout
    tiles: Sequence[LatentField]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width."""
        return self.layout.grid

    @property
    def in_features(self) -> int:
        """Coordinates of a point."""
        return 2

    def pixels(self, grid: Sequence[int] | None = None) -> np.ndarray:
        """The samples on a grid, as `LatentField.pixels` gives them; tiles are decoded one after the other."""
        shown = self.layout.together(lambda index: self.tiles[index].pixels())
        if grid is not None and tuple(grid) != self.grid:
            return resampled(shown, grid, (1 << self.tiles[0].sample_bits) - 1).astype(shown.dtype)
        return shown
