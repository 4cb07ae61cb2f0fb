"""The benchmarks' harness, and that every committed result has its form and is of its script."""

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmarks
from benchmarks import gpu_rooms
from benchmarks.__main__ import main
from benchmarks.harness import NotMeasuredError, catalogue, in_own_process, in_turns, mean_of, models, rows, timed
from benchmarks.harness.record import Record, committed
from benchmarks.harness.run import run
from benchmarks.harness.tables import Lines, table
from hardy.errors import InputError

TOY = '''
"""A toy of a benchmark."""

from benchmarks.harness import NotMeasuredError, Result, mean_of, rows

PEERS = ("pytest", "no-such-package")


def run(*, size: int = 3, exact: bool = False) -> Result:
    if size == 0:
        raise NotMeasuredError("nothing to measure")
    values = [float(i) for i in range(size)]
    found = rows("all", loss=mean_of(values, "nats"))
    return Result(rows=found, settings={"exact": exact}, seeds=(0, 1), notes=("toy",))
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of benchmarks that holds one script."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY)
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    monkeypatch.setattr(catalogue, "VARIANTS", {})
    monkeypatch.setattr(catalogue, "SCRIPTS", set())
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(folder)])
    yield folder
    sys.modules.pop("benchmarks.toy", None)


@pytest.mark.parametrize("name", committed())
def test_a_committed_result_has_the_form_and_is_of_its_script(name: str) -> None:
    record = Record.read(name)
    assert record.report.rows
    assert record.command == f"python -m benchmarks run {name}"
    assert record.is_of_this_script, "measure again, or say why not: python -m benchmarks mark --why ..."


# Written, and not measured yet; `python -m benchmarks list` says so. A result takes it off the list.
NOT_MEASURED = {
    "circuit_survival-smollm2-milder",
    "codec-best",
    "noise_trained-language",
    "noise_trained-vision",
    "placement-gemma3",
    "real_chip-redundancy-gemma3",
    "real_chip-sensitivity-gemma3",
    "real_chip-simulate-gemma3",
    "real_chip-study-gemma3",
    "real_reasoning-copies",
    "real_reasoning-mild",
    "real_reasoning-strong",
}


def test_every_benchmark_has_a_committed_result_and_every_result_a_benchmark() -> None:
    assert sorted({*committed(), *NOT_MEASURED}) == catalogue.names()
    assert not NOT_MEASURED & set(committed())


def test_options_of_committed_results_are_options_of_their_scripts() -> None:
    for script, options in catalogue.VARIANTS.values():
        accepted = {argument.arg for argument in next(
            node for node in catalogue.tree(script).body if getattr(node, "name", "") == "run"
        ).args.kwonlyargs}  # fmt: skip
        assert options.keys() <= accepted


def test_a_result_records_how_it_came_about(toy: Path, tmp_path: Path) -> None:
    file = run("toy", ["--size", "4", "--exact"], tmp_path)
    record = Record.read("toy", tmp_path)
    assert file == tmp_path / "toy.json"
    assert record.command == "python -m benchmarks run toy --size 4 --exact"
    assert record.report.title == "A toy of a benchmark."
    assert record.report.settings == {"options": {"size": 4, "exact": True}, "exact": True}
    assert record.report.notes == ("toy",)
    (row,) = record.report.rows
    assert (row.value, row.n, row.unit) == (1.5, 4, "nats")
    assert row.spread == pytest.approx(1.29, abs=0.01)
    assert record.seeds == [0, 1]
    assert record.versions["pytest"] == pytest.__version__
    assert record.versions["no-such-package"] == "not installed"
    assert record.machine["cores"] == os.cpu_count()
    assert len(record.machine["load"]) == 2
    assert record.is_of_this_script
    assert json.loads(file.read_text())["report"]["format"] == "hardy-report"


def test_other_options_do_not_replace_the_committed_result(toy: Path) -> None:
    with pytest.raises(InputError, match="toy is measured with other options.*size.*--out"):
        run("toy", ["--size", "4"])


def test_what_cannot_run_is_said_and_fails(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "other.py").write_text("import no_such_package_anywhere\n\n\ndef run(): ...\n")
    assert main(["run", "toy", "--size", "0", "--out", str(tmp_path)]) == 1
    assert "toy: not measured: nothing to measure" in capsys.readouterr().err
    assert main(["run", "--all", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "other: not measured: No module named 'no_such_package_anywhere'" in said.err
    assert "1 measured, 1 not: other" in said.out
    assert main(["run", "tow"]) == 1
    assert "there is no benchmark 'tow'; there are other, toy" in capsys.readouterr().err


def test_parts_for_a_gpu_run_small_on_a_cpu() -> None:
    found = [
        *gpu_rooms.splats("cpu", count=200, width=32, height=24), *gpu_rooms.chips("cpu", width=64, tokens=4),
        *gpu_rooms.noise("cpu", width=64), *gpu_rooms.fields("cpu", side=8, width=16),
    ]  # fmt: skip
    assert all(row.value > 0 for row in found)
    measured = {row.condition for row in found if row.metric == "milliseconds"}
    assert len(measured) == 2 + 8 + 2 + 2
    # gsplat needs a GPU; everything else has its peer beside it, which is once itself.
    alone = {condition for condition in measured if condition.startswith("hardy: ")}
    ratios = {row.condition: row.value for row in found if row.metric == "of_peer"}
    assert measured - alone == set(ratios)
    assert {name for name, ratio in ratios.items() if ratio == 1} >= {
        "nn.Linear, float32", "nn.Linear, bfloat16", "torch.randn_like", "a step of a field, sine",
    }  # fmt: skip


def test_only_changes_of_code_make_a_result_stale(toy: Path, tmp_path: Path) -> None:
    run("toy", [], tmp_path)
    (toy / "toy.py").write_text(TOY.replace("A toy of", "Another toy of").replace("size == 0:", "size == 0:  # why"))
    assert Record.read("toy", tmp_path).is_of_this_script
    (toy / "toy.py").write_text(TOY.replace("range(size)", "range(1, size + 1)"))
    assert not Record.read("toy", tmp_path).is_of_this_script


def test_a_script_that_another_imports_from_counts(toy: Path, tmp_path: Path) -> None:
    (toy / "toy.py").write_text(TOY + "\n\nfrom benchmarks import aid\nfrom benchmarks.second import thing\n")
    (toy / "aid.py").write_text("factor = 1\n")
    (toy / "second.py").write_text("from benchmarks.aid import factor as thing\n")
    before = catalogue.sha256("toy")
    (toy / "aid.py").write_text("factor = 1  # the same\n")
    assert catalogue.sha256("toy") == before
    (toy / "aid.py").write_text("factor = 2\n")
    assert catalogue.sha256("toy") != before


def test_a_change_is_marked_with_its_reason_and_only_that_change(toy: Path, tmp_path: Path) -> None:
    run("toy", [], tmp_path)
    (toy / "toy.py").write_text(TOY.replace("values", "found"))
    with pytest.raises(InputError, match="say why"):
        Record.read("toy", tmp_path).marked(" ")
    Record.read("toy", tmp_path).marked("a name").write(tmp_path)
    marked = Record.read("toy", tmp_path)
    assert marked.is_of_this_script
    assert marked.last_change is not None
    assert marked.last_change["why"] == "a name"
    (toy / "toy.py").write_text(TOY.replace("values", "other"))
    assert not Record.read("toy", tmp_path).is_of_this_script


BREAKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "not a benchmark's result": lambda value: value.pop("format"),
    "lacks .'seconds'.": lambda value: value.pop("seconds"),
    "unknown .'speed'.": lambda value: value.update(speed=1),
    "name is not": lambda value: value.update(name="other"),
    "date is not": lambda value: value.update(date="2026-11-31"),
    "seconds is not": lambda value: value.update(seconds="long"),
    "machine is not": lambda value: value["machine"].pop("load"),
    "versions is not": lambda value: value["versions"].pop("torch"),
    "source is not": lambda value: value["source"].pop("commit"),
    "change is not": lambda value: value["source"]["changes"].append({"date": "2026-11-26", "sha256": "", "why": ""}),
    "seeds is not": lambda value: value.update(seeds=["a"]),
    "not a hardy report": lambda value: value["report"].pop("format"),
}


@pytest.mark.parametrize("message", BREAKS)
def test_a_record_of_another_form_is_refused(toy: Path, tmp_path: Path, message: str) -> None:
    value = json.loads(run("toy", [], tmp_path).read_text())
    BREAKS[message](value)
    (tmp_path / "toy.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=message):
        Record.read("toy", tmp_path)
    with pytest.raises(InputError, match="tow has no result in .*: python -m benchmarks run tow"):
        Record.read("tow", tmp_path)


def test_contenders_take_turns_and_warm_up_first() -> None:
    calls, count = [], itertools.count()
    contenders = {name: lambda name=name: (calls.append(name), next(count))[1] for name in "ab"}
    assert in_turns(contenders, rounds=2) == {"a": [2, 4], "b": [3, 5]}
    assert "".join(calls) == "ababab"
    assert all(seconds >= 0 for seconds in in_turns({"a": timed(lambda: None)}, rounds=1, seconds=0.01)["a"])


def test_a_process_of_its_own_has_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert in_own_process(os.getenv, "OMP_NUM_THREADS", threads=2) == "2"
    assert in_own_process(os.getpid) != os.getpid()
    assert os.environ["OMP_NUM_THREADS"] == "1"


FOUND = [
    *rows("plain", {"level": 0.1, "steps": 1200}, loss=mean_of([1.0, 3.0]), seconds=2.0),
    *rows("plain", {"level": 0.2, "steps": 1200}, loss=mean_of([2.0])),
    *rows("ours", {"level": 0.1, "steps": 1200}, loss=mean_of([0.5, 0.5]), share=0.256),
]


def test_a_table_shows_means_spreads_details_and_what_is_not_there() -> None:
    cells = ("{condition}", "{steps:,}", "{at[level=0.1].loss:.1f}", "{at[level=0.2].loss.value:.1f}", "{share:.0%} %")
    shown = table(("", "steps", "at 0.1", "at 0.2", "share"), Lines(rows=FOUND, cells=cells))
    assert shown.splitlines() == [
        "| | steps | at 0.1 | at 0.2 | share |",
        "|---|---:|---:|---:|---:|",
        "| plain | 1,200 | 2.0 ± 1.4 | 2.0 | - |",
        "| ours | 1,200 | 0.5 ± 0.0 | - | 26 % |",
    ]


def test_lines_are_chosen_and_sorted_and_a_cell_has_a_second_choice() -> None:
    lines = Lines(
        rows=FOUND,
        by=("condition", "level"),
        where={"level": (0.1, 0.2), "condition": "plain"},
        order="loss",
        cells=(("{seconds.value:.0f} s", "after {steps}"), "{level}"),
    )
    assert lines.filled() == [["2 s", "0.1"], ["after 1200", "0.2"]]


@pytest.mark.parametrize(
    ("cell", "message"), [("{los:.1f}", "'los' is nothing that was measured"), ("{loss:.1f}", "2 rows of 'loss'")]
)
def test_a_cell_that_names_nothing_or_several_rows_is_an_error(cell: str, message: str) -> None:
    with pytest.raises(AttributeError, match=message):
        Lines(rows=FOUND, cells=(cell,)).filled()
    with pytest.raises(ValueError, match="no rows where"):
        Lines(rows=FOUND, cells=("{steps}",), where={"level": 7}).filled()


def test_real_models_are_found_one_by_one_or_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    both = {"large": tmp_path / "large", "small": tmp_path / "small"}
    assert models.real_models(str(tmp_path)) == both
    assert models.real_models([str(tmp_path / "small")]) == {"small": tmp_path / "small"}
    monkeypatch.setenv(models.VARIABLE, f"{tmp_path / 'large'}{os.pathsep}{tmp_path / 'small'}")
    assert models.real_models() == both
    monkeypatch.delenv(models.VARIABLE)
    with pytest.raises(NotMeasuredError, match=f"no real model: name a folder, or set {models.VARIABLE}"):
        models.real_models()
    with pytest.raises(NotMeasuredError, match="no model is in"):
        models.real_models(str(tmp_path / "small" / "nothing"))


def test_the_two_kinds_of_text_are_different_and_never_judged_where_calibrated(data: Path) -> None:
    texts = {
        (kind, part): models.text_of(kind, part) for kind in models.TEXTS for part in ("evaluation", "calibration")
    }
    assert len({text[:1000] for text in texts.values()}) == 4
    assert all(len(text) > 50_000 for text in texts.values())
    with pytest.raises(ValueError, match="a text is one of"):
        models.text_of("poetry")
