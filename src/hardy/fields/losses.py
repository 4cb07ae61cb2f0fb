"""What a fit minimises: the squared error, plainly or so that the weights may be disturbed afterwards.

Sources: Robust-INR (arXiv 2508.13481) for the gradient norm; SAM (2010.01412), ASAM (2102.11600) and SAMSON
(2211.11561) for sharpness; random weight perturbation is common practice in noise-aware training. The paper's text
names neither its norm nor its weight: all three norms are here. Where we differ: norms are taken over weight matrices
only, which are what a chip or a quantizer disturbs, and biases are left alone.

A loss sees a function from parameters to one error per network. Networks in a batch do not mix: each has its own norm
and its own step, and is fitted as it would be alone.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.hardware.noise import AdditiveNoise, ProportionalNoise

Reconstruction = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
Norm = Literal["l2", "l1", "squared"]
Scaling = Literal["none", "weight", "range"]
Noise = AdditiveNoise | ProportionalNoise

# Under the square root of a norm: an exact zero has no slope there.
_TINY = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss(abc.ABC):
    """A way to turn reconstruction errors into gradients."""

    @abc.abstractmethod
    def gradients(
        self, reconstruction: Reconstruction, parameters: Mapping[str, torch.Tensor], step: int, progress: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Errors and the gradients to descend.

        Args:
            reconstruction: gives the error of each network, (networks,), at any parameters.
            parameters: leaves that require gradients, each (networks, ...); weight matrices are named `*.weight`.
            step: 0, 1, ...
            progress: the share of the fit that is over, 0 to 1.

        Returns:
            Reconstruction errors (networks,), detached, and the gradient for each parameter, in its shape.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquaredError(Loss):
    """The mean squared error itself: the control."""

    def gradients(
        self, reconstruction: Reconstruction, parameters: Mapping[str, torch.Tensor], step: int, progress: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return _plain(reconstruction, parameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robust(Loss, abc.ABC):
    """A loss that disturbs the fit, more and more over its first part.

    Args:
        warmup: the share of the fit over which the disturbance grows linearly from zero to its strength; 0 for
            none. A strong one from the first step on can leave nothing but a constant.
    """

    warmup: float = 0.2

    def __post_init__(self) -> None:
        checks.number("warmup", self.warmup, at_least=0, at_most=1)

    def ramp(self, progress: float) -> float:
        """The share of its full strength that a loss has at `progress`."""
        return 1.0 if progress >= self.warmup else progress / self.warmup


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientNorm(Robust):
    """Add a norm of the error's own gradient: Robust-INR.

    To first order, weights that move by delta change the error by <delta, gradient>, at most |delta| |gradient|. The
    norm is differentiated through: a second backward pass, 1.5 to 3 times the cost of a plain step.

    Args:
        strength: the norm's weight beside the error. Around 0.03 for "l2"; far above, the fit collapses.
        norm: of all weight matrices' gradients together: "l2", "l1", or "squared" (of l2).
    """

    strength: float = 0.03
    norm: Norm = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("strength", self.strength, above=0)
        checks.one_of("norm", self.norm, get_args(Norm))

    def gradients(
        self, reconstruction: Reconstruction, parameters: Mapping[str, torch.Tensor], step: int, progress: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        errors = reconstruction(parameters)
        matrices = list(matrices_of(parameters).values())
        slopes = torch.autograd.grad(errors.sum(), matrices, create_graph=True)
        if self.norm == "l1":
            norms = sum_over(slopes, torch.abs)
        else:
            norms = sum_over(slopes, squared)
            norms = (norms + _TINY).sqrt() if self.norm == "l2" else norms
        total = errors + self.strength * self.ramp(progress) * norms
        return errors.detach(), _gradients(total, parameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharpnessAware(Robust):
    """Descend the error at the worst point nearby, to first order: SAM. Costs two plain steps and no more memory.

    Args:
        radius: how far the worst point is, in the norm that `scaling` gives.
        scaling: what a weight's share of the step is measured in: "none" (SAM), "weight", its own size (ASAM), or
            "range", the largest of its matrix (SAMSON).
    """

    radius: float = 0.02
    scaling: Scaling = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("radius", self.radius, above=0)
        checks.one_of("scaling", self.scaling, get_args(Scaling))

    def gradients(
        self, reconstruction: Reconstruction, parameters: Mapping[str, torch.Tensor], step: int, progress: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        errors, slopes = _plain(reconstruction, parameters)
        matrices = matrices_of(parameters)
        units = {name: self._unit(matrix.detach()) for name, matrix in matrices.items()}
        scaled = {name: units[name] * slopes[name] for name in matrices}
        length = (sum_over(list(scaled.values()), squared) + _TINY).sqrt()
        reach = self.radius * self.ramp(progress) / length
        moved = dict(parameters)
        for name, matrix in matrices.items():
            moved[name] = matrix + reach[:, None, None] * units[name] * scaled[name]
        _, gradients = _plain(reconstruction, parameters, moved)
        return errors, gradients

    def _unit(self, matrix: torch.Tensor) -> torch.Tensor | float:
        if self.scaling == "none":
            return 1.0
        sizes = matrix.abs()
        return sizes if self.scaling == "weight" else sizes.amax((-2, -1), keepdim=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightPerturbation(Robust):
    """Descend the error at weights with fresh noise in every step.

    Args:
        noise: what is drawn, at its full strength after the warm-up; its `seed` starts the series of draws, and its
            `select` and `layers` are not used: every weight matrix gets noise.
    """

    noise: Noise = AdditiveNoise(strength=0.05, relative_to="tensor-std")  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.noise, Noise):
            raise InputError(f"noise must be AdditiveNoise or ProportionalNoise, got {self.noise!r}")

    def gradients(
        self, reconstruction: Reconstruction, parameters: Mapping[str, torch.Tensor], step: int, progress: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        noise = dataclasses.replace(self.noise, strength=self.noise.strength * self.ramp(progress))
        moved = dict(parameters)
        for name, stack in matrices_of(parameters).items():
            # Every network gets the noise it would get alone, whatever else is in the batch.
            noisy = [drawn(noise, matrix, self.noise.seed, "perturbation", name, step) for matrix in stack.detach()]
            moved[name] = stack + (torch.stack(noisy) - stack.detach())
        return _plain(reconstruction, parameters, moved)


def drawn(noise: Noise, matrix: torch.Tensor, seed: int, *names: str | int) -> torch.Tensor:
    """`matrix` (out, in) with one draw of `noise`; real and imaginary parts of a complex one are drawn apart."""
    random = generator(seed, *names)
    if not matrix.is_complex():
        return noise.draw(matrix, random).to(matrix.dtype)
    return torch.complex(noise.draw(matrix.real, random), noise.draw(matrix.imag, random))


def matrices_of(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weight matrices among `parameters`."""
    return {name: tensor for name, tensor in parameters.items() if name.endswith("weight")}


def squared(x: torch.Tensor) -> torch.Tensor:
    """|x|^2, element by element, real; unlike abs, smooth at zero."""
    return torch.view_as_real(x).square().sum(-1) if x.is_complex() else x.square()


def sum_over(
    tensors: list[torch.Tensor] | tuple[torch.Tensor, ...], of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The sum of `of` over all elements of each network's tensors, (networks,)."""
    return torch.stack([of(tensor).flatten(1).sum(1) for tensor in tensors]).sum(0)


def _plain(
    reconstruction: Reconstruction,
    parameters: Mapping[str, torch.Tensor],
    at: Mapping[str, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    errors = reconstruction(parameters if at is None else at)
    return errors.detach(), _gradients(errors, parameters)


def _gradients(errors: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    slopes = torch.autograd.grad(errors.sum(), list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, slopes, strict=True))
