"""A cell described by the user's own measurements: a table of levels with mean and standard deviation, or samples.

The table says what is held when a level is programmed. Between levels, mean and standard deviation are interpolated
linearly; with samples, the deviations from the mean of the nearer levels are resampled instead of drawn from a
Gaussian, so that skew and tails are those of the chip.
"""

import dataclasses
import math
from pathlib import Path

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.hardware.device import Device, require_seconds
from hardy.hardware.table_file import read_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableDevice(Device):
    """A measured cell.

    Args:
        levels: target conductances, uS, rising; they must span g_min to g_max.
        means: mean conductance held at each level, uS.
        stds: standard deviation at each level, uS. Empty where there are samples.
        samples: measured conductances at each level, uS, at least two each. Empty where there are stds.
        read: standard deviation of one read, uS.
        aged: (seconds after programming, means, stds) at later times, in their order; beside `stds`. Without it what
            happens after programming is not known, and time is refused. A cell keeps its place in the distribution.
    """

    levels: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...] = ()
    samples: tuple[tuple[float, ...], ...] = ()
    read: float = 0.0
    aged: tuple[tuple[float, tuple[float, ...], tuple[float, ...]], ...] = ()

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
        if self.aged and self.samples:
            raise InputError("a table of samples has no later times: give means and stds")
        before = 0.0
        for entry in self.aged:
            if len(entry) != 3 or any(len(values) != len(self.levels) for values in entry[1:]):
                raise InputError(f"aged must hold (seconds, means, stds) with an entry per level, got {entry!r:.80}")
            checks.number("seconds in aged, which rise,", entry[0], above=before)
            before = entry[0]
            for value in entry[1]:
                checks.number("means", value)
            for value in entry[2]:
                checks.number("stds", value, at_least=0)
        if not self.levels[0] <= self.g_min < self.g_max <= self.levels[-1]:
            raise InputError(
                f"g_min and g_max must lie within the levels {self.levels[0]:g} to {self.levels[-1]:g} uS, "
                f"got {self.g_min:g}, {self.g_max:g}"
            )

    @classmethod
    def from_csv(cls, path: str | Path, *, read: float = 0.0) -> "TableDevice":
        """Read a table with a header: `level,mean,std`, one row per level; or `level,sample`, one row per measurement.

        With a column `time`, in seconds after programming, there is one row per level and time; the earliest is what
        is held right after programming, at whatever time it was measured.

        In uS, or in the unit that every column of the header names: `level [S],mean [S],std [S]`, with S, mS, uS or
        nS. Commas, semicolons (then with decimal commas, if need be) or tabs divide columns; `#`, `%` and `//` begin
        comments; other usual names of the columns are known, and further columns are left out. g_min and g_max are the
        first and last level.

        Raises:
            InputError: the file is missing or not such a table, and the message names the line; or it names no unit
                and all its levels are below 0.01, which are siemens and not uS.
        """
        path = Path(path)
        header, values = read_table(path)
        levels = tuple(sorted({numbers[0] for numbers in values}))
        if len(levels) < 2:
            raise InputError(f"table {path} must hold at least 2 levels, got {len(levels)}")
        ends = {"levels": levels, "g_min": levels[0], "g_max": levels[-1], "read": read}
        if "sample" in header:
            samples = tuple(tuple(row[1] for row in values if row[0] == level) for level in levels)
            means = tuple(math.fsum(group) / len(group) for group in samples)
            return cls(means=means, samples=samples, **ends)
        times = sorted({row[3] for row in values}) if "time" in header else [0.0]
        at: list[tuple[float, tuple[float, ...], tuple[float, ...]]] = []
        for time in times:
            rows = sorted(row for row in values if "time" not in header or row[3] == time)
            if [row[0] for row in rows] != list(levels):
                if len(rows) > len(levels):
                    raise InputError(f"table {path} names a level twice")
                raise InputError(f"table {path} has {len(rows)} of its {len(levels)} levels at {time:g} s")
            at.append((time - times[0], tuple(row[1] for row in rows), tuple(row[2] for row in rows)))
        return cls(means=at[0][1], stds=at[0][2], aged=tuple(at[1:]), **ends)

    def _at(self, seconds: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations of the levels, linear in log(1 + seconds) between the times of the table."""
        if seconds == 0 or not self.aged:
            require_seconds(seconds, 0, "a cell from a table without times")
            return self.means, self.stds
        require_seconds(seconds, self.aged[-1][0], "a cell from this table")
        known = [(0.0, self.means, self.stds), *self.aged]
        index = next(i for i, (time, _, _) in enumerate(known) if time >= seconds)
        (start, *before), (end, *after) = known[index - 1], known[index]
        share = math.log1p(seconds) - math.log1p(start)
        share /= math.log1p(end) - math.log1p(start)
        means, stds = (
            tuple(a + share * (b - a) for a, b in zip(old, new, strict=True))
            for old, new in zip(before, after, strict=True)
        )
        return means, stds

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        level_means, level_stds = self._at(seconds)
        levels = torch.tensor(self.levels, dtype=torch.float64, device=target.device)
        above = torch.searchsorted(levels, target.double().contiguous()).clamp(1, len(levels) - 1)
        fraction = ((target - levels[above - 1]) / (levels[above] - levels[above - 1])).clamp(0, 1)

        def between(values: torch.Tensor) -> torch.Tensor:
            return torch.lerp(values[above - 1], values[above], fraction)

        means = torch.tensor(level_means, dtype=torch.float64, device=target.device)
        if level_stds:
            spread = between(torch.tensor(level_stds, dtype=torch.float64, device=target.device)) * normals[0]
        else:
            spread = between_samples(self.samples, self.means, above, fraction, normals[0])
        return (between(means) + spread).to(target.dtype)

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        return torch.full_like(held, self.read) if self.read else None


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
