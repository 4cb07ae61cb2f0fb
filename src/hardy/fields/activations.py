"""What a field's layers compute between their products: seven activations, each a function and its initial weights.

Sources: SIREN (arXiv 2006.09661) sine; QuadINR (2508.14374) quad, whose initial weights are SIREN's; Gaussian
activations (2111.15135); WIRE (2301.05187); FINER (2312.02434); NeRF (2003.08934) ReLU on encoded coordinates. The
triangle wave is a control for quad.

A layer computes `function(factor(first) * (W x + b))`. FINER's own code does not differentiate through the factor
|z| + 1; we do, which makes the gradient the true one.
"""

import abc
import dataclasses
import math
from typing import ClassVar

import torch

from hardy import checks
from hardy.errors import InputError, near_misses
from hardy.ops.waves import quad, triangle


def _uniform(shape: tuple[int, ...], bound: float, random: torch.Generator) -> torch.Tensor:
    return (torch.rand(shape, generator=random) * 2 - 1) * bound


def _siren_weight(
    shape: tuple[int, int], first: bool, omega: float, power: float, random: torch.Generator
) -> torch.Tensor:
    # U(±c) has the variance c^2 / 3: pre-activations, times omega, get unit variance if (omega c)^2 fan_in power = 3.
    bound = 1 / shape[1] if first else math.sqrt(3 / power / shape[1]) / omega
    return _uniform(shape, bound, random)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activation(abc.ABC):
    """A function between layers, with what belongs to it: its frequency or width, initial weights, learning rate."""

    name: ClassVar[str]
    learning_rate: ClassVar[float]
    """Of Adam, for networks of width 48 to 256 (the FINER++ protocol uses 5e-4 for sine at width 256)."""
    dtype: ClassVar[torch.dtype] = torch.float32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = checks.number(f"{field.name} of {self.name}", getattr(self, field.name), above=0)
            object.__setattr__(self, field.name, value)

    @abc.abstractmethod
    def factor(self, first: bool) -> float:
        """What the pre-activation of the first or of another layer is multiplied by."""

    @abc.abstractmethod
    def function(self, x: torch.Tensor) -> torch.Tensor:
        """The activation of the multiplied pre-activation, element by element."""

    def encoded_features(self, in_features: int) -> int:
        """How many features the first layer gets for `in_features` coordinates."""
        return in_features

    def encode(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Coordinates (..., d) as the first layer gets them, (..., encoded_features(d))."""
        return coordinates

    def width(self, hidden_features: int) -> int:
        """Units of a hidden layer, for a budget of parameters that a real layer of `hidden_features` has."""
        return hidden_features

    def draw_weight(self, out: int, fan_in: int, first: bool, random: torch.Generator) -> torch.Tensor:
        """Initial weights (out, fan_in); by default PyTorch's for linear layers, U(±1/sqrt(fan_in))."""
        return _uniform((out, fan_in), 1 / math.sqrt(fan_in), random)

    def draw_bias(self, out: int, fan_in: int, first: bool, random: torch.Generator) -> torch.Tensor:
        """Initial biases (out,); by default PyTorch's for linear layers, U(±1/sqrt(fan_in))."""
        return _uniform((out,), 1 / math.sqrt(fan_in), random)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Periodic(Activation):
    """A wave at the frequency omega: `wave(omega * (W x + b))`, with SIREN's initial weights.

    Args:
        first_omega: of the first layer; it sets the finest detail that is easy to fit.
        hidden_omega: of the other layers; it scales their gradients, not what they compute at the start.
    """

    first_omega: float = 30.0
    hidden_omega: float = 30.0
    learning_rate: ClassVar[float] = 1e-3
    power: ClassVar[float] = 0.5
    """Mean square of the wave over a period."""

    def factor(self, first: bool) -> float:
        return self.first_omega if first else self.hidden_omega

    def draw_weight(self, out: int, fan_in: int, first: bool, random: torch.Generator) -> torch.Tensor:
        return _siren_weight((out, fan_in), first, self.hidden_omega, self.power, random)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sine(Periodic):
    """`sin(omega z)`: SIREN."""

    name = "sine"

    def function(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quad(Periodic):
    """`p (2 - |p|)` with p = omega z folded into [-2, 2]: QuadINR, a sine made of one multiplication.

    Its period is 4 where that of the sine is 2 pi: at omega = 30 * 2 / pi = 19.1 both oscillate alike, at 30 quad is
    1.57 times faster. SIREN's bound is kept although the wave's power is 8/15, not 1/2: a difference of 3 %.
    """

    name = "quad"

    def function(self, x: torch.Tensor) -> torch.Tensor:
        return quad(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triangle(Periodic):
    """The triangle wave of omega z, of period 4."""

    name = "triangle"
    power = 1 / 3

    def function(self, x: torch.Tensor) -> torch.Tensor:
        return triangle(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finer(Activation):
    """`sin(omega z (|z| + 1))`: FINER, a sine that is faster the farther it is from zero.

    Args:
        omega: of all layers.
        first_bias: biases of the first layer are drawn from U(±first_bias); larger ones start at higher frequencies.
    """

    omega: float = 30.0
    first_bias: float = 1.0
    name = "finer"
    learning_rate = 1e-3

    def factor(self, first: bool) -> float:
        return self.omega

    def function(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x + x * x.abs() / self.omega)

    def draw_weight(self, out: int, fan_in: int, first: bool, random: torch.Generator) -> torch.Tensor:
        return _siren_weight((out, fan_in), first, self.omega, 0.5, random)

    def draw_bias(self, out: int, fan_in: int, first: bool, random: torch.Generator) -> torch.Tensor:
        return _uniform((out,), self.first_bias if first else 1 / math.sqrt(fan_in), random)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gauss(Activation):
    """`exp(-(scale z)^2)`: a bump."""

    scale: float = 10.0
    name = "gauss"
    learning_rate = 5e-3

    def factor(self, first: bool) -> float:
        return self.scale

    def function(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-x.square())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wire(Activation):
    """`exp(j omega z - |scale z|^2)`: WIRE, a complex wavelet.

    All layers are complex, the output is the real part, and hidden layers are narrower by sqrt(2), as in WIRE's own
    comparisons, so that the number of stored real values is about that of the other activations.
    """

    omega: float = 10.0
    scale: float = 5.0
    name = "wire"
    learning_rate = 5e-3
    dtype = torch.complex64

    def factor(self, first: bool) -> float:
        return self.omega

    def function(self, x: torch.Tensor) -> torch.Tensor:
        # exp(j x) is exp(-imag) at the angle real: all in real numbers, which CPUs are several times faster at.
        real, imaginary = x.real, x.imag
        squared = real.square() + imaginary.square()
        size = torch.exp(-imaginary - (self.scale / self.omega) ** 2 * squared)
        return torch.complex(size * torch.cos(real), size * torch.sin(real))

    def width(self, hidden_features: int) -> int:
        return max(1, round(hidden_features / math.sqrt(2)))

    def draw_weight(self, out: int, fan_in: int, first: bool, random: torch.Generator) -> torch.Tensor:
        # Each part has half the variance, so that |w|^2 is on average what it is for the real default.
        parts = _uniform((out, fan_in, 2), 1 / math.sqrt(2 * fan_in), random)
        return torch.view_as_complex(parts)

    def draw_bias(self, out: int, fan_in: int, first: bool, random: torch.Generator) -> torch.Tensor:
        return torch.view_as_complex(_uniform((out, 2), 1 / math.sqrt(2 * fan_in), random))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relu(Activation):
    """`max(z, 0)` on coordinates that are first encoded as sines and cosines of doubling frequencies.

    Args:
        frequencies: how many; the k-th, from k = 0, has 2^k periods over [-1, 1]. A grid of n points holds n / 2
            periods, so log2(n) frequencies are all that it can use. The coordinates are kept beside them.
    """

    frequencies: int = 8
    name = "relu"
    learning_rate = 5e-3

    def __post_init__(self) -> None:
        frequencies = checks.integer("frequencies of relu", self.frequencies, at_least=1, at_most=24)
        object.__setattr__(self, "frequencies", frequencies)

    def factor(self, first: bool) -> float:
        return 1.0

    def function(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)

    def encoded_features(self, in_features: int) -> int:
        return in_features * (1 + 2 * self.frequencies)

    def encode(self, coordinates: torch.Tensor) -> torch.Tensor:
        octaves = math.pi * 2.0 ** torch.arange(self.frequencies, device=coordinates.device, dtype=coordinates.dtype)
        phases = (coordinates[..., None] * octaves).flatten(-2)
        return torch.cat([coordinates, torch.sin(phases), torch.cos(phases)], -1)

    def draw_weight(self, out: int, fan_in: int, first: bool, random: torch.Generator) -> torch.Tensor:
        return _uniform((out, fan_in), math.sqrt(6 / fan_in), random)


KINDS: dict[str, type[Activation]] = {kind.name: kind for kind in (Sine, Quad, Gauss, Wire, Finer, Relu, Triangle)}


def activation(choice: str | Activation) -> Activation:
    """The activation itself, or the one of this name with its default settings.

    Raises:
        InputError: there is none of this name.
    """
    if isinstance(choice, Activation):
        return choice
    if not isinstance(choice, str) or choice not in KINDS:
        close = near_misses(choice, KINDS) if isinstance(choice, str) else ""
        raise InputError(f"activation must be one of {', '.join(KINDS)}, or an Activation, got {choice!r}{close}")
    return KINDS[choice]()
