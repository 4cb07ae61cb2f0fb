"""Inference-time intervention: a direction is added to the output of single attention heads (Li et al. 2023).

At the heads whose last position tells the two sides of pairs apart best, alpha times sigma times theta is added: theta
the direction of length 1 between the sides' means, sigma the standard deviation of the activations along it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.core.method import Method
from hardy.core.ranking import Ranking
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks.point import resolve
from hardy.interp.amplitude import change_activation, check_indices
from hardy.interp.locator import recorded
from hardy.interp.objects import unit_named
from hardy.interp.steering import as_floats
from hardy.interp.task import Task
from hardy.report import Row


class _Adding:
    """Adds vectors to some heads of (batch, position, head, d_head)."""

    def __init__(self, heads: Sequence[int], vectors: torch.Tensor, scale: float) -> None:
        self.heads, self.vectors, self.scale = list(heads), vectors, scale

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        if self.scale == 0:
            return z
        if z.shape[-1] != self.vectors.shape[-1]:
            raise InputError(f"vectors are of width {self.vectors.shape[-1]}, heads of {z.shape[-1]}")
        new = z.clone()
        new[..., self.heads, :] += self.scale * self.vectors.to(z)
        return new


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadVectors(Method):
    """Adds `scale` times a vector to the output of each of some heads, at every position.

    It works inside `generate`, on packed layers and on a chip, and is applied again to a model that is loaded.

    Args:
        heads: names, "blocks.3.attn.z.5".
        vectors: (d_head,) for each.
        scale: alpha; 0 changes nothing, to the last bit.
    """

    heads: tuple[str, ...]
    vectors: tuple[tuple[float, ...], ...]
    scale: float = 1.0

    def check(self) -> None:
        names = checks.texts("heads", self.heads)
        for name in names:
            unit = unit_named(name)
            if not unit.point.endswith(".attn.z") or unit.index is None or unit.position is not None:
                raise InputError(f"heads are named as in 'blocks.3.attn.z.5', got {name!r}")
        vectors = tuple(as_floats(v, "vectors") for v in checks.items("vectors", self.vectors))
        if len(vectors) != len(names) or not names:
            raise InputError(f"vectors must be one for each of {len(names)} heads, got {len(vectors)}: {vectors[:1]}")
        object.__setattr__(self, "vectors", vectors)
        checks.number("scale", self.scale)

    @classmethod
    def of(
        cls, model: nn.Module, task: Task, ranking: Ranking | None = None, *, k: int = 8, scale: float = 1.0
    ) -> HeadVectors:
        """The intervention for the `k` heads at the top of a ranking, by default that of probing.

        Args:
            model: any decoder with attention.
            task: clean prompts are the side that it goes to, corrupt ones the side that it leaves.
            ranking: of heads.
            k: heads.
            scale: alpha, in standard deviations.
        """
        from hardy.interp.probing import Probing

        ranked = ranking or Probing(object="head").locate(model, task)
        names = tuple(ranked.top(checks.integer("k", k, at_least=1, at_most=len(ranked))))
        points = sorted({unit_named(name).point for name in names})
        clean, corrupt = (recorded(model, points, task.inputs(side))[0] for side in ("clean", "corrupt"))
        vectors = []
        for name in names:
            unit = unit_named(name)
            a, b = (side[unit.point][:, -1, unit.index].double() for side in (clean, corrupt))
            theta = a.mean(0) - b.mean(0)
            if not theta.any():
                raise InputError(f"{name} is the same for clean and corrupt prompts of {task.name}")
            theta = theta / theta.norm()
            vectors.append(tuple((theta * (torch.cat([a, b]) @ theta).std()).tolist()))
        return cls(heads=names, vectors=tuple(vectors), scale=scale)

    @property
    def reapplied(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"HeadVectors({len(self.heads)} heads, scale={self.scale:g})"

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        device = next(model.parameters()).device
        grouped: dict[str, list[int]] = {}
        for number, name in enumerate(self.heads):
            grouped.setdefault(unit_named(name).point, []).append(number)
        for name, numbers in grouped.items():
            (point,) = resolve(model, [name])
            units = [unit_named(self.heads[number]) for number in numbers]
            check_indices(model, point, units)
            vectors = torch.tensor([self.vectors[number] for number in numbers], device=device)
            change_activation(model, edits, point, _Adding([unit.index or 0 for unit in units], vectors, self.scale))
        return [
            Row(metric="norm_added", condition=name, value=self.scale * torch.tensor(vector).norm().item())
            for name, vector in zip(self.heads, self.vectors, strict=True)
        ]
