"""Resistive memory: the cells of Wan et al. and of conductive-metal-oxide / HfOx filaments.

Sources: Wan et al., Nature 608, 504 (2022), fitted at 1 s, 1 day and 2 days; Falcone et al. (CMO/HfOx), programming
with two acceptance ranges, relaxation and read noise; constants of both as aihwkit gives them. We differ where aihwkit
errs: the error of Wan's cells keeps its share of g_max whatever g_max is, and an unknown acceptance range is refused
rather than replaced by the most favourable one.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.hardware.device import Device, polynomial, require_seconds

DAY = 86400.0

# Standard deviation in uS over g / g_max, lowest order first, for g_max = 40 uS; by seconds after programming.
_WAN = {
    1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
    DAY: (0.701, 22.086, -50.773, 47.095, -16.458),
    2 * DAY: (0.782, 20.274, -43.507, 37.062, -11.934),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReramWan(Device):
    """The cells of Wan et al.: a spread around the target that widens over two days, and constant read noise.

    Between the measured times the spread is interpolated over the logarithm of time; before 1 s it is that of 1 s,
    and beyond two days nothing is known. A cell keeps its place in the distribution as that widens.

    Args:
        g_max: uS; the spread keeps its share of it.
        weight_read: standard deviation of reading a weight, a pair of cells, as a share of g_max.
    """

    g_max: float = 40.0
    weight_read: float = 0.01

    former_fields: ClassVar[Mapping[str, str]] = {"read": "weight_read"}

    def check(self) -> None:
        super().check()
        checks.number("weight_read", self.weight_read, at_least=0)

    def program_std(self, target: torch.Tensor, seconds: float) -> torch.Tensor:
        """Standard deviation around the target before truncation at zero, uS."""
        require_seconds(seconds, 2 * DAY, "ReramWan")
        early, late = (1.0, DAY) if seconds <= DAY else (DAY, 2 * DAY)
        fraction = math.log(max(seconds, 1.0) / early) / math.log(late / early)
        share = target / self.g_max
        first, last = (polynomial(_WAN[time], share).clamp(min=0) for time in (early, late))
        return torch.lerp(first, last, fraction) * (self.g_max / 40)

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        return (target + self.program_std(target, seconds) * normals[0]).clamp(min=0)

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        return torch.full_like(held, self.weight_read * self.g_max / math.sqrt(2)) if self.weight_read else None


# Standard deviation of programming in uS over g in uS, by acceptance range in percent of the target.
_CMO = {0.2: (0.00081107, 0.00106879), 2.0: (0.0112185391, 0.01129027418)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReramCMO(Device):
    """CMO/HfOx filaments: programmed until within the acceptance range, then relaxing by an amount that does not
    depend on the level: mean -0.0890 ln t, standard deviation 0.0420 ln t + 0.4118 (uS, t in seconds).

    The relaxation starts at 1 s after programming and stays within g_min and g_max. Read noise before 1 s is that
    of 1 s.

    Args:
        acceptance: percent of the target, 0.2 or 2.
    """

    g_max: float = 88.2
    g_min: float = 9.0
    acceptance: float = 2.0
    normals: ClassVar[int] = 2

    def check(self) -> None:
        super().check()
        if isinstance(self.acceptance, bool) or self.acceptance not in _CMO:
            raise InputError(f"acceptance must be 0.2 or 2 percent of the target, got {self.acceptance!r}")
        if self.g_min < 1:
            raise InputError(f"g_min must be at least 1 uS, where the read noise vanishes, got {self.g_min!r}")

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds)
        programmed = target + polynomial(_CMO[self.acceptance], target) * normals[0]
        if seconds == 0:
            return programmed
        log = math.log(max(seconds, 1.0))
        relaxed = programmed - 0.08900206 * log + (0.04201137 * log + 0.41183342) * normals[1]
        return relaxed.clamp(self.g_min, self.g_max)

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        growth = math.sqrt(math.log((max(seconds, 1.0) + 1e-6) / 2e-6))
        return 0.0277316483 * held.clamp(min=1).log10() * growth
