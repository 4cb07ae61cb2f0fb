import json
from pathlib import Path

import pytest

from hardy.analog import Deploy, Redundancy
from hardy.core import chain
from hardy.errors import InputError
from hardy.hardware import Chip
from hardy.hardware.device import ProportionalDevice
from hardy.report import Report
from hardy.studies import reasoning
from hardy.studies.reasoning_report import difference
from hardy.studies.reasoning_study import Questions, measure_answers
from hardy.studies.tasks import embedded, is_right, read_tasks, ways_of
from hardy.zoo import Subject, arithmetic

SMALL = {"problems": 8, "n_seeds": 2, "levels": (0.3,), "workers": 1}


def test_every_way_is_measured_on_the_same_chips_and_kept(tmp_path: Path) -> None:
    run = {**SMALL, "out": tmp_path / "study"}
    report = reasoning(**run)
    assert not report.notes
    conditions = {row.condition for row in report.select("accuracy")}
    assert len(conditions) == 4 + 4 + 2 * 3
    subject = Subject.of("tiny-reasoner")
    questions = Questions(subject=subject, tasks=embedded(8), calibration=0, max_new_tokens=32)
    assert report.settings["max_new_tokens"] == 32
    values = []
    for seed in (0, 1):
        chip = Chip(device=ProportionalDevice(program=0.3))
        method = chain(Redundancy(copies=3, layers="0:2"), Deploy(chip=chip, seed=seed))
        found = measure_answers(questions, {"method": method.to_dict(), "ways": ["steps"]}, seed)
        values.append(found["steps.accuracy"])
    assert report.value("accuracy", "steps, shallow copied, proportional 0.3") == sum(values) / 2
    assert report.value("accuracy", "steps, no noise") >= 0.75
    assert report.value("tokens", "direct, no noise") == 2
    assert report.value("unfinished", "steps, no noise") == 0
    arrays = {row.condition: row.value for row in report.select("arrays")}
    assert arrays["shallow"] == arrays["middle"] == arrays["deep"] > arrays["each layer once"]
    assert len(report.summary) == 3 + 2
    assert Report.from_json((tmp_path / "study" / "report.json").read_text()).figures == report.figures
    again = reasoning(**run)
    assert again.rows == report.rows


def lines(path: Path, *records: object) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return str(path)


def test_a_file_of_tasks_for_another_model_on_a_chip_with_converters(micro_llama: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", *({"answer": i, "direct": f"def add{i}"} for i in range(12)), "")
    report = reasoning(
        str(micro_llama),
        tasks=path,
        chip="pcm-foundation",
        copies=1,
        max_new_tokens=4,
        n_seeds=1,
        workers=1,
        problems=10,
    )
    assert not report.notes
    assert {row.condition for row in report.select("unfinished")} == {"direct, no noise", "direct, on the chip"}
    with pytest.raises(InputError, match="written for tiny-reasoner"):
        reasoning(str(micro_llama), copies=1)


def test_embedded_tasks_are_held_out_mixed_and_answered_by_their_lines() -> None:
    tasks = embedded(20)
    assert ways_of(tasks) == ("direct", "steps", "examples_direct", "examples_steps")
    assert [task.prompts["direct"].count("\n") for task in tasks] == [1] * 20
    assert [task.prompts["examples_steps"].count("\n") for task in tasks] == [4] * 20
    for task in tasks:
        problem = task.prompts["direct"][2:-1]
        assert arithmetic.is_held_out(problem)
        assert int(task.answer) == arithmetic.results(problem)[-1]
    assert {len(task.prompts["direct"]) for task in tasks[:4]} == {8, 10, 12, 14}


def test_numbers_are_compared_by_value(tmp_path: Path) -> None:
    tasks = read_tasks(lines(tmp_path / "t", {"answer": "4.0", "steps": "2+2="}, {"answer": -7, "steps": "1-8="}), 5)
    assert is_right("4", tasks[0])
    assert not is_right(None, tasks[0])
    assert is_right("-7.00", tasks[1])


def test_bad_task_files_are_refused_by_line(tmp_path: Path) -> None:
    good = {"answer": 4, "direct": "2+2="}
    for second, message in (
        ("{", "line 2 of .* is not JSON"),
        ([1], "line 2 of .* must be a JSON object"),
        ({"answer": 4}, "line 2 of .* needs an answer and a prompt"),
        ({"direct": "x"}, "line 2 of .* needs an answer and a prompt"),
        ({"answer": "four", "direct": "x"}, "answer must be a number, got 'four'"),
        ({"answer": "NaN", "direct": "x"}, "answer must be finite"),
        ({"answer": 4, "direct": ""}, "direct must be a text that is not empty"),
        ({"answer": 4, "direct": 5.5, "steps": ["x"]}, r"steps must be a text that is not empty, got \[\"x\"\]"),
        ({"answer": 4, "drect": "x"}, "unknown key 'drect'; did you mean direct"),
        ({"answer": 4, "steps": "x"}, "line 2 of .* has the prompts steps; the first line has direct"),
    ):
        with pytest.raises(InputError, match=message):
            read_tasks(lines(tmp_path / "t", good, second), 5)
    with pytest.raises(InputError, match="does not exist"):
        read_tasks(str(tmp_path / "none"), 5)


def test_what_it_refuses(micro_llama: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "t", {"answer": 4, "direct": "2+2="})
    for model, fields, message in (
        ("tiny-reasoner", {"noise": "proportionl"}, "noise must be .*did you mean proportional"),
        ("tiny-reasoner", {"levels": (-0.1,)}, "levels must be finite numbers of at least 0"),
        ("tiny-reasoner", {"levels": ()}, "levels must be"),
        ("tiny-reasoner", {"n_seeds": 0}, "n_seeds must be an integer of at least 1, got 0"),
        ("tiny-reasoner", {"problems": 3}, "problems must be at least 4"),
        ("tiny-reasoner", {"copies": 0}, "copies must be an integer from 1 to 64"),
        ("tiny-reasoner", {"max_new_tokens": 150}, "exceeds the context of 192"),
        ("tiny-reasoner", {"chip": "rerm-wan"}, "no chip 'rerm-wan'"),
        ("tiny-reasoner", {"select": "norm"}, "a chip takes nn.Linear"),
        ("tiny-reasoner", {"select": "model.layers.0.mlp.down_proj"}, "selected by role, or copies=1"),
        (str(micro_llama), {"tasks": path}, "a model of 2 layers has no shallow, middle and deep third"),
        (
            str(micro_llama),
            {"tasks": path, "copies": 1, "chip": "pcm-foundation", "max_new_tokens": 4},
            "1 problems are too few",
        ),
    ):
        with pytest.raises(InputError, match=message):
            reasoning(model, **{**SMALL, **fields})
    with pytest.raises(InputError, match="no chip instance"):
        difference({0: 1.0}, {1: 1.0})


def test_differences_are_paired() -> None:
    mean, error = difference({0: 0.5, 1: 0.9, 2: 0.7}, {0: 0.4, 1: 0.6, 3: 0.0})
    assert mean == pytest.approx(0.2)
    assert error == pytest.approx(0.1)
