"""What densification is put together from besides its criterion: how to clone, to split, to prune, to mend needles."""

import dataclasses
from typing import Literal, Protocol

import torch

from hardy import checks
from hardy.splat.points import neighbour_distances
from hardy.splat.strategies.edits import Optimizers, Parameters, State, assign, duplicate, normal, split

PUBLISHED_EVENTS = (25_000 - 500) // 100
"""Densifications, each with a prune, of the training that 3 % at a time was published for."""


class Clone(Protocol):
    """How small Gaussians in `mask` multiply."""

    def apply(
        self, params: Parameters, optimizers: Optimizers, state: State, mask: torch.Tensor, random: torch.Generator
    ) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainClone:
    """An exact copy at the same place (3D Gaussian splatting, arXiv 2308.04079)."""

    def apply(
        self, params: Parameters, optimizers: Optimizers, state: State, mask: torch.Tensor, random: torch.Generator
    ) -> None:
        duplicate(params, optimizers, state, mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityClone:
    """A copy at a place drawn about the Gaussian, as far away as its neighbours are (ReAct-GS, arXiv 2510.19653).

    The standard deviation is the root of the mean squared distance to the three nearest centres, as in the authors'
    code; their paper has a variance equal to the mean distance, which is no length.

    Args:
        farthest: in longest standard deviations of the Gaussian itself; what is drawn beyond it goes no farther. None,
            as the authors have it, for no limit.
    """

    farthest: float | None = None

    def __post_init__(self) -> None:
        if self.farthest is not None:
            checks.number("farthest", self.farthest, above=0)

    def apply(
        self, params: Parameters, optimizers: Optimizers, state: State, mask: torch.Tensor, random: torch.Generator
    ) -> None:
        spread = neighbour_distances(params["means"].detach())[mask]
        offsets = normal((len(spread), 3), random, spread.device) * spread[:, None]
        if self.farthest is not None:
            limits = self.farthest * params["scales"].detach()[mask].exp().amax(1)
            offsets *= (limits / offsets.norm(dim=1).clamp(min=1e-12)).clamp(max=1)[:, None]
        duplicate(params, optimizers, state, mask, offsets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Two Gaussians `shrink` times smaller, at places drawn from the old one, which goes (arXiv 2308.04079)."""

    shrink: float = 1.6

    def apply(
        self, params: Parameters, optimizers: Optimizers, state: State, mask: torch.Tensor, random: torch.Generator
    ) -> None:
        split(params, optimizers, state, mask, random, self.shrink)


class Prune(Protocol):
    """Which Gaussians (N,) go, by their opacities after the sigmoid."""

    def chosen(self, opacities: torch.Tensor, since_reset: int, views: int) -> torch.Tensor: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedPrune:
    """Opacity below a fixed limit (arXiv 2308.04079)."""

    limit: float = 0.005

    def chosen(self, opacities: torch.Tensor, since_reset: int, views: int) -> torch.Tensor:
        return opacities < self.limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantilePrune:
    """Opacity below a quantile, which is capped (Decomposing Densification, arXiv 2507.20239).

    Less than the opacity of place `share` * N in rising order, at most `cap`; nothing where that place is the first.
    Where we differ: while fewer steps than there are views have passed since opacities were reset, the limit is at most
    0.005, or a reset, which makes most of them equal, would cost a random part of them.
    """

    share: float = 0.03
    cap: float = 0.05

    @classmethod
    def over(cls, events: int, *, share: float = 0.03, cap: float = 0.05) -> "QuantilePrune":
        """One that takes in so many events the part that `share` takes in the 245 of the published schedule."""
        checks.integer("events", events, at_least=1)
        return cls(share=1 - (1 - share) ** (PUBLISHED_EVENTS / events), cap=cap)

    def __post_init__(self) -> None:
        checks.number("share", self.share, at_least=0, below=1)
        checks.number("cap", self.cap, at_least=0, at_most=1)

    def chosen(self, opacities: torch.Tensor, since_reset: int, views: int) -> torch.Tensor:
        if since_reset < views:
            return opacities < min(0.005, self.cap)
        place = int(len(opacities) * self.share)
        if place < 1:
            return torch.zeros_like(opacities, dtype=torch.bool)
        return opacities < min(opacities.sort().values[place].item(), self.cap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeedlePerturbation:
    """Widens Gaussians that are much longer than wide (ReAct-GS, arXiv 2510.19653).

    Where the largest axis has more than `share` of the sum of axes, both others are multiplied by half of largest over
    middle, so that the middle one becomes half of the largest. From the authors' code, not the paper: shares from
    `most` on are left alone.

    Args:
        share, most: as said.
        when: "after" the step of the optimizers, or "before" it, as the authors have it: scales then sit that step out.
    """

    share: float = 0.8
    most: float = 0.999
    when: Literal["before", "after"] = "after"

    def __post_init__(self) -> None:
        checks.one_of("when", self.when, ("before", "after"))

    def apply(self, params: Parameters, optimizers: Optimizers) -> int:
        """Widen the needles; how many there were."""
        axes = params["scales"].detach().exp()
        ordered = axes.sort(dim=1).values
        largest, middle = ordered[:, 2], ordered[:, 1]
        share = largest / axes.sum(1)
        needles = (share > self.share) & (share < self.most)
        factors = torch.where(axes < largest[:, None], (0.5 * largest / middle)[:, None], torch.ones_like(axes))
        assign(params, optimizers, "scales", needles, (axes * factors).log()[needles])
        return int(needles.sum())
