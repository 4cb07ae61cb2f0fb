"""Features learned at the vertices of finer and finer grids, as what a field's layers get in place of coordinates.

Source: Instant-NGP's multiresolution hash encoding (arXiv 2201.05989). A level whose vertices outnumber its table keeps
those together that one hash sends to the same entry, and the layers after it learn to tell them apart.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import torch
from torch.nn.functional import embedding

from hardy import checks
from hardy.errors import InputError

_PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437)
_INITIAL = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashGrid:
    """An encoding of coordinates in [-1, 1]^d, d up to 6, by tables of features: `Field(2, 3, encoding=HashGrid())`.

    A point gets of each level the features at the corners of its cell, interpolated linearly. A field with it wants
    few and plain layers, such as `activation="relu", hidden_features=64, hidden_layers=2`, and fits in a tenth of
    the steps, with many more numbers.

    Args:
        levels: grids, each finer by the same factor.
        features: numbers at a vertex.
        table_size: vertices of a level that have features of their own, at most; a power of two.
        coarsest: cells along an axis of the first level.
        finest: of the last level. Half as many as a signal has points fits it well, and leaves none out where it is
            rendered at a larger size.

    Raises:
        InputError: a size is out of range.
    """

    levels: int = 8
    features: int = 2
    table_size: int = 2**12
    coarsest: int = 8
    finest: int = 128
    learning_rate: ClassVar[float] = 1e-2

    def __post_init__(self) -> None:
        limits = {"levels": (1, 32), "features": (1, 16), "table_size": (2, 2**24), "coarsest": (1, 2**20)}
        for name, (low, high) in (limits | {"finest": (self.coarsest, 2**20)}).items():
            value = checks.integer(f"{name} of a hash grid", getattr(self, name), at_least=low, at_most=high)
            object.__setattr__(self, name, value)
        if self.table_size & (self.table_size - 1):
            raise InputError(f"table_size of a hash grid must be a power of two, got {self.table_size}")

    @property
    def encoded_features(self) -> int:
        """What the first layer gets for a point."""
        return self.levels * self.features

    def resolutions(self) -> list[int]:
        """Cells along an axis, of each level."""
        steps = max(1, self.levels - 1)
        factor = (self.finest / self.coarsest) ** (1 / steps)
        return [round(self.coarsest * factor**level) for level in range(self.levels)]

    def entries(self, in_features: int) -> list[int]:
        """Rows of each level's table, for so many coordinates: one for each vertex where they are not too many."""
        if in_features > len(_PRIMES):
            raise InputError(f"a hash grid takes at most {len(_PRIMES)} coordinates, got {in_features}")
        return [min((cells + 1) ** in_features, self.table_size) for cells in self.resolutions()]

    def draw_tables(self, in_features: int, random: torch.Generator) -> torch.Tensor:
        """Initial features of all levels below each other, (entries, features): U(±1e-4)."""
        shape = (sum(self.entries(in_features)), self.features)
        return (torch.rand(shape, generator=random) * 2 - 1) * _INITIAL

    def encode(self, coordinates: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """The features of points.

        Args:
            coordinates: (..., d); for several networks (networks or 1, points, d).
            tables: (entries, features) as `draw_tables` gives them; for several networks (networks, entries, features).

        Returns:
            (..., levels * features), or (networks, points, levels * features).
        """
        places, shares = self._corners(coordinates)
        if tables.ndim == 3:
            networks, entries, _ = tables.shape
            first = entries * torch.arange(networks, device=places.device)
            places = places + first[:, None, None, None]
            tables = tables.flatten(0, 1)
        return (embedding(places, tables) * shares[..., None]).sum(-2).flatten(-2)

    def _corners(self, coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The corners of each point's cell at each level: rows of the tables and shares, (..., levels, 2^d)."""
        d, device = coordinates.shape[-1], coordinates.device
        cells = torch.tensor(self.resolutions(), device=device)
        scaled = (coordinates[..., None, :] + 1) / 2 * cells[:, None]
        lower = torch.minimum(scaled.detach().floor().long().clamp(min=0), cells[:, None] - 1)
        inside = (scaled - lower)[..., None, :]
        corners = torch.tensor(list(itertools.product((0, 1), repeat=d)), device=device)
        vertices = lower[..., None, :] + corners
        shares = torch.where(corners.bool(), inside, 1 - inside).prod(-1)
        sizes = self.entries(d)
        hashed = vertices[..., 0]
        dense = vertices[..., 0]
        for axis in range(1, d):
            hashed = hashed ^ (vertices[..., axis] * _PRIMES[axis])
            dense = dense * (cells[:, None] + 1) + vertices[..., axis]
        whole = torch.tensor([(int(n) + 1) ** d == size for n, size in zip(cells, sizes, strict=True)], device=device)
        first = torch.tensor([0, *itertools.accumulate(sizes)][:-1], device=device)
        rows = torch.where(whole[:, None], dense, hashed & (self.table_size - 1))
        return rows + first[:, None], shares
