import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hardy
from hardy.cli.main import main
from hardy.cli.options import numbers
from hardy.errors import InputError
from hardy.report import Report, Row

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process: exit code, output, errors."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hardy", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_help_and_version_do_not_import_torch() -> None:
    probe = (
        "import sys, runpy\nsys.argv = ['hardy', {argument!r}]\ntry:\n runpy.run_module('hardy', run_name='__main__')\n"
    )
    probe += (
        "except SystemExit as stop:\n assert not stop.code, stop.code\nassert 'torch' not in sys.modules, 'torch'\n"
    )
    for argument in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", probe.format(argument=argument)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert f"hardy {hardy.__version__}" in done.stdout


def test_every_command_has_help(run: Run) -> None:
    for command in (
        (),
        ("study",),
        ("locate",),
        ("simulate",),
        ("repair",),
        ("reason",),
        ("zoo", "list"),
        ("zoo", "train"),
        ("zoo", "info"),
        ("report", "open"),
    ):
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Usage" in out


def test_zoo_list_and_info(run: Run) -> None:
    code, out, _ = run("zoo", "list")
    assert code == 0
    assert "tiny-llama" in out
    assert "bits per byte" in " ".join(out.split())
    code, out, _ = run("zoo", "info", "tiny-llama")
    assert json.loads(out)["name"] == "tiny-llama"


def test_a_bad_file_of_tasks_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"answer": 4}\n')
    code, _, error = run("reason", "tiny-reasoner", "--tasks", str(tmp_path / "tasks.jsonl"))
    assert code == 2
    assert error.startswith("error: line 1 of")
    assert error.count("\n") == 1


def test_locate_prints_and_writes_the_ranking(run: Run, micro_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "ranking.json"
    narrow = ("--group-size", "16")
    code, out, _ = run("locate", str(micro_llama), "--by", "weight-error", "--top", "3", "--out", str(path), *narrow)
    assert code == 0
    assert out.count("model.layers") == 3
    assert len(hardy.core.Ranking(**json.loads(path.read_text()))) == 14


@pytest.mark.parametrize("by", ["effective-rank", "energy-gain", "perplexity-drop", "lieq-v1"])
def test_locate_ranks_blocks_by_calibration_text(run: Run, micro_llama: Path, tmp_path: Path, by: str) -> None:
    path = tmp_path / "ranking.json"
    code, out, _ = run("locate", str(micro_llama), "--by", by, "--tokens", "128", "--window", "64", "--out", str(path))
    assert code == 0
    assert f"by {by}" in out
    ranking = hardy.core.Ranking(**json.loads(path.read_text()))
    assert set(ranking.scores) == {"model.layers.0.*", "model.layers.1.*"}


def test_locate_ranks_single_layers_by_their_spectrum(run: Run, micro_llama: Path) -> None:
    arguments = [
        "--by",
        "effective-rank",
        "--unit",
        "projection",
        "--tokens",
        "128",
        "--window",
        "64",
        "--select",
        "mlp",
    ]
    code, out, _ = run("locate", str(micro_llama), *arguments)
    assert code == 0
    assert out.count("model.layers") == 6


def test_report_show_prints_a_stored_report(run: Run, tmp_path: Path) -> None:
    Report(title="What was found", rows=(Row(metric="perplexity", condition="c", value=2.5),)).save(tmp_path)
    code, out, _ = run("report", "show", str(tmp_path))
    assert code == 0
    assert "What was found" in out
    assert "2.5" in out


def test_report_open_hands_the_page_to_the_browser(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Report(title="t").save(tmp_path)
    (tmp_path / "report.html").unlink()
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", lambda url: opened.append(url) or 0)
    code, _, _ = run("report", "open", str(tmp_path))
    assert code == 0
    assert opened == [(tmp_path / "report.html").resolve().as_uri()]
    assert (tmp_path / "report.html").is_file()
    monkeypatch.setattr("typer.launch", lambda url: 1)
    code, _, err = run("report", "open", str(tmp_path))
    assert code == 2
    assert "no browser could be started" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "--model", "tiny-lama"], "did you mean tiny-llama"),
        (["study", "--text", "nowhere.txt"], "nowhere.txt does not exist"),
        (["study", "--additive=-1"], "strength must be a finite number of at least 0, got -1"),
        (["study", "--proportional", "inf"], "got inf"),
        (["study", "--bits", "9"], "bits must be an integer from 2 to 8, got 9"),
        (["study", "--bits", "two"], "--bits takes numbers separated by commas, got 'two'"),
        (["study", "--select", "no.such.place"], "'no.such.place' matches nothing"),
        (["study", "--seeds", "0"], "n_seeds must be an integer of at least 1, got 0"),
        (["study", "--keep", "2"], "shares of the layers between 0 and 1, got 2"),
        (["locate", "--by", "nois"], "did you mean noise"),
        (["locate", "--by", "efective-rank"], "did you mean effective-rank"),
        (["locate", "--by", "lieq-v1", "--unit", "role"], "locator lieq-v1: unit must be block, got 'role'"),
        (["locate", "--by", "lieq-v1", "--bits", "3"], "locator lieq-v1 has no option bits; it takes weights, seeds"),
        (["locate", "--device", "gpu"], "device 'gpu' is not there"),
        (["study", "--dtype", "fp8"], "dtype must be auto, float32, bfloat16, float16, got 'fp8'"),
        (["locate", "--by", "energy-gain", "--seeds", "0"], "seeds must be an integer from 1 to 10000, got 0"),
        (["locate", "--by", "effective-rank", "--text", "nowhere.txt"], "nowhere.txt does not exist"),
        (["locate", "--by", "effective-rank", "--tokens", "64", "--window", "64"], "too short"),
        (["locate", "--by", "perplexity-drop", "--select", "expert"], "'expert' matches nothing"),
        (["simulate", "tiny-lama"], "did you mean tiny-llama"),
        (["simulate", "--chip", "reram"], "did you mean reram-"),
        (["simulate", "--chip", "nowhere.json"], "nowhere.json does not exist"),
        (["simulate", "--chip", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["simulate", "--time", "soon"], "such as 1d, got 'soon'"),
        (["simulate", "--time", ""], "at least one time, got none"),
        (["simulate", "--time", "1y"], "ReramWan is known up to 172800 s after programming"),
        (["simulate", "--seeds", "0"], "n_seeds must be an integer of at least 1, got 0"),
        (["quantize", "tiny-llama", "out"], "give either bits or planes"),
        (["quantize", "tiny-llama", "out", "--bits", "3,x"], "--bits takes numbers separated by commas, got '3,x'"),
        (["quantize", "tiny-llama", "out", "--planes", "4"], "planes must be 1, 2 or 3, got 4"),
        (["export", "tiny-llama", "out.gguf"], "the model has no packed trit-planes"),
        (["zoo", "info", "tiny-lama"], "did you mean tiny-llama"),
        (["zoo", "train", "tiny-lama"], "did you mean tiny-llama"),
        (["report", "show", "nowhere"], "no report at nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2
    *first, last = err.splitlines()
    assert last.startswith("error: ")
    assert message in last
    assert len(first) <= 1, first
    assert all("M parameters" in line for line in first), "what was loaded before the mistake was found"
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_a_foreign_output_folder_is_refused(run: Run, micro_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    options = ("--tokens", "64", "--window", "64", "--group-size", "16")
    code, _, err = run("study", "--model", str(micro_llama), "--out", str(tmp_path), *options)
    assert code == 2
    assert "is not a study of hardy" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("job", "command"),
    [
        ("hardy.studies.survival", ("study",)),
        ("hardy.studies.simulate", ("simulate",)),
        ("hardy.studies.reasoning", ("reason",)),
        ("hardy.studies.repair", ("repair", "tiny-llama", "--with", "romer")),
        ("hardy.zoo.train.train", ("zoo", "train", "tiny-llama")),
        ("hardy.splat.comparison.compare", ("splat", "compare", "room")),
    ],
)
def test_an_interrupt_says_how_to_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, job: str, command: tuple[str, ...]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    module, _, name = job.rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), name, interrupted)
    out = str(tmp_path / "somewhere")
    code, _, err = run(*command, *([out] if command[0] == "splat" else ["--out", out]))
    assert code == 130
    assert out in err
    assert "same command goes on" in err


def test_a_full_disk_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "report.json")

    monkeypatch.setattr("hardy.studies.survival", full)
    code, _, err = run("study")
    assert (code, err) == (2, "error: report.json: No space left on device\n")


@pytest.mark.parametrize("command", [("simulate",), ("repair", "--with", "redundancy"), ("study", "--model")])
def test_failed_cells_are_in_the_report_and_in_the_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, micro_llama: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    def fails(subject: object, arguments: dict, seed: int) -> dict[str, float]:
        if arguments["method"] is not None and (seed == 1 or command[0] == "simulate"):
            raise InputError("the chip burned down")
        return {"loss": 1.0 + seed + len(json.dumps(arguments)) % 97, "bits_per_weight": 2.0}

    monkeypatch.setattr("hardy.studies.repair_study.measure_adapted", fails)
    monkeypatch.setitem(hardy.studies.measure.study_of.__kwdefaults__, "run", fails)
    small = ["--tokens", "64", "--window", "32", "--seeds", "2", "--workers", "1", "--out", str(tmp_path / "out")]
    small += ["--group-size", "16", "--keep", "0.2"] if command[0] == "study" else []
    first, *rest = command
    arguments = [first, *rest, str(micro_llama)] if rest == ["--model"] else [first, str(micro_llama), *rest]
    code, out, err = run(*arguments, *small)
    assert code == 3, err
    assert "the chip burned down" in out
    assert "failed cells" in out
    assert "cells failed; the report's notes say why" in err
    report = Report.load(tmp_path / "out")
    assert report.select("failed cells")
    assert any(note.startswith("Failed: ") for note in report.notes)


def test_a_ranking_that_lacks_a_layer_ends_in_3(run: Run, monkeypatch: pytest.MonkeyPatch, micro_llama: Path) -> None:
    def fails(subject: object, arguments: dict, seed: int) -> dict[str, float]:
        if "down_proj" in json.dumps(arguments):
            raise InputError("no more")
        return {"loss": 1.0}

    monkeypatch.setitem(hardy.studies.measure.study_of.__kwdefaults__, "run", fails)
    small = ["--tokens", "64", "--window", "32", "--workers", "1", "--group-size", "16"]
    code, out, err = run("locate", str(micro_llama), *small)
    assert code == 3
    assert "2 of 14 units are not in the ranking by rtn" in err
    assert out.count("model.layers") == 12


def test_the_first_line_says_model_dtype_device_and_threads(run: Run, micro_llama: Path) -> None:
    code, out, err = run(
        "locate", str(micro_llama), "--by", "weight-error", "--group-size", "16", "--dtype", "bfloat16"
    )
    assert code == 0
    assert err.splitlines()[0].startswith(f"{micro_llama}: 0.0 M parameters, bfloat16 (0 MB), cpu, ")
    assert err.splitlines()[0].endswith((" thread", " threads"))
    assert "M parameters" not in out


def test_the_old_name_of_an_option_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict = {}
    monkeypatch.setattr("hardy.studies.reasoning", lambda *_, **options: asked.update(options) or Report(title="t"))
    code, _, err = run("reason", "--longest", "7")
    assert code == 0
    assert asked["max_new_tokens"] == 7
    assert "--longest is now called --max-new-tokens" in err


def test_lists_of_numbers() -> None:
    assert numbers("8, 4,3", int, "bits") == (8, 4, 3)
    assert numbers("", float, "additive") == ()
    with pytest.raises(InputError, match="--bits takes numbers"):
        numbers("8;4", int, "bits")
