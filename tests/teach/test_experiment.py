"""The page of `hardy teach`, and its command."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardy import InputError
from hardy.cli.main import app
from hardy.teach import graphs


def test_the_page_has_its_controls_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric")
    from hardy.teach.experiment import Plan, experiment
    from hardy.teach.training import Training

    data = graphs.generated("graph-regression", 24, nodes=(3, 6), features=4)
    plan = Plan(model="flexible", selectors=("hard",), width=8, training=Training(epochs=4, checks=2))
    report = experiment(data, plan, seeds=2, out=tmp_path)
    assert [row.condition for row in report.select("MAE")] == ["full", "hard", "random"]
    for arm in ("hard", "random"):  # the control sees as much as what it is the control of
        assert report.value("samples", arm) == report.value("samples", "random") < report.value("samples", "full")
    assert report.value("contrast", "hard") > 1 == report.value("contrast", "random")
    assert report.value("selection seconds", "hard") > 0
    better = report.select("better than random (MAE)", "hard")[0]
    assert better.value == pytest.approx(report.value("MAE", "random") - report.value("MAE", "hard"))
    cells = sorted((tmp_path / "cells").iterdir())
    cells[0].unlink()
    times = [cell.stat().st_mtime_ns for cell in cells[1:]]
    again = experiment(data, plan, seeds=2, out=tmp_path)
    assert [cell.stat().st_mtime_ns for cell in cells[1:]] == times
    timed = ("seconds", "time saved", "selection share")  # the same seed gives the same run but for its seconds
    assert [row for row in again.rows if not any(word in row.metric for word in timed)] == [
        row for row in report.rows if not any(word in row.metric for word in timed)
    ]
    titles = [figure.title for figure in report.figures]
    assert titles == [
        "Metric against time", "Metric against samples", "Metric against steps", "Time saved", "Selection overlap",
        "What was chosen",
    ]  # fmt: skip
    assert report.select("better than full at equal samples (MAE)", "hard")
    assert report.select("better than random at equal CPU seconds (MAE)", "hard")
    assert report.value("MAE at equal samples", "hard") == report.value("MAE", "hard")
    assert (tmp_path / "report.html").is_file()
    with pytest.raises(InputError, match="teacher must be soft, hard"):
        Plan(selectors=("sotf",))
    with pytest.raises(InputError, match="start must be"):
        Plan(start=0.0)
    paper = Plan.of_protocol("paper", "node-classification", training={"epochs": 9}, width=4)
    assert (paper.model, paper.width, paper.orders, paper.selectors) == (
        "flexible", 4, (4, 3), ("batch", "proportional"),
    )  # fmt: skip
    assert (paper.training.epochs, paper.training.batch_size, paper.training.protocol) == (9, 200, "paper")
    assert Plan.of_protocol("minibatch", "graph-regression").training.epochs == 200


def test_the_command_leaves_its_page(tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric")
    file = tmp_path / "toy.txt"
    graph = "3 {label}\n{tag} 1 1\n9 2 0 2\n9 1 1\n"
    file.write_text("24\n" + "".join(graph.format(label=2 * (i % 2), tag=5 + i % 3) for i in range(24)))
    words = ["teach", str(file), "--model", "flexible", "--teacher", "hard,batch", "--epochs", "3", "--seeds", "1"]
    result = CliRunner().invoke(app, [*words, "--width", "8", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for wrong, message in (
        (["--protocol", "papers"], "protocol must be minibatch or paper"),
        (["--orders", "2,0"], "orders must be"),
        (["--start", "1.5"], "start must be"),
    ):  # before anything is read
        refused = CliRunner().invoke(app, ["teach", str(tmp_path / "nothing"), *wrong])
        assert isinstance(refused.exception, InputError)
        assert message in str(refused.exception)
    for arm in ("full", "hard", "batch", "random"):
        assert arm in result.output
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "out" / name).is_file()
