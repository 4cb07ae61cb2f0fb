"""Weight noise of an analog chip, drawn once per chip instance: additive with a named scale, proportional, log-normal.

The strength of a noise is the standard deviation of a weight as it is read back, in units of the scale that
`relative_to` names; of proportional noise in units of the weight itself, of log-normal noise that of the logarithm.
Studies, commands, training and fields all mean this by a number, and "additive" without more is relative to the largest
weight of each output channel. A chip has cells instead, two to a weight: `Chip.with_noise` gives it those that make
this noise. There additive noise of the weight is sqrt(2) times that of a cell, because both cells err, and proportional
noise is that of a cell, because the other holds nothing.

Sources: IBM's analog-foundation-models (additive, relative to each output channel's absmax) and CrossSim
(proportional); the equations are theirs, the seeding by site and the explicit scales are ours, because papers that
say "5 % noise" without the scale cannot be compared.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import torch

from hardy import checks
from hardy.core.method import WeightMethod
from hardy.core.rng import generator
from hardy.core.selection import Site

Scale = Literal[
    "absolute", "tensor-absmax", "tensor-std", "channel-absmax", "channel-std", "tile-absmax", "tile-std"
]  # fmt: skip


def noise_scale(weight: torch.Tensor, relative_to: Scale, tile_size: int = 256) -> torch.Tensor:
    """What a noise strength of 1 means for `weight`, (..., out, in): broadcastable to it, in its units.

    "absolute" is 1; "tensor-*" one number for the matrix (for each of them in a stack); "channel-*" one number for
    each output channel, (..., out, 1); "tile-*" one number for each block of `tile_size` outputs and inputs, the last
    ones smaller, (..., out, in). Standard deviations are those of the population.
    """
    if relative_to == "absolute":
        return weight.new_ones(())
    if relative_to.startswith("tile"):
        scale, within = torch.empty_like(weight), "tensor-absmax" if relative_to == "tile-absmax" else "tensor-std"
        for row in range(0, weight.shape[-2], tile_size):
            for column in range(0, weight.shape[-1], tile_size):
                block = (..., slice(row, row + tile_size), slice(column, column + tile_size))
                scale[block] = noise_scale(weight[block], within)
        return scale
    over = (-1,) if relative_to.startswith("channel") else (-2, -1)
    if relative_to.endswith("absmax"):
        return weight.abs().amax(over, keepdim=True)
    return weight.std(over, correction=0, keepdim=True)


def additive(
    weight: torch.Tensor, strength: float, relative_to: Scale, random: torch.Generator, tile_size: int = 256
) -> torch.Tensor:
    """`weight + strength * scale * xi` with xi ~ N(0, 1) for each element; shapes as in `noise_scale`."""
    return (strength * noise_scale(weight, relative_to, tile_size) * _normal(weight, random)).add_(weight)


def proportional(weight: torch.Tensor, strength: float, random: torch.Generator) -> torch.Tensor:
    """`weight * (1 + strength * xi)` with xi ~ N(0, 1) for each element: zeros stay exact."""
    return weight * _normal(weight, random).mul_(strength).add_(1)


def log_normal(weight: torch.Tensor, strength: float, random: torch.Generator) -> torch.Tensor:
    """`weight * exp(strength * xi)` with xi ~ N(0, 1) for each element: signs and zeros stay, the median is exact."""
    return weight * _normal(weight, random).mul_(strength).exp_()


def _normal(weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    # Drawn where the generator lives, so that a chip instance is the same whatever device the model is on.
    return torch.randn(weight.shape, generator=random, device=random.device).to(weight.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightNoise(WeightMethod, abc.ABC):
    """Noise on weights; a chip instance of it is a `seed`, which with the site's name fixes every draw.

    Args:
        strength: standard deviation of a weight, in units of the noise's scale; 0 is the identity.
        seed: of the chip instance.
    """

    strength: float
    seed: int = 0

    def check(self) -> None:
        super().check()
        checks.number("noise strength", self.strength, at_least=0)
        checks.integer("seed", self.seed)

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        if self.strength == 0:
            return weight, {}  # not `weight + 0`, which would turn -0.0 into 0.0
        return self.draw(weight, generator(self.seed, "chip", site.name)), {}

    @abc.abstractmethod
    def draw(self, weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """`weight` with one instance of the noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdditiveNoise(WeightNoise):
    """Programming noise whose size does not depend on the weight.

    Args:
        relative_to: what `strength` is measured in: "absolute" (the weight's own unit), "tensor-absmax",
            "tensor-std", "channel-absmax" or "channel-std" (of each output channel), "tile-absmax" or "tile-std".
        tile_size: outputs and inputs of a tile, for the last two.
    """

    relative_to: Scale = "channel-absmax"
    tile_size: int = 256

    def check(self) -> None:
        super().check()
        checks.one_of("relative_to", self.relative_to, get_args(Scale))
        checks.integer("tile_size", self.tile_size, at_least=1)

    def draw(self, weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        return additive(weight, self.strength, self.relative_to, random, self.tile_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProportionalNoise(WeightNoise):
    """Programming noise in proportion to each weight."""

    def draw(self, weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        return proportional(weight, self.strength, random)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogNormalNoise(WeightNoise):
    """Programming noise that multiplies each weight by a log-normal factor of median 1."""

    def draw(self, weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        return log_normal(weight, self.strength, random)
