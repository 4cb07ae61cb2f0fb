"""Processes for a study: as many as memory allows, one copy of the weights for all, and a killed one is no disaster."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import cloudpickle
import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from hardy import checks
from hardy.errors import InputError, install
from hardy.files import temporary_beside
from hardy.mapping import return_freed_memory, trim
from hardy.reading import available_memory

_log = logging.getLogger(__name__)
Backend = Literal["local", "ray"]
INTERPRETER = 400 << 20
"""Bytes that a process takes for Python, torch and transformers alone (300 MB of its own were measured)."""
KILLED = "its process was killed, once beside others and once alone; most often the memory is too small"

Job = TypeVar("Job")
Found = TypeVar("Found")


def check_workers(backend: str, workers: int | None) -> None:
    """Raise `InputError` for an unknown backend or fewer workers than one."""
    checks.one_of("backend", backend, get_args(Backend))
    if workers is not None:
        checks.integer("workers", workers, at_least=1)


def worker_count(asked: int | None, jobs: int, memory: int) -> tuple[int, str]:
    """How many processes measure `jobs` that take `memory` bytes each beside the interpreter, and why so few.

    Args:
        asked: the user's number, which is never overruled; None for as many as cores and memory allow.
        jobs: there is no use in more processes than these.
        memory: bytes of one job.
    """
    if asked is not None:
        return min(asked, max(1, jobs)), ""
    cores = max(1, min(joblib.cpu_count(), jobs))
    free = available_memory()
    fit = max(1, int(0.9 * free) // (INTERPRETER + memory))
    why = f"{free / 1e9:.1f} GB are free and each takes {(INTERPRETER + memory) / 1e9:.1f} GB" if fit < cores else ""
    return min(cores, fit), why


def run_jobs(
    run: Callable[[Any, Job], Found], shared: Any, jobs: Sequence[Job], *, killed: Callable[[Job, str], Found],
    backend: Backend, workers: int | None, memory: int = 0,
) -> Iterator[Found]:  # fmt: skip
    """`run(shared, job)` of every job, in the order in which they end, each on one thread.

    One local worker is this process, and `shared` is used as it is. More of them map it from one file into memory, so
    that they share its weights until they write to them. A process that the system kills, for want of memory most
    often, takes no other job with it: what was under way is done again, each job alone, and what is killed then too is
    `killed(job, reason)`.

    Args:
        run: a function that other processes can import or that can be pickled.
        shared: what all jobs need, such as a model.
        jobs: what to do.
        killed: what stands for the result of a job whose process was killed.
        backend: "local" processes, or a "ray" cluster (the running one, or a local one).
        workers: processes at once; by default one per core as far as memory allows, or all of the cluster.
        memory: bytes that one job takes beside `shared`.

    Raises:
        InputError: an unknown backend, workers below 1, or Ray is not installed.
    """
    check_workers(backend, workers)
    count, why = worker_count(workers, len(jobs), memory)
    if backend == "ray":
        return _on_cluster(run, shared, jobs, workers)
    if why:
        _log.info("%d worker%s, not one per core: %s", count, "s" * (count > 1), why)
    if count == 1:
        return (_on_one_thread(run, shared, job) for job in jobs)
    return _in_processes(run, shared, jobs, count, killed)


def _in_processes(
    run: Callable[[Any, Job], Found],
    shared: Any,
    jobs: Sequence[Job],
    workers: int,
    killed: Callable[[Job, str], Found],
) -> Iterator[Found]:
    """The results of processes; after a kill those under way one by one, then the rest in one process fewer."""
    left = dict(enumerate(jobs))
    with _temporary_folder() as folder:
        path = os.path.join(folder, "shared.pt")
        torch.save(shared, path, pickle_module=cloudpickle)
        while left:
            try:
                for index, found in _processes(run, path, list(left.items()), workers):
                    del left[index]
                    yield found
            except TerminatedWorkerError:
                # At most so many were handed out beyond those that came back, and jobs are handed out in order.
                for index, job in list(left.items())[:workers]:
                    try:
                        ((_, found),) = _processes(run, path, [(index, job)], 1)
                    except TerminatedWorkerError:
                        found = killed(job, KILLED)
                    del left[index]
                    yield found
                workers = max(1, workers - 1)


def _processes(
    run: Callable[[Any, Job], Found], path: str, jobs: Sequence[tuple[int, Job]], workers: int
) -> Iterator[tuple[int, Found]]:
    # Two, where one would be this process: a kill must not end it.
    with joblib.parallel_config("loky", n_jobs=max(2, workers), inner_max_num_threads=1):
        options: dict[str, Any] = {"batch_size": 1, "pre_dispatch": workers}
        parallel: Any = joblib.Parallel(return_as="generator_unordered", **options)
        # Loky restarts a worker that grew by 300 MB, which opening a model does: expected, and no loss. Where
        # warnings are errors, saying so would kill the thread that hands out the work.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            yield from parallel(joblib.delayed(_process_job)(run, path, index, job) for index, job in jobs)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for as long as it is needed; one that a killed process left is removed by the next."""
    folder = temporary_beside(Path(tempfile.gettempdir()) / "hardy-workers")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _process_job(run: Callable[[Any, Job], Found], path: str, index: int, job: Job) -> tuple[int, Found]:
    # Ctrl-C reaches the whole group. A worker that it stopped in the middle of an edit would take its next job with a
    # model that is neither the old one nor the new one; the process that started it ends it instead.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return_freed_memory()
    return index, _on_one_thread(run, _mapped(path), job)


@functools.lru_cache(maxsize=1)
def _mapped(path: str) -> Any:
    """What `run_jobs` stored, once per process; the system reads the file once for all and copies what is written."""
    return torch.load(path, mmap=True, weights_only=False)  # our own file of a moment ago


def _on_one_thread(run: Callable[[Any, Job], Found], shared: Any, job: Job) -> Found:
    """On one thread, so that every backend and any number of workers give the same figures to the last bit.

    What it freed is given back before the next begins, which would find it in pieces.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(shared, job)
    finally:
        torch.set_num_threads(threads)
        trim()


def _on_cluster(
    run: Callable[[Any, Job], Found], shared: Any, jobs: Sequence[Job], workers: int | None
) -> Iterator[Found]:
    # Ray's own pool: joblib's Ray backend gives nothing back before all cells are done, and an interrupt would
    # lose them.
    try:
        import ray
        from ray.util.multiprocessing import Pool
    except ImportError:
        raise InputError(f"backend ray needs Ray: {install('ray')}") from None
    if not ray.is_initialized():
        # The cluster that RAY_ADDRESS names, else one of this machine, which needs no dashboard.
        local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, "num_cpus": workers}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    reference = [ray.put(shared)]  # in a list, or Ray would send what it refers to with every job
    with Pool(processes=workers) as pool:
        yield from pool.imap_unordered(_ray_job, [(run, reference, job) for job in jobs])


def _ray_job(job: tuple[Callable[[Any, Any], Any], list[Any], Any]) -> Any:
    run, (reference,), work = job
    return _on_one_thread(run, _fetched(reference), work)


@functools.lru_cache(maxsize=1)
def _fetched(reference: Any) -> Any:
    """What `run_jobs` put on the cluster, once per process."""
    import ray

    return ray.get(reference)
