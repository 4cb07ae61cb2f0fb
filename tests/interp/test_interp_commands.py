"""The commands, on a model in a folder: a report with its controls each, and one line for a mistake."""

import itertools
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardy import zoo
from hardy.cli.main import app
from hardy.errors import InputError
from hardy.quant import RoundToNearest
from hardy.report import Report

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "k"]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    lines = [
        {"clean": f"def {a}{b}{a}", "corrupt": f"def {b}{b}{a}", "right": a, "wrong": b}
        for a, b in itertools.pairwise(WORDS)
    ]
    file = tmp_path / "task.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "options",
    [
        ("--by", "patching"),
        ("--object", "residual"),
        ("--by", "direct-logit-attribution", "--object", "neurons"),
        ("--by", "probing", "--object", "attention"),
        ("--by", "magnitude", "--statistic", "cohen-d"),
        ("--by", "logit-lens", "--object", "residual"),
        ("--by", "gradient", "--object", "mlp"),
        ("--by", "probing", "--object", "residual", "--probe", "sparse"),
        ("--by", "path-patching", "--receiver", "logits"),
        ("--by", "fisher", "--object", "head"),
    ],
    ids=" ".join,
)
def test_interpret(options: tuple[str, ...], micro_llama: Path, task: Path, tmp_path: Path) -> None:
    if options[1] == "probing":
        task.write_text(task.read_text() * 2)  # two of each pair: five folds need ten
    run("interpret", micro_llama, "--task", task, *options, "--out", tmp_path / "out")
    report = Report.load(tmp_path / "out")
    assert {"top", "at random"} <= {
        word for row in report.select("effect_lost") for word in ("top", "at random") if word in row.condition
    }
    assert (tmp_path / "out" / "ranking.json").is_file()
    assert not (tmp_path / "out" / "patching.safetensors").exists()


def test_an_autoencoder_is_trained_and_its_features_are_ranked(micro_llama: Path, task: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"def {a}({b}): return {a} + {b}" for a in WORDS for b in WORDS) * 3)
    sae = tmp_path / "sae"
    settings = ("--expansion", 2, "--k", 4, "--steps", 30, "--batch", 64, "--text", text, "--tokens", 1000)
    said = run("sae", "train", micro_llama, sae, "--object", "residual", "--layer", 0, *settings)
    assert "features at a time explain" in said.replace("\n", " ")
    report = Report.load(sae)
    assert {"explained", "loss_recovered", "dead_features"} <= {row.metric for row in report.rows}
    assert {path.name for path in sae.iterdir()} == {
        "cfg.json", "sae_weights.safetensors", "report.json", "report.md", "report.html"
    }  # fmt: skip
    run("interpret", micro_llama, "--task", task, "--object", "feature", "--sae", sae, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "ranking.json").read_text())
    with pytest.raises(InputError, match="needs sae="):
        run("interpret", micro_llama, "--task", task, "--object", "feature")
    with pytest.raises(InputError, match="on another object's activations"):
        run("sae", "train", micro_llama, tmp_path / "x", "--object", "feature")


def test_circuit_by_learned_masks(micro_llama: Path, task: Path, tmp_path: Path) -> None:
    run(
        "circuit",
        micro_llama,
        "--task",
        task,
        "--by",
        "masks",
        "--steps",
        2,
        "--examples",
        4,
        "--out",
        tmp_path / "out",
    )
    assert Report.load(tmp_path / "out").value("cpr", "hard-concrete masks, 2 steps") is not None


def test_circuit(micro_llama: Path, task: Path, tmp_path: Path) -> None:
    run("circuit", micro_llama, "--task", task, "--steps", 2, "--out", tmp_path / "out")
    report = Report.load(tmp_path / "out")
    assert report.value("faithfulness", "random edges, 100.0% of all") == pytest.approx(1, abs=1e-3)


def test_a_direction_is_made_and_steers(micro_llama: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"positive": f"{w} add", "negative": f"{w} def"}) + "\n" for w in WORDS))
    run("steer", "make", micro_llama, tmp_path / "made", "--pairs", pairs, "--gguf", tmp_path / "v.gguf")
    for file in (tmp_path / "made" / "directions.safetensors", tmp_path / "v.gguf"):
        run(
            "steer",
            micro_llama,
            "--vector",
            file,
            "--scale",
            50,
            "--layer",
            1,
            "--prompt",
            "def",
            "--tokens",
            4,
            "--out",
            tmp_path / "out",
        )
        report = Report.load(tmp_path / "out")
        assert report.value("divergence", "held-out standard-library modules") > 0
    run(
        "steer",
        micro_llama,
        "--vector",
        tmp_path / "v.gguf",
        "--layer",
        1,
        "--scale",
        0,
        "--prompt",
        "def",
        "--tokens",
        4,
        "--out",
        tmp_path / "out",
    )
    assert Report.load(tmp_path / "out").value("divergence", "held-out standard-library modules") == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"clean": "def a", "corrupt": "def ab", "right": "a"}, "clean has . tokens and corrupt"),
        ({"clean": "def a", "right": "qzx"}, "is . tokens"),
        ({"clean": "def a", "rihgt": "a"}, "right is missing, rihgt is unknown"),
        ({"clean": "def a", "right": "a", "wrong": "a"}, "right and wrong"),
        ({"clean": "def a", "right": "a", "wrong": "b"}, "no corrupt"),
    ],
)
def test_mistakes_in_a_task(line: dict[str, str], message: str, micro_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "task.jsonl"
    file.write_text(json.dumps(line))
    with pytest.raises(InputError, match=message):
        run("interpret", micro_llama, "--task", file)


def test_what_survives_few_bits(micro_llama: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {"2 bits": RoundToNearest(bits=2, group_size=16)}
    monkeypatch.setattr("hardy.studies.circuit_study.usual_conditions", lambda noise: methods)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"positive": f"{w} add", "negative": f"{w} def"}) + "\n" for w in WORDS))
    vector = ("survive", "vector", micro_llama, "--pairs", pairs, "--task", task, "--scales=-1,0,1", "--layer", 0)
    run(*vector, "--out", tmp_path / "vector")
    report = Report.load(tmp_path / "vector")
    assert report.value("old vector: divergence at 0", "2 bits") == 0
    assert report.value("random vectors: effect", "2 bits") > 0
    kept = {cell: cell.stat().st_mtime_ns for cell in (tmp_path / "vector" / "cells").iterdir()}
    run(*vector, "--out", tmp_path / "vector")  # goes on: nothing is measured again
    assert {cell: cell.stat().st_mtime_ns for cell in (tmp_path / "vector" / "cells").iterdir()} == kept
    with pytest.raises(InputError, match="task is needed to judge"):
        run("survive", "vector", micro_llama, "--pairs", pairs)
    task.write_text("".join(task.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(InputError, match="no behaviour to survive"):
        run("survive", "circuit", micro_llama, "--task", task)


def test_induction_is_written_with_the_words_that_a_tokenizer_has(tmp_path: Path) -> None:
    """The zoo's tokenizer is of code, and has hardly a word of the lists in one token."""
    out = run("prompts", "induction", "tiny-llama", tmp_path / "task.jsonl", "--examples", 8)
    assert "8 lines" in out
    _, tokenizer = zoo.load("tiny-llama")
    for line in map(json.loads, (tmp_path / "task.jsonl").read_text().splitlines()):
        right = line["right"]
        listed = line["clean"].split()
        assert len(tokenizer(right, add_special_tokens=False).input_ids) == 1
        assert listed[listed.index(listed[-1]) + 1] == right.strip()  # what followed the last word before
        assert listed.index(listed[-1]) < len(listed) - 1
        assert line["corrupt"].split().count(listed[-1]) == 1  # nothing says what follows


def test_the_first_command_of_the_page(tmp_path: Path) -> None:
    run("interpret", "tiny-llama", "--task", "induction", "--by", "attribution-patching", "--out", tmp_path / "out")
    assert Report.load(tmp_path / "out").rows
