import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardy.errors import InputError
from hardy.report import Report, Row
from hardy.runs.conditions import Cell, Condition, Result, Results
from hardy.runs.study import Study
from hardy.studies import Plan, survival
from hardy.studies.measure import perplexity_row
from hardy.studies.survival_study import equal_budget_sample

PLAN = Plan(bits=(8, 2), additive=(0.1,), proportional=(0.2,), n_seeds=2, group_size=16, keep=(0.2,))
TEXT = {"tokens": 128, "window": 64}


@pytest.fixture(scope="module")
def finished(micro_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that ran to its end."""
    out = tmp_path_factory.mktemp("study") / "out"
    survival(str(micro_llama), out=out, plan=PLAN, **TEXT)
    return out


def test_rows_say_what_was_measured_against_what(finished: Path) -> None:
    report = Report.load(finished)
    rows = {row.condition: row for row in report.select("perplexity")}
    assert rows["unmodified"].baseline is None
    assert rows["8-bit"].baseline == "unmodified"
    assert rows["8-bit"].details["bits_per_weight"] == pytest.approx(8 + 24 / 16)
    noisy = rows["additive noise 0.1"]
    assert (noisy.n, noisy.seeds) == (2, (0, 1))
    assert noisy.spread is not None
    assert noisy.spread > 0
    for damage in ("2-bit rounding", "noise of 0.05 absmax"):
        control = rows[f"{damage}, 3 random kept"]
        assert control.baseline == f"{damage}, none kept"
        assert control.n == 2
        for kind in ("most", "least"):
            assert rows[f"{damage}, 3 {kind} fragile kept"].baseline == control.condition
    kept = rows["2-bit rounding, 3 most fragile kept"]
    share = kept.details["share_kept"]
    assert isinstance(share, float)
    assert kept.details["bits_per_weight"] == pytest.approx((1 - share) * (2 + 18 / 16) + share * 16)
    agreement = "agreement of rankings (Spearman)"
    assert {row.condition for row in report.select(agreement)} == {
        "rtn and noise",
        "rtn and weight-error",
        "noise and weight-error",
    }
    assert all(-1 <= row.value <= 1 for row in report.select(agreement))


def test_every_layer_is_ranked_and_every_plot_is_there(finished: Path) -> None:
    report = Report.load(finished)
    for meaning in ("2-bit rounding", "noise of 0.05 absmax"):
        rows = report.select(f"increase of the loss when this layer alone has {meaning}")
        assert len(rows) == 14
        assert [row.details["place"] for row in rows] == list(range(1, 15))
        assert [row.value for row in rows] == sorted((row.value for row in rows), reverse=True)
    assert [type(figure).__name__ for figure in report.figures] == [
        "Lines",
        "Lines",
        "HeatMap",
        "HeatMap",
        "Lines",
        "Lines",
    ]
    html = (finished / "report.html").read_text()
    assert html.count("<svg") == 6
    assert (finished / "report.md").is_file()


def test_the_same_call_measures_nothing_again(
    finished: Path, micro_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "report.json").read_bytes()
    monkeypatch.setattr(Study, "_measure", lambda self, cells, *_: iter(()) if not cells else pytest.fail("measured"))
    survival(str(micro_llama), out=finished, plan=PLAN, **TEXT)
    assert (finished / "report.json").read_bytes() == before


def test_one_worker_gives_the_same_report(finished: Path, micro_llama: Path, tmp_path: Path) -> None:
    survival(str(micro_llama), out=tmp_path / "out", plan=PLAN, workers=1, **TEXT)
    assert (tmp_path / "out" / "report.json").read_bytes() == (finished / "report.json").read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of processes that Ray leaves
def test_a_local_ray_cluster_gives_the_same_report(finished: Path, micro_llama: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    try:
        survival(str(micro_llama), out=tmp_path / "out", plan=PLAN, backend="ray", workers=1, **TEXT)
    finally:
        ray.shutdown()
    assert (tmp_path / "out" / "report.json").read_bytes() == (finished / "report.json").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL does not exist there")
def test_a_killed_study_ends_with_the_report_of_an_unbroken_one(
    finished: Path, micro_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "hardy", "study", "--model", str(micro_llama), "--out", str(out), "--seeds", "2"),
        *("--bits", "8,2", "--additive", "0.1", "--proportional", "0.2", "--keep", "0.2", "--group-size", "16"),
        *("--tokens", "128", "--window", "64", "--workers", "1"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    total = len(list((finished / "cells").iterdir()))
    deadline = time.monotonic() + 120
    while len(list(out.glob("cells/*.json"))) < total // 2 and process.poll() is None:
        assert time.monotonic() < deadline, "the study did not get to its half"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(out.glob("cells/*.json")))
    assert total // 2 <= done < total
    assert not (out / "report.json").exists()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=True).returncode == 0
    assert (out / "report.json").read_bytes() == (finished / "report.json").read_bytes()


def test_an_interrupt_is_not_an_error_of_the_cells(
    micro_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "_store", stop)
    with pytest.raises(KeyboardInterrupt):
        survival(str(micro_llama), out=tmp_path / "out", plan=PLAN, workers=1, **TEXT)


def test_a_different_study_in_the_folder_is_refused_and_named(finished: Path, micro_llama: Path) -> None:
    other = Plan(bits=(8, 2), additive=(0.1,), proportional=(0.2,), n_seeds=3, group_size=16, keep=(0.2,))
    with pytest.raises(InputError, match=r"different study.*plan\.n_seeds is 2 there, 3 here"):
        survival(str(micro_llama), out=finished, plan=other, **TEXT)


def test_plans_out_of_range_are_refused() -> None:
    for fields, message in (
        ({"bits": (9,)}, "bits must be"),
        ({"additive": (-0.1,)}, "strength must be"),
        ({"proportional": (float("nan"),)}, "strength must be"),
        ({"n_seeds": 0}, "n_seeds must be an integer of at least 1"),
        ({"keep": (1.5,)}, "keep must hold shares.*got 1.5"),
        ({"keep": ()}, "keep must hold shares.*got none"),
        ({"group_size": 0}, "group_size must be"),
        ({"break_bits": 1}, "bits must be"),
    ):
        with pytest.raises(InputError, match=message):
            Plan(**fields)  # pyright: ignore[reportArgumentType]


def test_random_controls_have_the_number_and_size_of_what_they_judge() -> None:
    sizes = {f"large{i}": 300 for i in range(20)} | {f"small{i}": 100 for i in range(20)}
    for seed in range(20):
        drawn = equal_budget_sample(sizes, 4, 1000, seed)
        assert len(set(drawn)) == 4
        assert sum(sizes[name] for name in drawn) == 1000
    assert equal_budget_sample(sizes, 4, 1000, 1) == equal_budget_sample(sizes, 4, 1000, 1)
    assert len({tuple(equal_budget_sample(sizes, 4, 1000, seed)) for seed in range(20)}) > 10


def test_counts_are_at_least_one_and_never_all() -> None:
    assert Plan(keep=(0.01, 0.5, 0.99)).counts(8) == [1, 4, 7]


def test_trained_model_loses_bit_by_bit_and_located_protection_beats_random(tmp_path: Path) -> None:
    plan = Plan(additive=(), proportional=(), n_seeds=3, keep=(0.25,), select="mlp")
    report = survival("tiny-llama", out=tmp_path / "out", plan=plan, tokens=512, window=256)
    values = {row.condition: row.value for row in report.select("perplexity")}
    order = ["unmodified", "4-bit", "3-bit", "2-bit"]
    assert [values[name] for name in order] == sorted(values[name] for name in order)
    assert values["2-bit rounding, 6 most fragile kept"] < values["2-bit rounding, 6 random kept"]
    assert values["2-bit rounding, 6 most fragile kept"] < values["2-bit rounding, 6 least fragile kept"]
    settings = json.loads((tmp_path / "out" / "study.json").read_text())["settings"]
    assert settings["model"] == "tiny-llama"


def test_a_condition_that_broke_the_model_has_an_infinite_row_and_no_spread() -> None:
    cells = tuple(Cell(condition="c", arguments={}, seed=seed) for seed in (0, 1))
    condition = Condition(name="c", cells=cells)
    found = Results([Result(cell=cells[0], values={"loss": 1e4}), Result(cell=cells[1], values={"loss": 1.0})])
    row = perplexity_row(condition, found)
    assert row is not None
    assert (row.value, row.spread, row.n) == (float("inf"), None, 2)
    failed = [Result(cell=cell, values=None, error="e") for cell in cells]
    half = Results([failed[0], Result(cell=cells[1], values={"loss": 0.0})])
    assert perplexity_row(condition, half) == Row(metric="perplexity", condition="c", value=1.0, seeds=(1,))
    assert half.failures() == (Row(metric="failed cells", condition="c", value=1, unit="of 2"),)
    assert half.notes() == ("Failed: c, seed 0: e",)
    assert perplexity_row(condition, Results(failed)) is None
    with pytest.raises(InputError, match="the c model could not be measured: e"):
        Results(failed).needed(condition)
