"""A grid of conditions and seeds, run in parallel, written cell by cell, and resumed where it stopped."""

from __future__ import annotations

import dataclasses
import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hardy import __version__
from hardy.errors import InputError
from hardy.files import read_json, sweep, write_json
from hardy.reading import reading
from hardy.runs.conditions import Cell, Condition, Result, Results
from hardy.runs.progress import progress
from hardy.runs.workers import Backend, check_workers, run_jobs

FORMAT, VERSION = "hardy-study", 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A function measured on many cells.

    Args:
        name: what kind of study this is.
        run: `run(subject, arguments, seed) -> {metric: value}`; a function that other processes can import. It runs on
            one thread, so that every backend gives the same figures to the last bit.
        settings: everything that all cells share, as plain JSON data; with hardy's version it identifies the study.
        subject: what is measured, such as a model; the settings by default. One copy serves all local processes.
        out: folder for `study.json` and `cells/`; None keeps the results in memory only.
        memory: bytes that measuring a cell takes beside the subject; it limits the number of workers.
        workers: processes at once, unless `results` is told otherwise.
    """

    name: str
    run: Callable[[Any, Mapping[str, Any], int], Mapping[str, float]]
    settings: Mapping[str, Any]
    subject: Any = None
    out: Path | None = None
    memory: int = 0
    workers: int | None = None

    def results(
        self,
        cells: Iterable[Cell | Condition],
        *,
        backend: Backend = "local",
        workers: int | None = None,
        title: str = "",
    ) -> Results:
        """Measure the cells that are not on disk yet, and give all of them, in the order asked for.

        Each finished cell is written at once. A cell that fails, or whose process is killed twice, is reported in its
        result and tried again by the next run; the others go on. An interrupt keeps what is finished.

        Args:
            cells: what to measure, one by one or as conditions; a cell named twice is measured once.
            backend: "local" processes, or a "ray" cluster (the running one, or a local one).
            workers: processes at once, 1 for this one; by default the study's own, or else one per core as far as
                memory allows, or all of the cluster.
            title: shown beside the progress bar.

        Raises:
            InputError: `out` holds a different study or something else, or an option is out of range.
        """
        workers = self.workers if workers is None and backend == "local" else workers
        check_workers(backend, workers)
        flat = (cell for item in cells for cell in (item.cells if isinstance(item, Condition) else (item,)))
        unique = {cell.key: cell for cell in flat}
        self.open()
        done = {key: result for key, cell in unique.items() if (result := self._stored(cell))}
        missing = [cell for key, cell in unique.items() if key not in done]
        with progress(title or self.name, len(unique), done=len(done)) as bar:
            for result in self._measure(missing, backend, workers):
                self._store(result)
                done[result.cell.key] = result
                bar.advance()
        return Results(done[key] for key in unique)

    def open(self) -> None:
        """Make the folder, or check that it is this study's. What an earlier kill left half written is removed.

        Raises:
            InputError: it holds a different study (the message names what differs) or other files.
        """
        if self.out is None:
            return
        record = {"format": FORMAT, "version": VERSION, "hardy": __version__, "name": self.name}
        record |= {"settings": dict(self.settings)}
        record = json.loads(json.dumps(record))  # as it will be read back: tuples are lists
        path = self.out / "study.json"
        for written in (path, self.out / "report.*", self.out / "cells" / "*"):
            sweep(written)
        if path.is_file():
            try:
                old = read_json(path)
                if old["format"] != FORMAT or not isinstance(old["settings"], Mapping):
                    raise KeyError("format")
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(f"{path} is damaged or not a study of hardy; choose another folder") from None
            with reading(self.out):
                if old != record:
                    raise InputError(
                        f"{self.out} holds a different study ({_difference(old, record)}); choose another --out"
                    )
        else:
            foreign = self.out.is_file() or (
                self.out.is_dir() and set(self.out.iterdir()) - set(self.out.glob(".study.json.*.tmp"))
            )
            if foreign:
                raise InputError(f"{self.out} exists and is not a study of hardy; choose another --out")
            write_json(path, record)

    def _stored(self, cell: Cell) -> Result | None:
        if self.out is None or not (path := self._path(cell)).is_file():
            return None
        try:
            values = read_json(path)["values"]
            return Result(cell=cell, values={name: float(value) for name, value in values.items()})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None  # damaged from outside: measure it again

    def _store(self, result: Result) -> None:
        if self.out is None or result.values is None:
            return
        write_json(self._path(result.cell), dataclasses.asdict(result.cell) | {"values": dict(result.values)})

    def _path(self, cell: Cell) -> Path:
        assert self.out is not None
        return self.out / "cells" / f"{cell.key}.json"

    def _measure(self, cells: list[Cell], backend: Backend, workers: int | None) -> Iterator[Result]:
        subject = dict(self.settings) if self.subject is None else self.subject
        options: dict[str, Any] = {"backend": backend, "workers": workers, "memory": self.memory}
        return run_jobs(_Measure(self.run), subject, cells, killed=_killed, **options)


@dataclasses.dataclass(frozen=True)
class _Measure:
    """Measures a cell; whatever goes wrong is a result. A class, so that other processes can be given it."""

    run: Callable[[Any, Mapping[str, Any], int], Mapping[str, float]]

    def __call__(self, subject: Any, cell: Cell) -> Result:
        try:
            values = self.run(subject, cell.arguments, cell.seed)
            return Result(cell=cell, values={name: float(value) for name, value in values.items()})
        except Exception as error:  # a failed cell is a result, whatever failed
            lines = "".join(traceback.format_exception(error))
            return Result(cell=cell, values=None, error=str(error) if isinstance(error, InputError) else lines)


def _killed(cell: Cell, reason: str) -> Result:
    return Result(cell=cell, values=None, error=reason)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if old.get("version") != new["version"] or old.get("name") != new["name"]:
        return f"{old.get('name')} version {old.get('version')}, not {new['name']} version {new['version']}"
    before, after = (_flat({"hardy": record.get("hardy"), **record.get("settings", {})}) for record in (old, new))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} is {before.get(name)!r} there, {after.get(name)!r} here" for name in names[:3])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"plan": {"seeds": 5}} -> {"plan.seeds": 5}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
