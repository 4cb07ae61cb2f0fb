"""A memory cell of a crossbar: what conductance it holds when it was told to hold another one, and for how long.

Generic cells whose noise is a plain formula, and cells known by a polynomial fit of their programming error (CrossSim's
fits of published data). Cells with drift have files of their own: `pcm`, `reram`, `flash`, and `table` for measured
ones. Conductances are in uS, times in seconds after programming. Read noise is that of a single read: Gaussian
around the conductance and not truncated at zero, because it is a noise of the current; only so is the noise of a
whole column exactly Gaussian too.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from hardy import checks
from hardy.core.registry import Registered
from hardy.errors import InputError

LARGEST = 1e9
"""The largest number that a cell or its periphery may have, in its own units: products of it fit into float32."""


def polynomial(coefficients: Sequence[float], x: torch.Tensor) -> torch.Tensor:
    """`sum_i coefficients[i] * x ** i`, lowest order first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device(Registered, abc.ABC, group="hardy.devices"):
    """A kind of memory cell. One of another package is registered as its methods are (`hardy.core.register`).

    A chip instance is a set of standard normal numbers, `normals` for each cell, drawn once. Given those, the
    conductance is a function of time alone, so that a chip ages the same way however often it is looked at.

    Args:
        g_max: the largest conductance it is programmed to, in uS.
        g_min: the smallest, in uS; what stands for a weight of zero.
    """

    g_max: float
    g_min: float = 0.0

    normals: ClassVar[int] = 1
    """How many standard normal numbers make one cell."""

    former_fields: ClassVar[Mapping[str, str]] = {}
    """Fields that were called otherwise in stored chips: old name -> its name now."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = checks.unwrapped(getattr(self, field.name))
            object.__setattr__(self, field.name, tuple(value) if isinstance(value, list) else value)
            check_size(field.name, value)
        self.check()

    def check(self) -> None:
        """Raise `InputError` for a field out of range."""
        checks.number("g_min", self.g_min, at_least=0)
        checks.number("g_max", self.g_max, above=self.g_min)
        if self.g_max - self.g_min < 1 / LARGEST:
            raise InputError(
                f"g_min and g_max must be at least {1 / LARGEST:g} uS apart, got {self.g_min}, {self.g_max}"
            )

    @abc.abstractmethod
    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        """What the cells hold.

        Args:
            target: what they were told to hold, uS, any shape.
            normals: standard normal numbers, (self.normals, *target.shape): which cells these are.
            seconds: time since programming; 0 is right after it.

        Returns:
            Conductances in uS, the shape of `target`.

        Raises:
            InputError: nothing is known about these cells at that time.
        """

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        """Standard deviation of one read, uS; None for a cell without read noise.

        Args:
            programmed: conductances right after programming, uS.
            held: conductances now.
            seconds: time since programming.
        """
        return None

    def to_dict(self) -> dict[str, Any]:
        """Its id and fields, as plain data for JSON.

        Raises:
            InputError: it is of another package, and not registered.
        """
        self.registry.require(type(self))
        return {"device": self.id, "fields": dataclasses.asdict(self)}


def require_seconds(seconds: float, latest: float = math.inf, whose: str = "") -> None:
    """Raise `InputError` unless `seconds` is a time at which the cell is known.

    A cell whose drift nobody measured is known at 0 only: holding it still would be a claim.
    """
    checks.number("seconds since programming", seconds, at_least=0)
    if seconds > latest:
        known = "right after programming only (0 s)" if latest == 0 else f"up to {latest:g} s after programming"
        raise InputError(f"{whose} is known {known}, got {seconds:g} s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdditiveDevice(Device):
    """Gaussian programming and read noise of one size for all levels; no drift.

    A weight is a pair of such cells and both err, so its noise is larger than a cell's by sqrt(2): `of_weight` takes
    the strengths of the weight, which is how hardy states noise wherever it does not name cells.

    Args:
        program: standard deviation of programming one cell, as a share of g_max - g_min.
        read: standard deviation of reading one cell once, likewise.
    """

    g_max: float = 25.0
    program: float = 0.0
    read: float = 0.0

    @classmethod
    def of_weight(cls, *, program: float = 0.0, read: float = 0.0) -> AdditiveDevice:
        """Cells of which a pair gives a weight these standard deviations, as shares of the largest weight.

        What the largest weight is taken over, tensor, channel or tile, is the chip's `weight_range`.
        """
        checks.number("program", program, at_least=0)
        checks.number("read", read, at_least=0)
        return cls(program=program / math.sqrt(2), read=read / math.sqrt(2))

    def check(self) -> None:
        super().check()
        checks.number("program", self.program, at_least=0)
        checks.number("read", self.read, at_least=0)

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds)
        return target + self.program * (self.g_max - self.g_min) * normals[0]

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        return torch.full_like(held, self.read * (self.g_max - self.g_min)) if self.read else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProportionalDevice(Device):
    """Gaussian programming and read noise in proportion to the conductance; no drift.

    Source: CrossSim's proportional error and NeuroSim's read noise (equation only).

    Args:
        program: standard deviation of programming, as a share of the target.
        read: standard deviation of one read, as a share of what is held.
    """

    g_max: float = 25.0
    program: float = 0.0
    read: float = 0.0

    def check(self) -> None:
        super().check()
        checks.number("program", self.program, at_least=0)
        checks.number("read", self.read, at_least=0)

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds)
        return target * (1 + self.program * normals[0])

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        return self.read * held.abs() if self.read else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogNormalDevice(Device):
    """Log-normal programming noise, `target * exp(sigma * xi)`: the median is the target; no drift.

    Args:
        sigma: standard deviation of the logarithm.
    """

    g_max: float = 25.0
    sigma: float = 0.0

    def check(self) -> None:
        super().check()
        checks.number("sigma", self.sigma, at_least=0)

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds)
        return target * (self.sigma * normals[0]).exp()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedDevice(Device):
    """Gaussian programming error whose size is a polynomial in the conductance; what happens later is not known.

    Args:
        coefficients: of the standard deviation in uS over the conductance in uS, lowest order first.
        fitted: range of conductances of the fit, uS; g_min and g_max must lie in it.
        truncated: whether a conductance below zero becomes zero. False for fits whose source lets it pass.
    """

    coefficients: tuple[float, ...]
    fitted: tuple[float, float]
    truncated: bool = True

    def check(self) -> None:
        super().check()
        if not self.coefficients:
            raise InputError("coefficients must hold at least one number, got none")
        for coefficient in self.coefficients:
            checks.number("coefficients", coefficient)
        low, high = self.fitted
        if not low <= self.g_min < self.g_max <= high:
            raise InputError(
                f"g_min and g_max must lie in the fit's {low:g} to {high:g} uS, got {self.g_min:g}, {self.g_max:g}"
            )
        checks.boolean("truncated", self.truncated)

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds, 0, "a cell known by its programming error")
        held = target + polynomial(self.coefficients, target).clamp(min=0) * normals[0]
        return held.clamp(min=0) if self.truncated else held


def check_size(name: str, value: Any) -> None:
    """Refuse numbers, in any nesting, whose squares and products float32 cannot hold: no cell has them."""
    if isinstance(value, list | tuple):
        for item in value:
            check_size(name, item)
    elif isinstance(value, int | float) and abs(value) > LARGEST and value not in (math.inf, -math.inf):
        raise InputError(f"{name} must be a number up to {LARGEST:g} in size, as a cell has it, got {value!r:.40}")


def device_from_dict(record: Mapping[str, Any]) -> Device:
    """The device that `Device.to_dict` described.

    Raises:
        InputError: there is no such device here, or a field is unknown or out of range.
    """
    former = Device.registry.find(record.get("device")).former_fields
    fields = record.get("fields", {})
    if isinstance(fields, Mapping):
        fields = {former.get(name, name): value for name, value in fields.items()}
    return Device.registry.restore(record.get("device"), fields, _tuple)


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value
