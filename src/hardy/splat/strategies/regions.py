"""Parts of space: where Gaussians may multiply, or what is to be cut out."""

import dataclasses
from typing import Protocol

import torch
from scipy.spatial import KDTree

from hardy import checks
from hardy.errors import InputError


class Region(Protocol):
    """Which of the points (N, 3) lie inside: (N,) bool."""

    def contains(self, points: torch.Tensor) -> torch.Tensor: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    """Along the axes, between two opposite corners."""

    corner: tuple[float, float, float]
    opposite: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("corner", "opposite"):
            values = getattr(self, name)
            if len(values) != 3:
                raise InputError(f"{name} of a box must be three numbers, got {values!r}")
            for value in values:
                checks.number(name, value)
        flat = [axis for axis, a, b in zip("xyz", self.corner, self.opposite, strict=True) if a == b]
        if flat:
            raise InputError(
                f"the box from {self.corner} to {self.opposite} is empty: it has no extent along {flat[0]}"
            )

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        low, high = points.new_tensor([self.corner, self.opposite]).aminmax(dim=0)
        return ((points >= low) & (points <= high)).all(1)


class Near:
    """Within a distance of one of the points (M, 3)."""

    def __init__(self, points: torch.Tensor, distance: float) -> None:
        if not len(points):
            raise InputError("a region near points needs at least one point")
        self.points, self.distance = points.detach().cpu().double(), checks.number("distance", distance, above=0)
        self._tree = KDTree(self.points.numpy())

    def __repr__(self) -> str:
        return f"Near({len(self.points)} points about {self.points.mean(0).tolist()}, {self.distance:g})"

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        distances, _ = self._tree.query(points.detach().cpu().double().numpy(), distance_upper_bound=self.distance)
        return torch.from_numpy(distances <= self.distance).to(points.device)
