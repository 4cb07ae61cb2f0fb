"""README and docs are true: Python blocks run, command lines parse, links lead somewhere, figures match the results."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from hardy.cli.main import app
from hardy.report import Report

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def lines_of(language: str) -> list[str]:
    return [line for page in PAGES for body in blocks(page, language) for line in body.splitlines() if line.strip()]


@pytest.fixture
def study_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder with the study that the pages speak of."""
    result = json.loads((ROOT / "benchmarks" / "results" / "survival.json").read_text(encoding="utf-8"))
    Report.from_json(result["report"]).save(tmp_path / "hardy-study")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("study_folder")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path) -> None:
    names: dict[str, object] = {}
    for body in blocks(page, "python"):
        exec(compile(body, str(page), "exec"), names)


@pytest.mark.parametrize("line", [line for line in lines_of("sh") if "hardy " in line and "pip" not in line])
def test_command_lines_parse(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "hardy"
    command, arguments = get_command(app), words[1:]
    context = typer.Context(command, info_name="hardy")
    while hasattr(command, "commands"):
        name, command, arguments = command.resolve_command(context, arguments)  # pyright: ignore[reportAttributeAccessIssue]
        context = typer.Context(command, info_name=name, parent=context)
    command.make_context(command.name, list(arguments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not t.startswith("https://") and not (page.parent / t).exists()]
    assert not missing


def test_figures_in_the_readme_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import readme

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.written(text) == text, "run python benchmarks/readme.py"
    sys.modules.pop("readme")


def test_the_default_study_shows_what_the_readme_says() -> None:
    """Bit by bit worse, and located protection better than random protection, at every k and for both damages."""
    result = json.loads((ROOT / "benchmarks" / "results" / "survival.json").read_text(encoding="utf-8"))
    report = Report.from_json(result["report"])
    values = {row.condition: row.value for row in report.select("perplexity")}
    bits = [values[f"{bits}-bit"] for bits in (8, 4, 3, 2)]
    assert bits == sorted(bits)
    kept = [name for name in values if name.endswith("most fragile kept")]
    assert len(kept) == 6
    for name in kept:
        assert values[name] < values[name.replace("most fragile", "random")], name


def test_ci_runs_the_command_of_the_readme() -> None:
    commands = [line for line in lines_of("sh") if re.match(r"pip install .*pytest", line)]
    assert len(set(commands)) == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
