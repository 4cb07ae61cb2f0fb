"""The one form of every committed result: what was found, with what, when, and by which code."""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hardy
from benchmarks.harness import catalogue
from hardy.errors import InputError
from hardy.files import read_json, write_text
from hardy.report import Report, Row

RESULTS = catalogue.FOLDER / "results"
FORMAT, VERSION = "hardy-benchmark", 1
CHANGE = {"date": str, "sha256": str, "why": str}
FIELDS: dict[str, Any] = {
    "name": str,
    "command": str,
    "date": str,
    "machine": dict,
    "versions": dict,
    "source": dict,
    "seeds": list,
    "seconds": (float, int, type(None)),
    "report": dict,
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A result.

    Args:
        name: of the result, and of its file.
        command: that measures it again.
        date: when it was measured, as 2026-11-24.
        machine: processor, cores, system, threads, and the load average before and after.
        versions: of Python, hardy, torch and the peers.
        source: of the script: the sha256 of its code when it was measured (None where that was not recorded), the
            commit, and the changes to it since that are said not to matter, each with its date, sha256 and reason.
        seeds: of whatever was drawn.
        seconds: the whole run; None where it was not recorded.
        report: its rows, settings, notes and figures.
        raw: what the rows were made of, where that is worth keeping.
    """

    name: str
    command: str
    date: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    source: Mapping[str, Any]
    seeds: Sequence[int]
    seconds: float | None
    report: Report
    raw: Any = None

    def write(self, folder: Path = RESULTS) -> Path:
        value = {"format": FORMAT, "version": VERSION, **_shallow(self), "report": json.loads(self.report.to_json())}
        value["report"]["rows"] = [
            {key: item for key, item in row.items() if item not in (None, "", [], {})}
            for row in value["report"]["rows"]
        ]
        file = folder / f"{self.name}.json"
        write_text(file, _dumps({key: item for key, item in value.items() if key != "raw" or item is not None}) + "\n")
        return file

    @classmethod
    def read(cls, name: str, folder: Path = RESULTS) -> "Record":
        """The record in a file.

        Raises:
            InputError: it is no record, and why.
        """
        file = folder / f"{name}.json"
        if not file.is_file():
            raise InputError(f"{name} has no result in {folder}: python -m benchmarks run {name}")
        value = read_json(file)
        if not isinstance(value, dict) or (value.pop("format", None), value.pop("version", None)) != (FORMAT, VERSION):
            raise InputError(f"{file} is not a benchmark's result of version {VERSION}")
        missing, unknown = FIELDS.keys() - value.keys(), value.keys() - FIELDS.keys() - {"raw"}
        if missing or unknown:
            raise InputError(f"{file} lacks {sorted(missing)} and has the unknown {sorted(unknown)}")
        for field, kind in FIELDS.items():
            _check(isinstance(value[field], kind), file, field, value[field])
        _check(value["name"] == name, file, "name", value["name"])
        _check(_is_date(value["date"]), file, "date", value["date"])
        machine, source = value["machine"], value["source"]
        _check({"processor", "cores", "system", "threads", "load"} == machine.keys(), file, "machine", machine)
        _check({"python", "hardy", "torch"} <= value["versions"].keys(), file, "versions", value["versions"])
        _check({"sha256", "commit", "changes"} == source.keys(), file, "source", source)
        for change in source["changes"]:
            good = isinstance(change, dict) and {key: type(item) for key, item in change.items()} == CHANGE
            _check(good and _is_date(change["date"]) and bool(change["why"].strip()), file, "change", change)
        _check(all(isinstance(seed, int) for seed in value["seeds"]), file, "seeds", value["seeds"])
        return cls(**{**value, "report": Report.from_json(value["report"])})

    @property
    def last_change(self) -> Mapping[str, str] | None:
        """The last change to the script since the measurement that is said not to matter."""
        return self.source["changes"][-1] if self.source["changes"] else None

    @property
    def is_of_this_script(self) -> bool:
        """Whether the script is the one that measured this, or all its changes since are explained."""
        script, _ = catalogue.of(self.name)
        return catalogue.sha256(script) == (self.last_change or self.source)["sha256"]

    def marked(self, why: str) -> "Record":
        """The same, saying of the script as it is now why it would still measure this.

        Raises:
            InputError: no reason is given.
        """
        if not why.strip():
            raise InputError("say why the change to the script does not matter")
        script, _ = catalogue.of(self.name)
        change = {"date": today(), "sha256": catalogue.sha256(script), "why": why}
        return dataclasses.replace(self, source={**self.source, "changes": [*self.source["changes"], change]})


def committed() -> list[str]:
    """Names of the results that there are."""
    return sorted(file.stem for file in RESULTS.glob("*.json"))


def today() -> str:
    return datetime.date.today().isoformat()


def machine(load_before: float) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or "unknown",
        "cores": os.cpu_count(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "load": [round(load_before, 2), round(load(), 2)],
    }


def load() -> float:
    """The load average of the last minute, where there is one."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of Python, hardy, torch and the packages; "not installed" where one is not."""
    found = {"python": platform.python_version(), "hardy": hardy.__version__, "torch": torch.__version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """Of the checkout, with a + if files differ from it; None where git does not know."""
    git = ["git", "-C", str(catalogue.FOLDER)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed else "")


def _shallow(record: Record) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _check(good: bool, file: Path, field: str, value: Any) -> None:
    if not good:
        raise InputError(f"{file}: {field} is not as it should be: {value!r:.200}")


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _dumps(value: Any, indent: int = 0) -> str:
    """JSON in which everything that fits has a line of its own: a row is a line, and so is its change."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(line) + indent <= 160 or not isinstance(value, dict | list) or _is_row(value):
        return line
    margin = "\n" + " " * (indent + 1)
    if isinstance(value, dict):
        inside = [f"{json.dumps(key, ensure_ascii=False)}: {_dumps(item, indent + 1)}" for key, item in value.items()]
        return "{" + margin + f",{margin}".join(inside) + margin[:-1] + "}"
    return "[" + margin + f",{margin}".join(_dumps(item, indent + 1) for item in value) + margin[:-1] + "]"


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and {"metric", "condition", "value"} <= value.keys()


@functools.cache
def rows(name: str) -> tuple[Row, ...]:
    """Of a committed result."""
    return Record.read(name).report.rows
