"""How many processes, and what they may take."""

import logging
from pathlib import Path

import pytest
import torch

from hardy.core import surgery
from hardy.errors import InputError
from hardy.quant import RoundToNearest
from hardy.reading import available_memory
from hardy.runs import workers
from hardy.runs.workers import INTERPRETER, run_jobs, worker_count


def test_workers_are_as_many_as_cores_jobs_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.joblib, "cpu_count", lambda: 8)
    monkeypatch.setattr(workers, "available_memory", lambda: 10 << 30)
    assert worker_count(None, 100, 0) == (8, "")
    assert worker_count(None, 3, 0) == (3, "")
    count, why = worker_count(None, 100, (3 << 30) - INTERPRETER)
    assert count == 3
    assert why == "10.7 GB are free and each takes 3.2 GB"
    assert worker_count(None, 100, 100 << 30)[0] == 1, "one always runs"
    assert worker_count(5, 100, 100 << 30) == (5, ""), "who asks knows"
    assert worker_count(5, 2, 0) == (2, "")


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_X_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_a_container_counts_if_it_has_less_than_the_machine(tmp_path: Path) -> None:
    machine = available_memory(tmp_path)
    assert machine > 0
    second = write(tmp_path / "", memory_X_max="1000\n", memory_X_current="700\n", memory_X_stat="inactive_file 150\n")
    assert available_memory(second) == 450
    write(second, memory_X_max="max\n")
    assert available_memory(second) == pytest.approx(machine, rel=0.5)


def test_a_container_of_the_first_version_counts_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        memory__memory_X_limit_in_bytes="2000\n",
        memory__memory_X_usage_in_bytes="3000\n",
        memory__memory_X_stat="cache 1\ntotal_inactive_file 10\n",
    )
    assert available_memory(tmp_path) == 0


def test_fewer_workers_than_cores_are_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(workers.joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(workers, "available_memory", lambda: 1 << 30)
    with caplog.at_level(logging.INFO, "hardy"):
        found = run_jobs(
            lambda shared, job: shared + job, 10, [1, 2], killed=lambda job, reason: -1, backend="local",
            workers=None, memory=1 << 30,
        )  # fmt: skip
    assert list(found) == [11, 12]
    assert caplog.messages == ["1 worker, not one per core: 1.1 GB are free and each takes 1.5 GB"]


def test_options_are_refused_before_anything_runs() -> None:
    for options, message in (({"backend": "slurm", "workers": 1}, "backend must be"), ({"workers": 0}, "at least 1")):
        with pytest.raises(InputError, match=message):
            run_jobs(max, 0, [1], killed=min, **{"backend": "local", **options})  # pyright: ignore[reportArgumentType]


def test_an_interrupt_while_an_edit_is_undone_leaves_neither_the_old_nor_the_new_model(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why a study's workers do not take Ctrl-C: a worker would measure its next cell on this, and store it."""
    ids, put, left = torch.arange(1, 9)[None], surgery._put, [3]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return llama(input_ids=ids).logits

    def stopped(*place: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        put(*place)

    old = logits()
    change = RoundToNearest(bits=2, group_size=None).apply(llama)
    new = logits()
    monkeypatch.setattr(surgery, "_put", stopped)
    with pytest.raises(KeyboardInterrupt):
        change.undo()
    assert not torch.equal(logits(), old)
    assert not torch.equal(logits(), new)
