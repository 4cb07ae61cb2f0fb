"""A cell described by the user's own measurements: a table of levels with mean and standard deviation, or samples.

The table says what is held when a level is programmed. Between levels, mean and standard deviation are interpolated
linearly; with samples, the deviations from the mean of the nearer levels are resampled instead of drawn from a
Gaussian, so that skew and tails are those of the chip.
"""

import csv
import dataclasses
import math
import re
from pathlib import Path

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.hardware.device import LARGEST, Device, require_seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableDevice(Device):
    """A measured cell.

    Args:
        levels: target conductances, uS, rising; they must span g_min to g_max.
        means: mean conductance held at each level, uS.
        stds: standard deviation at each level, uS. Empty where there are samples.
        samples: measured conductances at each level, uS, at least two each. Empty where there are stds.
        read: standard deviation of one read, uS.

    What happens after programming is not in the table: time is refused.
    """

    levels: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...] = ()
    samples: tuple[tuple[float, ...], ...] = ()
    read: float = 0.0

    def check(self) -> None:
        super().check()
        checks.number("read", self.read, at_least=0)
        if len(self.levels) < 2:
            raise InputError(f"levels must hold at least 2 numbers, got {len(self.levels)}")
        for name in ("levels", "means", "stds"):
            for value in getattr(self, name):
                checks.number(name, value, **({"at_least": 0} if name != "means" else {}))
        if any(b <= a for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise InputError(f"levels must rise, got {self.levels}")
        if bool(self.stds) == bool(self.samples):
            raise InputError("a table takes either stds or samples, got " + ("both" if self.stds else "neither"))
        for name in ("means", "samples" if self.samples else "stds"):
            if len(getattr(self, name)) != len(self.levels):
                raise InputError(
                    f"{name} must hold one entry per level ({len(self.levels)}), got {len(getattr(self, name))}"
                )
        for level, group in zip(self.levels, self.samples, strict=False):
            if len(group) < 2:
                raise InputError(f"samples at level {level:g} must be at least 2 finite numbers, got {len(group)}")
            for value in group:
                checks.number(f"samples at level {level:g}", value)
        if not self.levels[0] <= self.g_min < self.g_max <= self.levels[-1]:
            raise InputError(
                f"g_min and g_max must lie within the levels {self.levels[0]:g} to {self.levels[-1]:g} uS, "
                f"got {self.g_min:g}, {self.g_max:g}"
            )

    @classmethod
    def from_csv(cls, path: str | Path, *, read: float = 0.0) -> "TableDevice":
        """Read a table with a header: `level,mean,std`, one row per level; or `level,sample`, one row per measurement.

        In uS, or in the unit that every column of the header names: `level [S],mean [S],std [S]`, with S, mS, uS or
        nS. g_min and g_max are the first and last level.

        Raises:
            InputError: the file is missing or not such a table, and the message names the line; or it names no unit
                and all its levels are below 0.01, which are siemens and not uS.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise InputError(f"table {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"table {path} is not UTF-8 text") from None
        rows = [(number, row) for number, row in enumerate(csv.reader(lines), start=1) if any(map(str.strip, row))]
        header, unit = _header(path, rows[0][1]) if rows else ((), None)
        if header not in {("level", "mean", "std"), ("level", "sample")}:
            raise InputError(f"table {path} must begin with level,mean,std or level,sample, got {','.join(header)!r}")
        values: list[tuple[float, ...]] = []
        for number, row in rows[1:]:
            try:
                numbers = tuple(float(entry) for entry in row)
            except ValueError:
                raise InputError(f"table {path}, line {number}: {','.join(row)!r} is not numbers") from None
            if len(numbers) != len(header) or not all(map(math.isfinite, numbers)):
                raise InputError(f"table {path}, line {number}: expected {len(header)} finite numbers, got {row}")
            values.append(tuple(value * _UNITS[unit or "us"] for value in numbers))
            if max(map(abs, values[-1])) > LARGEST:
                raise InputError(f"table {path}, line {number}: no cell conducts {','.join(row)}")
        levels = tuple(sorted({numbers[0] for numbers in values}))
        if unit is None and levels and max(levels) < 0.01:
            raise InputError(
                f"table {path} has levels up to {max(levels):g}, which is no conductance in uS: if they are siemens, "
                f"say so in its header: {','.join(f'{name} [S]' for name in header)}"
            )
        if len(levels) < 2:
            raise InputError(f"table {path} must hold at least 2 levels, got {len(levels)}")
        if len(header) == 3:
            if len(values) != len(levels):
                raise InputError(f"table {path} names a level twice")
            values.sort()
            means, stds = tuple(row[1] for row in values), tuple(row[2] for row in values)
            return cls(levels=levels, means=means, stds=stds, g_min=levels[0], g_max=levels[-1], read=read)
        samples = tuple(tuple(row[1] for row in values if row[0] == level) for level in levels)
        means = tuple(math.fsum(group) / len(group) for group in samples)
        return cls(levels=levels, means=means, samples=samples, g_min=levels[0], g_max=levels[-1], read=read)

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds, 0, "a cell from a table")
        levels = torch.tensor(self.levels, dtype=torch.float64, device=target.device)
        above = torch.searchsorted(levels, target.double().contiguous()).clamp(1, len(levels) - 1)
        fraction = ((target - levels[above - 1]) / (levels[above] - levels[above - 1])).clamp(0, 1)

        def between(values: torch.Tensor) -> torch.Tensor:
            return torch.lerp(values[above - 1], values[above], fraction)

        means = torch.tensor(self.means, dtype=torch.float64, device=target.device)
        if self.stds:
            spread = between(torch.tensor(self.stds, dtype=torch.float64, device=target.device)) * normals[0]
        else:
            spread = between_samples(self.samples, self.means, above, fraction, normals[0])
        return (between(means) + spread).to(target.dtype)

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        return torch.full_like(held, self.read) if self.read else None


_UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}


def _header(path: Path, row: list[str]) -> tuple[tuple[str, ...], str | None]:
    """Names of the columns, and the unit that they give, in small letters."""
    found = [re.fullmatch(r"([a-z]+)\s*(?:[\[(]\s*([a-zµμ]+)\s*[\])])?", name.strip().lower()) for name in row]
    if not all(found):
        return tuple(name.strip().lower() for name in row), None
    units = {match[2] and match[2].replace("µ", "u").replace("μ", "u") for match in found if match}
    if len(units) > 1 or (units != {None} and not units <= set(_UNITS)):
        raise InputError(f"table {path}: every column must give the same unit, S, mS, uS or nS, got {','.join(row)!r}")
    return tuple(match[1] for match in found if match), next(iter(units))


def between_samples(
    samples: tuple[tuple[float, ...], ...],
    means: tuple[float, ...],
    above: torch.Tensor,
    fraction: torch.Tensor,
    normal: torch.Tensor,
) -> torch.Tensor:
    """Deviations at the same quantile of the levels below and above, interpolated; `normal` says which quantile."""
    quantile = 0.5 * (1 + torch.erf(normal.double() / math.sqrt(2)))
    sides = []
    for level in (above - 1, above):
        side = torch.empty_like(quantile)
        for index in level.unique().tolist():
            here = level == index
            ordered = torch.tensor(sorted(samples[index]), dtype=torch.float64, device=quantile.device) - means[index]
            pick = (quantile[here] * len(ordered)).long().clamp(max=len(ordered) - 1)
            side[here] = ordered[pick]
        sides.append(side)
    return torch.lerp(sides[0], sides[1], fraction)
