"""Read measured cells from a text table, as laboratories and simulators write them.

A header names the columns; before and between the rows there may be comments. Columns are divided by commas,
semicolons or tabs; what stands in other columns than those below is left out, and the log says so. Where states are
numbered instead of given as conductances, as in NeuroSim's tables, the level of a state is its mean.
"""

import csv
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

from hardy.errors import InputError
from hardy.hardware.device import LARGEST

_log = logging.getLogger(__name__)
_NAMES = {
    "level": {"level", "levels", "target", "targets", "conductance", "g", "gtarget", "targetconductance"},
    "state": {"state", "states", "stateindex", "index"},
    "mean": {"mean", "means", "mu", "average", "avg", "gmean", "meanconductance"},
    "std": {"std", "stds", "sigma", "sd", "stddev", "stdev", "gstd", "standarddeviation"},
    "sample": {"sample", "measured", "measurement", "value", "gmeasured", "read"},
    "time": {"time", "t", "seconds", "timeafterprogramming"},
}
_COLUMNS = ("level,mean,std", "level,mean,std,time", "level,sample")
_CONDUCTANCES = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_TIMES = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0, "d": 86400.0}


def read_table(path: Path) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    """The names of the columns, of `_COLUMNS`, and the rows in uS and seconds.

    Raises:
        InputError: the file is missing or not such a table, and the message names the line; or it names no unit and
            all its levels are below 0.01, which are siemens and not uS.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"table {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"table {path} is not UTF-8 text") from None
    kept = [(number, re.split(r"#|%|//", line)[0]) for number, line in enumerate(lines, start=1)]
    kept = [(number, line) for number, line in kept if line.strip(" \t,;")]
    divider = next((mark for mark in ";\t" if kept and mark in kept[0][1]), ",")
    rows = [(number, next(csv.reader([line], delimiter=divider))) for number, line in kept]
    names, units = _header(path, rows[0][1] if rows else [])
    numbered = "state" in names and "level" not in names and "mean" in names
    if "level" not in names:
        names = ["level" if name == "state" else name for name in names]
    wanted = [name for name in ("level", "mean", "std", "time", "sample") if name in names]
    if ",".join(wanted) not in _COLUMNS:
        shown = ",".join(rows[0][1]) if rows else ""
        raise InputError(f"table {path} must begin with {', '.join(_COLUMNS[:-1])} or {_COLUMNS[-1]}, got {shown!r}")
    if len(names) > len(wanted):
        left = [name for name in names if name not in wanted]
        _log.info("table %s: columns left out: %s", path, ", ".join(left))
    places = [names.index(name) for name in wanted]
    values = [_numbers(path, number, row, len(names), places, divider) for number, row in rows[1:]]
    unit = units.get("conductance")
    states = sorted({row[0] for row in values})
    if numbered and states in ([*range(len(states))], [*range(1, len(states) + 1)]):
        means: dict[float, float] = {}
        for row in sorted(values, key=lambda row: row[3:]):  # of the first time
            means.setdefault(row[0], row[1])
        values = [(means[row[0]], *row[1:]) for row in values]
        _log.info("table %s: states are numbered; the level of a state is its mean", path)
    if unit is None and values and max(row[0] for row in values) < 0.01:
        raise InputError(
            f"table {path} has levels up to {max(row[0] for row in values):g}, which is no conductance in uS: if they "
            f"are siemens, say so in its header: {','.join(f'{name} [S]' for name in wanted if name != 'time')}"
        )
    factors = [_TIMES[units.get("time") or "s"] if name == "time" else _CONDUCTANCES[unit or "us"] for name in wanted]
    scaled = [tuple(value * factor for value, factor in zip(row, factors, strict=True)) for row in values]
    for (number, row), numbers in zip(rows[1:], scaled, strict=True):
        if any(abs(value) > LARGEST for value, name in zip(numbers, wanted, strict=True) if name != "time"):
            raise InputError(f"table {path}, line {number}: no cell conducts {','.join(row)}")
    return tuple(wanted), scaled


def _header(path: Path, row: list[str]) -> tuple[list[str], dict[str, str]]:
    """Names of the columns, by the words above where they are known, and the units of conductances and of time."""
    names: list[str] = []
    units: dict[str, set[str | None]] = {"conductance": set(), "time": set()}
    for entry in row:
        match = re.fullmatch(r"([^\[(]*)(?:[\[(]\s*([A-Za-zµμ]+)\s*[\])])?", entry.strip().lower())
        word = re.sub(r"[\s_.-]", "", match[1] if match else entry.lower())
        name = next((name for name, words in _NAMES.items() if word in words), entry.strip())
        unit = match[2].replace("µ", "u").replace("μ", "u") if match and match[2] else None
        if name == "state" and unit is not None:
            name = "level"
        if name in names:
            raise InputError(f"table {path} has two columns for {name}: {','.join(row)}")
        names.append(name)
        if name in _NAMES and name != "state":
            units["time" if name == "time" else "conductance"].add(unit)
    found = units["conductance"]
    if len(found) > 1 or (found and found != {None} and not found <= set(_CONDUCTANCES)):
        raise InputError(f"table {path}: every column must give the same unit, S, mS, uS or nS, got {','.join(row)!r}")
    if not units["time"] <= {None, *_TIMES}:
        raise InputError(f"table {path}: times are in s, ms, min, h or d, got {','.join(row)!r}")
    return names, {kind: unit for kind, words in units.items() for unit in words if unit is not None}


def _numbers(
    path: Path, number: int, row: Sequence[str], columns: int, places: Sequence[int], divider: str
) -> tuple[float, ...]:
    if len(row) != columns:
        raise InputError(f"table {path}, line {number}: expected {columns} finite numbers, got {list(row)}")
    entries = [row[place] for place in places]
    if divider == ";":  # where commas do not divide columns they may divide digits
        entries = [entry.replace(",", ".") for entry in entries]
    try:
        numbers = tuple(float(entry) for entry in entries)
    except ValueError:
        raise InputError(f"table {path}, line {number}: {divider.join(row)!r} is not numbers") from None
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"table {path}, line {number}: expected {columns} finite numbers, got {list(row)}")
    return numbers
