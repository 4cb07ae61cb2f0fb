"""Gaussians as samples: the dead move to where the living are, and all of them tremble.

"3D Gaussian Splatting as Markov Chain Monte Carlo" (arXiv 2404.09591), with the rule and the constants of gsplat.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.ops.projection import rotations
from hardy.splat.strategies.edits import Optimizers, Parameters, State, assign, check_optimizers, duplicate, normal

_MOST_COPIES = 51


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mcmc:
    """Moves Gaussians of little opacity onto others, adds 5 % at a time up to the budget, and adds noise to centres.

    Args:
        budget: most Gaussians.
        growth: share added each time.
        dead: opacity at which a Gaussian is moved.
        noise: of the centres, times their learning rate; only faint Gaussians tremble.
        start, stop, every: steps at which Gaussians move and are added.
        opacity_penalty, scale_penalty: times the mean opacity and the mean scale, added to the loss.
        seed: of all that is drawn.

    Raises:
        InputError: a field is out of range.
    """

    budget: int = 1_000_000
    growth: float = 0.05
    dead: float = 0.005
    noise: float = 5e5
    start: int = 500
    stop: int = 25_000
    every: int = 100
    opacity_penalty: float = 0.01
    scale_penalty: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1 or self.every < 1 or not 0 <= self.start <= self.stop:
            raise InputError(
                f"budget and every must be at least 1 and 0 <= start <= stop, got budget={self.budget}, "
                f"every={self.every}, start={self.start}, stop={self.stop}"
            )
        if not 0 < self.dead < 1 or self.growth < 0 or self.noise < 0:
            raise InputError(
                f"dead must be in (0, 1), growth and noise at least 0, got {self.dead}, {self.growth}, {self.noise}"
            )

    def check_sanity(self, params: Parameters, optimizers: Optimizers) -> None:
        """Raise InputError unless there is a parameter of every name with an optimizer of its own."""
        check_optimizers(params, optimizers)

    def initialize_state(self, scene_scale: float = 1.0, images: Sequence[torch.Tensor] = ()) -> State:
        """The state to pass to every step: nothing needs to be kept."""
        return {}

    def factor(self, state: State, step: int) -> int:
        """By which images are to be shrunk at `step`: 1."""
        return 1

    def full_size_from(self, state: State) -> int:
        """The first step at full size: 0."""
        return 0

    def penalty(self, params: Parameters) -> torch.Tensor:
        """What is added to the loss."""
        return (
            self.opacity_penalty * params["opacities"].sigmoid().mean()
            + self.scale_penalty * params["scales"].exp().mean()
        )

    def step_pre_backward(
        self, params: Parameters, optimizers: Optimizers, state: State, step: int, info: dict[str, Any]
    ) -> None:
        """Nothing: no gradient in the image is read."""

    def step_post_backward(
        self, params: Parameters, optimizers: Optimizers, state: State, step: int, info: dict[str, Any]
    ) -> None:
        """Move and add Gaussians when it is time to, and let centres tremble."""
        random = generator(self.seed, "mcmc", step)
        if self.start < step < self.stop and step % self.every == 0:
            self._move(params, optimizers, random)
            self._add(params, optimizers, state, random)
        tremble(params, optimizers["means"].param_groups[0]["lr"] * self.noise, random)

    def _move(self, params: Parameters, optimizers: Optimizers, random: torch.Generator) -> None:
        opacities = params["opacities"].detach().sigmoid()
        dead, living = (opacities <= self.dead).nonzero()[:, 0], (opacities > self.dead).nonzero()[:, 0]
        if not len(dead) or not len(living):
            return
        chosen = living[_chosen(opacities[living], len(dead), random)]
        self._share(params, optimizers, chosen)
        for parameter in params.values():
            parameter.data[dead] = parameter.data[chosen]

    def _add(self, params: Parameters, optimizers: Optimizers, state: State, random: torch.Generator) -> None:
        count = len(params["means"])
        wanted = max(0, min(self.budget, int((1 + self.growth) * count)) - count)
        if not wanted:
            return
        opacities = params["opacities"].detach().sigmoid()
        chosen = _chosen(opacities, wanted, random)
        self._share(params, optimizers, chosen)
        for number in range(int(torch.bincount(chosen).max())):  # one copy of each at a time
            times = torch.bincount(chosen, minlength=len(params["means"]))
            duplicate(params, optimizers, state, times > number)

    def _share(self, params: Parameters, optimizers: Optimizers, chosen: torch.Tensor) -> None:
        """Let the chosen ones look the same once they are as many as `chosen` names them, and once more."""
        mask = torch.zeros(len(params["means"]), dtype=torch.bool, device=chosen.device)
        mask[chosen] = True
        copies = (torch.bincount(chosen, minlength=len(mask)) + 1)[mask].clamp(max=_MOST_COPIES)
        opacities, scales = shared(
            params["opacities"].detach()[mask].sigmoid(), params["scales"].detach()[mask].exp(), copies
        )
        assign(params, optimizers, "opacities", mask, opacities.clamp(self.dead, 1 - 1e-6).logit())
        assign(params, optimizers, "scales", mask, scales.log())
        for name in ("means", "quats", "sh0", "shN"):
            assign(params, optimizers, name, mask, params[name].detach()[mask])


def _chosen(weights: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
    """(count,) numbers of rows, each as likely as its weight; drawn where the generator is."""
    drawn = torch.multinomial(weights.to(random.device), count, replacement=True, generator=random)
    return drawn.to(weights.device)


def shared(opacities: torch.Tensor, scales: torch.Tensor, copies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Opacities (N,) and scales (N, 3) that `copies` (N,) equal Gaussians need to look like one (equation 9)."""
    made = 1 - (1 - opacities.double()) ** (1 / copies)
    total = torch.zeros_like(made)
    for i in range(1, int(copies.max()) + 1):
        inner = sum((-1) ** k * math.comb(i - 1, k) / math.sqrt(k + 1) * made ** (k + 1) for k in range(i))
        total = total + torch.where(i <= copies, inner, 0)
    return made.to(opacities), (scales * (opacities / total)[:, None]).to(scales)


def tremble(params: Parameters, strength: float, random: torch.Generator) -> None:
    """Add noise to centres: as wide as the Gaussian, for those of opacity below about 0.005."""
    means = params["means"]
    faint = 1 / (1 + torch.exp(-100 * (1 - params["opacities"].detach().sigmoid() - 0.995)))
    drawn = normal(tuple(means.shape), random, means.device) * faint[:, None] * strength
    unit = torch.nn.functional.normalize(params["quats"].detach(), dim=-1)
    shape = rotations(unit) * params["scales"].detach().exp()[:, None]
    means.data += (shape @ (shape.transpose(1, 2) @ drawn[..., None]))[..., 0]
