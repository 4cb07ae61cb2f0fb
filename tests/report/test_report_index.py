"""The reports of a folder: found, listed, and led to by one page."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardy.cli.main import app
from hardy.errors import InputError
from hardy.report import Report, Row, index


def reports(folder: Path) -> Path:
    for place, title in (("one", "First <b>question</b>"), ("deep/two", "Second question")):
        Report(title=title, summary=("The answer.",), rows=(Row(metric="loss", condition="a", value=1.0),)).save(
            folder / place
        )
    os.utime(folder / "one" / "report.json", (1, 1))
    (folder / "odd #1").mkdir()
    (folder / "odd #1" / "report.json").write_text("{}")
    os.utime(folder / "odd #1" / "report.json", (0, 0))
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "report.json").write_text("{}")
    return folder


def test_every_report_is_found_the_newest_first_and_what_is_none_says_why(tmp_path: Path) -> None:
    found = index.entries(reports(tmp_path))
    assert [str(entry.folder) for entry in found] == ["deep/two", "one", "odd #1"]
    assert [entry.rows for entry in found] == [1, 1, 0]
    assert found[0].page == Path("deep/two/report.html")
    assert "not a hardy report" in found[2].problem
    (tmp_path / "one" / "report.html").unlink()
    assert index.entries(tmp_path)[1].page == Path("one/report.json")


def test_the_page_leads_to_each_and_obeys_none(tmp_path: Path) -> None:
    path = index.save(reports(tmp_path))
    assert path == tmp_path / "index.html"
    text = path.read_text(encoding="utf-8")
    assert 'href="deep/two/report.html"' in text
    assert 'href="odd%20%231/report.json"' in text
    assert "First &lt;b&gt;question&lt;/b&gt;" in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert index.save(tmp_path) == path, "its own page is written anew"


def test_a_page_of_others_and_a_folder_without_reports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no report is in .* or below it"):
        index.entries(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        index.entries(tmp_path / "nowhere")
    (reports(tmp_path) / "index.html").write_text("mine")
    with pytest.raises(InputError, match="is no index of reports"):
        index.save(tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"


def test_the_commands_list_and_write(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["report", "list", str(reports(tmp_path))])
    assert listed.exit_code == 0
    assert "Second question" in listed.output
    assert "cannot be read" in listed.output
    written = CliRunner().invoke(app, ["report", "index", str(tmp_path)])
    assert written.output.strip() == str(tmp_path / "index.html")
