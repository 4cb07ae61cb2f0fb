"""A grid of conditions and seeds, run in parallel, written cell by cell, and resumed where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import joblib
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hardy.errors import InputError
from hardy.files import read_json, write_json

FORMAT, VERSION = "hardy-study", 1
Backend = Literal["local", "ray"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One thing to measure: what is done (`arguments`, plain JSON data) under which name, with which seed."""

    condition: str
    arguments: Mapping[str, Any]
    seed: int = 0

    @property
    def key(self) -> str:
        """Name of the cell's file: the same cell has the same key in every run."""
        text = json.dumps([self.condition, self.arguments, self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a cell gave: its `values`, or the `error` that stopped it."""

    cell: Cell
    values: Mapping[str, float] | None
    error: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A function measured on many cells.

    Args:
        name: what kind of study this is.
        run: `run(settings, arguments, seed) -> {metric: value}`; a module-level function, because other processes
            import it. It runs on one thread, so that every backend gives the same figures to the last bit.
        settings: everything that all cells share, as plain JSON data; it identifies the study.
        out: folder for `study.json` and `cells/`; None keeps the results in memory only.
    """

    name: str
    run: Callable[[Mapping[str, Any], Mapping[str, Any], int], Mapping[str, float]]
    settings: Mapping[str, Any]
    out: Path | None = None

    def results(
        self, cells: Iterable[Cell], *, backend: Backend = "local", workers: int | None = None, title: str = ""
    ) -> list[Result]:
        """Measure the cells that are not on disk yet, and give all of them, in the order asked for.

        Each finished cell is written at once. A cell that fails is reported in its result and tried again by the
        next run; the others go on. An interrupt keeps what is finished.

        Args:
            cells: what to measure; a cell named twice is measured once.
            backend: "local" processes, or a "ray" cluster (the running one, or a local one).
            workers: processes at once; by default one per core, or all of the cluster.
            title: shown beside the progress bar.

        Raises:
            InputError: `out` holds a different study or something else.
        """
        if backend not in get_args(Backend):
            raise InputError(f"backend must be {' or '.join(get_args(Backend))}, got {backend!r}")
        if workers is not None and workers < 1:
            raise InputError(f"workers must be at least 1, got {workers}")
        self.open()
        unique = {cell.key: cell for cell in cells}
        done = {key: result for key, cell in unique.items() if (result := self._stored(cell))}
        missing = [cell for key, cell in unique.items() if key not in done]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task(title or self.name, total=len(unique), completed=len(done))
            for result in self._measure(missing, backend, workers):
                self._store(result)
                done[result.cell.key] = result
                progress.update(task, advance=1)
        return [done[key] for key in unique]

    def open(self) -> None:
        """Make the folder, or check that it is this study's.

        Raises:
            InputError: it holds a different study (the message names what differs) or other files.
        """
        if self.out is None:
            return
        record = {"format": FORMAT, "version": VERSION, "name": self.name, "settings": dict(self.settings)}
        record = json.loads(json.dumps(record))  # as it will be read back: tuples are lists
        path = self.out / "study.json"
        if path.is_file():
            try:
                old = read_json(path)
                if old["format"] != FORMAT or not isinstance(old["settings"], Mapping):
                    raise KeyError("format")
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path} is damaged or not a study of hardy; choose another folder") from None
            if old != record:
                raise InputError(
                    f"{self.out} holds a different study ({_difference(old, record)}); choose another --out"
                )
        else:
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise InputError(f"{self.out} exists and is not a study of hardy; choose another --out")
            write_json(path, record)

    def _stored(self, cell: Cell) -> Result | None:
        if self.out is None or not (path := self._path(cell)).is_file():
            return None
        try:
            values = read_json(path)["values"]
            return Result(cell=cell, values={name: float(value) for name, value in values.items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # damaged from outside: measure it again

    def _store(self, result: Result) -> None:
        if self.out is None or result.values is None:
            return
        values = {name: value if abs(value) < float("inf") else repr(value) for name, value in result.values.items()}
        write_json(self._path(result.cell), dataclasses.asdict(result.cell) | {"values": values})

    def _path(self, cell: Cell) -> Path:
        assert self.out is not None
        return self.out / "cells" / f"{cell.key}.json"

    def _measure(self, cells: list[Cell], backend: Backend, workers: int | None) -> Iterator[Result]:
        if not cells:
            return
        jobs = [(self.run, dict(self.settings), cell) for cell in cells]
        if backend == "ray":
            with _ray_pool(workers) as pool:
                yield from pool.imap_unordered(_measure_job, jobs)
        else:
            with joblib.parallel_config("loky", n_jobs=workers or -1, inner_max_num_threads=1):
                options: dict[str, Any] = {"batch_size": 1, "pre_dispatch": "2*n_jobs"}
                parallel: Any = joblib.Parallel(return_as="generator_unordered", **options)
                # Loky restarts a worker that grew by 300 MB, which loading a model does: expected, and no loss. Where
                # warnings are errors, saying so would kill the thread that hands out the work.
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
                    yield from parallel(joblib.delayed(_measure_job)(job) for job in jobs)


def _measure_job(job: tuple[Callable[..., Mapping[str, float]], Mapping[str, Any], Cell]) -> Result:
    run, settings, cell = job
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values = run(settings, cell.arguments, cell.seed)
        return Result(cell=cell, values={name: float(value) for name, value in values.items()})
    except Exception as error:  # a failed cell is a result, whatever failed
        lines = "".join(traceback.format_exception(error))
        return Result(cell=cell, values=None, error=str(error) if isinstance(error, InputError) else lines)
    finally:
        torch.set_num_threads(threads)


def _ray_pool(workers: int | None) -> contextlib.AbstractContextManager[Any]:
    # Ray's own pool: joblib's Ray backend gives nothing back before all cells are done, and an interrupt would
    # lose them.
    try:
        import ray
        from ray.util.multiprocessing import Pool
    except ImportError:
        raise InputError('backend ray needs Ray: pip install "hardy[ray]"') from None
    if not ray.is_initialized():
        # The cluster that RAY_ADDRESS names, else one of this machine, which needs no dashboard.
        local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, "num_cpus": workers}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    return Pool(processes=workers)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if old.get("version") != new["version"] or old.get("name") != new["name"]:
        return f"{old.get('name')} version {old.get('version')}, not {new['name']} version {new['version']}"
    before, after = _flat(old.get("settings", {})), _flat(new["settings"])
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} is {before.get(name)!r} there, {after.get(name)!r} here" for name in names[:3])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"plan": {"seeds": 5}} -> {"plan.seeds": 5}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
