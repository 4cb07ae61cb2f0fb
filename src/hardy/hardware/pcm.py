"""Phase-change memory: programming error, drift and 1/f read noise, fitted to measured devices.

Sources: Nandakumar et al., ICECS 2019, and the IBM HERMES chip (Le Gallo et al., Nature Electronics 2023;
Khaddam-Aljameh et al., JSSC 2022), both with the constants of aihwkit; IBM's analog-foundation-models for the last.
Read noise is drawn at every read where aihwkit draws it once for a point in time, because that is what a chip does;
its size is the same.
"""

import abc
import dataclasses
import math
from typing import ClassVar

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.hardware.device import Device, polynomial, require_seconds

# A cell at zero has no logarithm; the fits are clipped long before this.
_SMALLEST_SHARE = 1e-7


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftingPCM(Device, abc.ABC):
    """What the fits have in common: truncated Gaussian programming, power-law drift, 1/f noise of the read.

    `g(t) = g * ((t + t0) / t0) ** -nu`, with the exponent `nu = |mean + std * xi|` of each cell.
    """

    normals: ClassVar[int] = 2

    @property
    @abc.abstractmethod
    def first_read(self) -> float:
        """t0: seconds after programming at which the fit begins; `seconds` counts from there."""

    @property
    @abc.abstractmethod
    def read_time(self) -> float:
        """t_r: how long one read takes, seconds."""

    @abc.abstractmethod
    def program_std(self, target: torch.Tensor) -> torch.Tensor:
        """Standard deviation of programming before truncation at zero, uS."""

    @abc.abstractmethod
    def exponent(self, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the drift exponent at target / g_max, clipped to at least 1e-7."""

    @abc.abstractmethod
    def read_strength(self, share: torch.Tensor) -> torch.Tensor:
        """Q, the relative 1/f noise at programmed / g_max."""

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds)
        programmed = (target + self.program_std(target) * normals[0]).clamp(min=0)
        if seconds == 0:
            return programmed
        mean, std = self.exponent((target / self.g_max).clamp(min=_SMALLEST_SHARE))
        exponent = (mean + std * normals[1]).abs()
        return programmed * torch.exp(-math.log((seconds + self.first_read) / self.first_read) * exponent)

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        elapsed = seconds + self.first_read
        growth = math.sqrt(math.log((elapsed + self.read_time) / (2 * self.read_time)))
        return held * self.read_strength(programmed / self.g_max) * growth


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCM(DriftingPCM):
    """The fit of Nandakumar et al.; with another g_max than 25 uS the error keeps its share of it."""

    g_max: float = 25.0

    @property
    def first_read(self) -> float:
        return 20.0

    @property
    def read_time(self) -> float:
        return 250e-9

    def program_std(self, target: torch.Tensor) -> torch.Tensor:
        return polynomial((0.26348, 1.9650, -1.1731), target / self.g_max) * (self.g_max / 25)

    def exponent(self, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log = share.log()
        return (-0.0155 * log + 0.0244).clamp(0.049, 0.1), (-0.0125 * log - 0.0059).clamp(0.008, 0.045)

    def read_strength(self, share: torch.Tensor) -> torch.Tensor:
        # Far below the share where 0.2 is reached; a power of zero has no gradient.
        return (0.0088 / share.clamp(min=1e-5).pow(0.65)).clamp(max=0.2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HermesPCM(DriftingPCM):
    """Cells of the IBM HERMES chip.

    Args:
        devices: 1 or 2 phase-change devices to a cell, programmed and fitted differently.
        g_max: at most the largest conductance of the fit: 10.35 uS with one device, 20.7 uS with two.
    """

    g_max: float = 20.7
    devices: int = 2

    def check(self) -> None:
        super().check()
        if self.devices not in {1, 2} or isinstance(self.devices, bool):
            raise InputError(f"devices must be 1 or 2, got {self.devices!r}")
        if self.g_max > self.fitted_g_max:
            raise InputError(
                f"g_max must be at most {self.fitted_g_max:g} uS with devices={self.devices}, got {self.g_max:g}"
            )

    @property
    def fitted_g_max(self) -> float:
        """Largest conductance of the fit, uS."""
        return 10.35 * self.devices

    @property
    def first_read(self) -> float:
        return 200.0 if self.devices == 1 else 300.0

    @property
    def read_time(self) -> float:
        return 512e-9

    def program_std(self, target: torch.Tensor) -> torch.Tensor:
        one = (0.15781817, 2.32443916, -2.16310839, 0.68841818)
        two = (0.16603222, 4.71806468, -8.48101252, 4.68961419)
        scale = self.g_max / self.fitted_g_max
        return polynomial(one if self.devices == 1 else two, target / self.g_max) * scale

    def exponent(self, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log = share.log()
        low = (-0.0387 * log - 0.0182).clamp(0.0720, 0.13)
        mean = torch.where(share < 0.0945, low, polynomial((0.0736, -0.0126, -0.0436), share))
        if self.devices == 1:
            low = (-0.0120 * log - 0.0023).clamp(0.0124, 0.04)
            return mean, torch.where(share < 0.3039, low, polynomial((0.0104, 0.0116, -0.0165), share))
        low = (-0.0117 * log - 0.0057).clamp(0.0091, 0.04)
        return mean, torch.where(share < 0.3055, low, polynomial((0.0073, 0.0093, -0.0118), share))

    def read_strength(self, share: torch.Tensor) -> torch.Tensor:
        log = share.clamp(min=_SMALLEST_SHARE).log()
        if self.devices == 1:
            low = (-0.0078 * log + 0.0038).clamp(0.0179, 0.04)
            return torch.where(share < 0.1591, low, polynomial((0.0088, 0.0768, -0.1352, 0.0664), share))
        low = (-0.0117 * log - 0.0069).clamp(0.015, 0.04)
        return torch.where(share < 0.16, low, polynomial((0.0123, 0.0211, -0.0280, 0.0069), share))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundationPCM(Device):
    """The programming error of the analog foundation models: cubics in the conductance, of a cell with up to 180 units.

    It was fitted to whole weights: one device holds a weight up to 52.5 units and a pair holds a larger one, a weight
    below 0.6 units is exactly zero, and noise may turn a weight's sign, so nothing is truncated. Mapped to a pair of
    cells of which one is at zero it is the same model. What a unit is in uS the source does not say, so a wire
    resistance has no meaning with it, and what happens after programming is not known.

    Args:
        g_max: largest conductance, in units of the source; another than 180 keeps the error's share of it.
    """

    g_max: float = 180.0

    def check(self) -> None:
        super().check()
        if self.g_min != 0:
            raise InputError(f"g_min must be 0 for a fit of whole weights, got {self.g_min!r}")
        checks.number("g_max", self.g_max, above=0)

    def program_std(self, target: torch.Tensor) -> torch.Tensor:
        """Standard deviation of programming, in units of g_max / 180."""
        level = target * (180 / self.g_max)
        one = polynomial((2.5797410660, 0.2241968595, -0.0037158121, 2.9397513811e-05), level)
        two = polynomial((2.1102957202, 0.2453487120, -0.0030549934, 1.2329755395e-05), level)
        std = torch.where(level > 52.5, two, one) * (self.g_max / 180)
        return torch.where(level < 0.6, torch.zeros_like(std), std)

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds, 0, "FoundationPCM")
        level = target * (180 / self.g_max)
        return torch.where(level < 0.6, torch.zeros_like(target), target + self.program_std(target) * normals[0])
