"""README and docs are true: Python blocks run, command lines parse, links lead somewhere, figures match the results."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from typer.main import get_command

import hardy.studies.locating  # noqa: F401 - the rooms register their locators
from benchmarks import readme
from benchmarks.harness import catalogue
from benchmarks.harness.record import Record
from hardy.cli.main import app
from hardy.core.locators import locators

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def lines_of(language: str) -> list[str]:
    return [line for page in PAGES for body in blocks(page, language) for line in body.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def saved_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    Record.read("survival").report.save(folder)
    return folder


@pytest.fixture
def study_folder(tmp_path: Path, saved_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder with the study that the pages speak of; what a page registers is forgotten after it."""
    shutil.copytree(saved_study, tmp_path / "hardy-study")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hardy.core.locators._REGISTERED", locators())


@pytest.mark.usefixtures("study_folder")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
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
    for module, _, function in (word.partition(":") for word in words if re.fullmatch(r"[a-z_.]+:[A-Za-z]\w*", word)):
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_images_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not t.startswith("https://") and not (page.parent / t).exists()]
    assert not missing


def test_figures_in_the_readme_are_those_of_the_results() -> None:
    assert readme.is_current(), "run python -m benchmarks tables"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_benchmarks_that_pages_name_can_be_run(page: Path) -> None:
    named = re.findall(r"python -m benchmarks run ([\w-]+)", page.read_text(encoding="utf-8"))
    assert set(named) <= {*catalogue.names(), "NAME"}


def test_the_default_study_shows_what_the_readme_says() -> None:
    """Bit by bit worse, and located protection better than random protection, at every k and for both damages."""
    report = Record.read("survival").report
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
