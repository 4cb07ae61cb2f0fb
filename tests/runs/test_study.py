"""Grids of cells: finished cells are kept whatever happens, and every backend gives the same figures."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hardy.core import InputError, generator
from hardy.files import temporary_beside
from hardy.runs import Cell, Study

CELLS = [
    Cell(condition=f"noise {strength}", arguments={"strength": strength}, seed=s) for strength in (1, 2) for s in (0, 1)
]


def measure(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """A sum whose last bits depend on how many threads do it; `log` in the settings notes every call."""
    if "log" in settings:
        with open(settings["log"], "a") as log:
            log.write(f"{arguments['strength']} {seed}\n")
    if settings.get("broken") and Path(settings["broken"]).exists() and arguments["strength"] == 2:
        raise RuntimeError("out of luck")
    values = torch.randn(300, 300, generator=generator(seed, "study")) * arguments["strength"]
    return {"sum": (values @ values).sum().item(), "threads": float(torch.get_num_threads())}


def gives_infinity(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    return {"up": math.inf, "down": -math.inf, "nan": math.nan, "tiny": 5e-324, "third": 1 / 3}


def refuses(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    raise InputError("strength must be small, got 2")


def interrupts(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Presses Ctrl-C once two cells are finished."""
    if arguments["strength"] == 2 and Path(settings["interrupt"]).exists():
        for _ in range(200):
            if len(list(Path(settings["cells"]).glob("*.json"))) >= 2:
                os.kill(settings["pid"], signal.SIGINT)
                break
            time.sleep(0.05)
        time.sleep(0.5)
    return measure(settings, arguments, seed)


def study(tmp_path: Path | None = None, run: Any = measure, **settings: Any) -> Study:
    return Study(name="test", run=run, settings=settings, out=tmp_path and tmp_path / "out")


def values(results: Any) -> list[Any]:
    return [result.values for result in results]


def test_results_come_in_the_order_asked_for() -> None:
    results = study().results(CELLS, workers=1)
    assert [result.cell for result in results] == CELLS
    assert len({result.values["sum"] for result in results}) == 4
    assert all(result.error is None and result.values["threads"] == 1 for result in results)
    twice = study().results([CELLS[2], CELLS[0], CELLS[2]], workers=1)
    assert values(twice) == [results[2].values, results[0].values]


def test_the_callers_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        study().results(CELLS[:1], workers=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_processes_give_the_same_figures_as_one(tmp_path: Path) -> None:
    assert values(study(tmp_path).results(CELLS, workers=2)) == values(study().results(CELLS, workers=1))
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of processes that Ray leaves
def test_ray_gives_the_same_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    here = Path(__file__)
    paths = f"{here.parents[2] / 'src'}:{here.parents[1]}:{here.parent}"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    try:
        through_ray = study(tmp_path).results(CELLS, backend="ray", workers=2)
    finally:
        ray.shutdown()
    assert values(through_ray) == values(study().results(CELLS, workers=1))
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 4


def test_without_ray_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name == "ray" or name.startswith("ray."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "hardy-nn\[ray\]"'):
        study().results(CELLS, backend="ray")


def test_what_is_finished_is_not_measured_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    study(tmp_path, log=str(log)).results(CELLS[:2], workers=1)  # and then it was killed
    all_of_them = study(tmp_path, log=str(log)).results(CELLS, workers=1)
    assert sorted(log.read_text().splitlines()) == ["1 0", "1 1", "2 0", "2 1"]
    again = study(tmp_path, log=str(log)).results(CELLS, workers=2)
    assert len(log.read_text().splitlines()) == 4
    assert values(again) == values(all_of_them) == values(study().results(CELLS, workers=1))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_cell_is_reported_and_tried_again(tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    settings = {"broken": str(broken), "log": str(tmp_path / "log")}
    results = study(tmp_path, **settings).results(CELLS, workers=workers)
    assert [result.values is None for result in results] == [False, False, True, True]
    assert "RuntimeError: out of luck" in results[2].error
    assert "in measure" in results[2].error, "a bug comes with its traceback"
    broken.unlink()
    results = study(tmp_path, **settings).results(CELLS, workers=workers)
    assert all(result.values for result in results)
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["1 0", "1 1", "2 0", "2 0", "2 1", "2 1"]


def test_a_callers_mistake_comes_without_traceback() -> None:
    (result,) = study(run=refuses).results(CELLS[:1], workers=1)
    assert result.error == "strength must be small, got 2"


@pytest.fixture
def heard() -> Iterator[None]:
    """An interrupt is heard, as it is not by what a shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_keeps_what_is_finished(tmp_path: Path, workers: int) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    log, cells = tmp_path / "log", tmp_path / "out" / "cells"
    settings = {"interrupt": str(flag), "log": str(log), "cells": str(cells), "pid": os.getpid()}
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, run=interrupts, **settings).results(CELLS, workers=workers)
    assert {path.stem for path in cells.glob("*.json")} >= {cell.key for cell in CELLS[:2]}
    flag.unlink()
    results = study(tmp_path, run=interrupts, **settings).results(CELLS, workers=workers)
    assert values(results) == values(study().results(CELLS, workers=1))
    assert log.read_text().splitlines().count("1 0") == 1


def kills(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Dies as by the kernel that is out of memory: on the cells of strength 2, once or whenever they are measured."""
    if arguments["strength"] == 2 and seed == 0:
        with open(settings["log"], "a") as log:
            log.write("x")
        if settings["always"] or len(Path(settings["log"]).read_text()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return {"sum": float(arguments["strength"] + seed)}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL does not exist there")
@pytest.mark.parametrize("always", [False, True])
def test_a_worker_killed_for_memory_is_tried_once_more_and_no_other_cell_is_lost(tmp_path: Path, always: bool) -> None:
    cells = [Cell(condition=str(s), arguments={"strength": s}, seed=seed) for s in (1, 2, 3) for seed in range(4)]
    log = tmp_path / "log"
    settings = {"log": str(log), "always": always}
    results = study(tmp_path, run=kills, **settings).results(cells, workers=2)
    assert [result.cell for result in results] == cells
    assert log.read_text() == "xx"
    lost = [result for result in results if result.values is None]
    assert [result.cell for result in lost] == ([cells[4]] if always else [])
    assert all("killed, once beside others and once alone" in (result.error or "") for result in lost)
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 12 - len(lost)


def test_processes_share_one_copy_of_a_module_and_leave_it_alone() -> None:
    model = torch.nn.Linear(400, 400)
    weight = model.weight.detach().clone()
    shared = Study(name="test", run=adds_to_weights, settings={}, subject=model)
    results = shared.results(CELLS, workers=2)
    total = weight.double().sum().item()
    assert [result.values["before"] for result in results] == [total] * 4, "a cell does not see what others wrote"
    assert torch.equal(model.weight, weight)
    assert all(result.values["mapped"] for result in results)


def adds_to_weights(model: torch.nn.Linear, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    maps = Path("/proc/self/maps")
    mapped = not maps.exists() or "shared.pt" in maps.read_text()
    with torch.no_grad():
        before = model.weight.double().sum().item()
        old = model.weight.clone()
        model.weight += 1  # this process's copy alone
        model.weight.copy_(old)
    return {"before": before, "mapped": mapped}


def test_figures_survive_the_file_to_the_last_bit(tmp_path: Path) -> None:
    fresh = study(tmp_path, run=gives_infinity).results(CELLS[:1], workers=1)[0].values
    stored = study(tmp_path, run=gives_infinity).results(CELLS[:1], workers=1)[0].values
    assert math.isnan(stored["nan"])
    assert {k: v for k, v in fresh.items() if k != "nan"} == {k: v for k, v in stored.items() if k != "nan"}
    assert stored["up"] == math.inf
    assert stored["down"] == -math.inf


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"{}", b'{"values": 3}', b'{"values": {"sum": "x"}}', b"\xff", b"[" * 9999]
)
def test_a_damaged_cell_is_measured_again(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "log"
    before = study(tmp_path, log=str(log)).results(CELLS[:2], workers=1)
    (tmp_path / "out" / "cells" / f"{CELLS[1].key}.json").write_bytes(content)
    assert values(study(tmp_path, log=str(log)).results(CELLS[:2], workers=1)) == values(before)
    assert log.read_text().splitlines() == ["1 0", "1 1", "1 1"]


def test_another_study_in_the_folder_is_refused(tmp_path: Path) -> None:
    study(tmp_path, model="tiny", window=64).open()
    study(tmp_path, model="tiny", window=64).open()
    with pytest.raises(InputError, match=r"holds a different study \(window is 64 there, 128 here\); choose another"):
        study(tmp_path, model="tiny", window=128).results(CELLS)
    with pytest.raises(InputError, match="test version 2, not other version 2"):
        Study(name="other", run=measure, settings={}, out=tmp_path / "out").open()


def test_a_study_of_another_hardy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(tmp_path).open()
    monkeypatch.setattr("hardy.runs.study.__version__", "9.9")
    with pytest.raises(InputError, match=r"different study \(hardy is '.*' there, '9.9' here\)"):
        study(tmp_path).open()


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    first = temporary_beside(out / "study.json")
    first.write_text("{")
    study(tmp_path).results(CELLS[:1], workers=1)  # the folder holds nothing else: it is not foreign
    assert first.exists(), "it is of a process that runs"
    stale = [first, *(temporary_beside(out / name) for name in ("report.html", f"cells/{CELLS[0].key}.json"))]
    kept = [out / ".mine.tmp", out / "cells" / "notes.tmp"]
    for path in (*stale, *kept):
        path.write_text("{")
        os.utime(path, (0, 0))
    study(tmp_path).open()
    assert not any(path.exists() for path in stale)
    assert all(path.exists() for path in kept)


def test_tuples_in_settings_are_the_lists_that_json_gives_back(tmp_path: Path) -> None:
    study(tmp_path, layers=(1, 2)).open()
    study(tmp_path, layers=(1, 2)).open()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b"{}", b'{"format": "other"}', b'{"format": "hardy-study", "settings": 3}', b"[" * 9999],
)
def test_a_damaged_study_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_bytes(content)
    with pytest.raises(InputError, match=r"study\.json is damaged or not a study of hardy"):
        study(tmp_path).open()


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not a study of hardy"):
        study(tmp_path).results(CELLS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="exists and is not a study"):
        Study(name="test", run=measure, settings={}, out=tmp_path / "out" / "thesis.txt").open()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    study(tmp_path).open()
    assert json.loads((tmp_path / "out" / "study.json").read_text())["name"] == "test"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be an integer of at least 1, got 0"),
        ({"backend": "slurm"}, "backend must be local or ray, got 'slurm'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        study().results(CELLS, **options)


def test_keys_tell_cells_apart() -> None:
    assert len({cell.key for cell in CELLS}) == 4
    assert Cell(condition="a", arguments={"x": 1, "y": 2}).key == Cell(condition="a", arguments={"y": 2, "x": 1}).key
