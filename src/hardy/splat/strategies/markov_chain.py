"""Gaussians as samples: dead ones are compute_relocation to alive ones, and noise is added to all centres.

"3D Gaussian Splatting as Markov Chain Monte Carlo" (arXiv 2404.09591), with the rule and the constants of gsplat.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.deprecation import renamed_fields
from hardy.ops.projection import rotations
from hardy.splat.strategies.edits import Optimizers, Parameters, State, assign, check_optimizers, duplicate, normal

_MOST_COPIES = 51


@renamed_fields(
    budget="cap_max",
    dead="min_opacity",
    noise="noise_lr",
    start="refine_start_iter",
    stop="refine_stop_iter",
    every="refine_every",
    opacity_penalty="opacity_reg",
    scale_penalty="scale_reg",
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class MCMCStrategy:
    """Moves Gaussians of little opacity onto others, adds 5 % at a time up to the budget, and adds noise to centres.

    Args:
        cap_max: most Gaussians.
        growth: share added each time.
        min_opacity: opacity at which a Gaussian is moved.
        noise_lr: of the noise that is added to centres, times their learning rate; only faint Gaussians get any.
        refine_start_iter, refine_stop_iter, refine_every: steps at which Gaussians move and are added.
        opacity_reg, scale_reg: times the mean opacity and the mean scale, added to the loss.
        seed: of all that is drawn.

    Raises:
        InputError: a field is out of range.
    """

    cap_max: int = 1_000_000
    growth: float = 0.05
    min_opacity: float = 0.005
    noise_lr: float = 5e5
    refine_start_iter: int = 500
    refine_stop_iter: int = 25_000
    refine_every: int = 100
    opacity_reg: float = 0.01
    scale_reg: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("cap_max", 1), ("refine_start_iter", 0), ("refine_every", 1)):
            checks.integer(name, getattr(self, name), at_least=least)
        checks.integer("refine_stop_iter", self.refine_stop_iter, at_least=self.refine_start_iter)
        checks.number("min_opacity", self.min_opacity, above=0, below=1)
        for name in ("growth", "noise_lr"):
            checks.number(name, getattr(self, name), at_least=0)

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
        return self.opacity_reg * params["opacities"].sigmoid().mean() + self.scale_reg * params["scales"].exp().mean()

    def step_pre_backward(
        self, params: Parameters, optimizers: Optimizers, state: State, step: int, info: dict[str, Any]
    ) -> None:
        """Nothing: no gradient in the image is read."""

    def step_post_backward(
        self, params: Parameters, optimizers: Optimizers, state: State, step: int, info: dict[str, Any]
    ) -> None:
        """Move and add Gaussians when it is time to, and add noise to centres."""
        random = generator(self.seed, "mcmc", step)
        if self.refine_start_iter < step < self.refine_stop_iter and step % self.refine_every == 0:
            self._relocate(params, optimizers, random)
            self._sample_add(params, optimizers, state, random)
        inject_noise_to_position(params, optimizers["means"].param_groups[0]["lr"] * self.noise_lr, random)

    def _relocate(self, params: Parameters, optimizers: Optimizers, random: torch.Generator) -> None:
        opacities = params["opacities"].detach().sigmoid()
        dead, alive = (opacities <= self.min_opacity).nonzero()[:, 0], (opacities > self.min_opacity).nonzero()[:, 0]
        if not len(dead) or not len(alive):
            return
        sampled = alive[_sample(opacities[alive], len(dead), random)]
        self._divide(params, optimizers, sampled)
        for parameter in params.values():
            parameter.data[dead] = parameter.data[sampled]

    def _sample_add(self, params: Parameters, optimizers: Optimizers, state: State, random: torch.Generator) -> None:
        count = len(params["means"])
        wanted = max(0, min(self.cap_max, int((1 + self.growth) * count)) - count)
        if not wanted:
            return
        opacities = params["opacities"].detach().sigmoid()
        sampled = _sample(opacities, wanted, random)
        self._divide(params, optimizers, sampled)
        for number in range(int(torch.bincount(sampled).max())):  # one copy of each at a time
            times = torch.bincount(sampled, minlength=len(params["means"]))
            duplicate(params, optimizers, state, times > number)

    def _divide(self, params: Parameters, optimizers: Optimizers, sampled: torch.Tensor) -> None:
        """Let the sampled ones look the same once they are as many as `sampled` names them, and once more."""
        mask = torch.zeros(len(params["means"]), dtype=torch.bool, device=sampled.device)
        mask[sampled] = True
        copies = (torch.bincount(sampled, minlength=len(mask)) + 1)[mask].clamp(max=_MOST_COPIES)
        opacities, scales = compute_relocation(
            params["opacities"].detach()[mask].sigmoid(), params["scales"].detach()[mask].exp(), copies
        )
        assign(params, optimizers, "opacities", mask, opacities.clamp(self.min_opacity, 1 - 1e-6).logit())
        assign(params, optimizers, "scales", mask, scales.log())
        for name in ("means", "quats", "sh0", "shN"):
            assign(params, optimizers, name, mask, params[name].detach()[mask])


def _sample(weights: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
    """(count,) numbers of rows, each as likely as its weight; drawn where the generator is."""
    drawn = torch.multinomial(weights.to(random.device), count, replacement=True, generator=random)
    return drawn.to(weights.device)


def compute_relocation(
    opacities: torch.Tensor, scales: torch.Tensor, copies: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Opacities (N,) and scales (N, 3) that `copies` (N,) equal Gaussians need to look like one (equation 9)."""
    made = 1 - (1 - opacities.double()) ** (1 / copies)
    total = torch.zeros_like(made)
    for i in range(1, int(copies.max()) + 1):
        inner = sum((-1) ** k * math.comb(i - 1, k) / math.sqrt(k + 1) * made ** (k + 1) for k in range(i))
        total = total + torch.where(i <= copies, inner, 0)
    return made.to(opacities), (scales * (opacities / total)[:, None]).to(scales)


def inject_noise_to_position(params: Parameters, strength: float, random: torch.Generator) -> None:
    """Add noise to centres: as wide as the Gaussian, for those of opacity below about 0.005."""
    means = params["means"]
    faint = 1 / (1 + torch.exp(-100 * (1 - params["opacities"].detach().sigmoid() - 0.995)))
    drawn = normal(tuple(means.shape), random, means.device) * faint[:, None] * strength
    unit = torch.nn.functional.normalize(params["quats"].detach(), dim=-1)
    shape = rotations(unit) * params["scales"].detach().exp()[:, None]
    means.data += (shape @ (shape.transpose(1, 2) @ drawn[..., None]))[..., 0]
