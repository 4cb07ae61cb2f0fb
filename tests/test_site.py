"""Pages that quote the code say what it says, and the site's own scripts work without building it."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ERRORS = sorted((ROOT / "docs" / "errors").glob("*.md"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "site" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def said() -> set[str]:
    return {text for _, text in script("pages").messages()}


@pytest.mark.parametrize("page", [page for page in ERRORS if page.stem != "index"], ids=lambda page: page.stem)
def test_every_message_on_the_pages_of_errors_is_one_of_the_code(page: Path, said: set[str]) -> None:
    blocks = re.findall(r"^```error\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    quoted = [line for block in blocks for line in block.splitlines()]
    assert len(quoted) >= 10
    assert [line for line in quoted if line not in said] == []
    for part in ("**Cause.**", "**Triggers.**", "**Fix.**"):
        assert page.read_text(encoding="utf-8").count(part) == len(blocks), part


def test_hints_of_missing_packages_are_all_on_their_page(said: set[str]) -> None:
    page = (ROOT / "docs" / "errors" / "packages.md").read_text(encoding="utf-8")
    hints = [text for text in said if "pip install" in text and "hardy-nn[" in text]
    assert len(hints) >= 10
    assert [hint for hint in hints if hint not in page] == []


def test_commands_are_all_on_their_page() -> None:
    page = script("pages").commands()
    for command in ("hardy study", "hardy report index", "hardy splat train", "hardy field encode"):
        assert re.search(rf"^#+ `{command}`$", page, re.MULTILINE), command


def test_every_page_is_in_the_navigation() -> None:
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w/.-]+\.md", yaml.safe_dump(yaml.safe_load(text)["nav"], width=1000)))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert there <= named
    rooms = {path.parent.name for path in (ROOT / "src" / "hardy").glob("*/__init__.py")} - {"cli"}
    assert {f"reference/{room}.md" for room in rooms} <= named


def test_what_comes_from_the_network_and_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<script src="https://cdn.example/x.js"></script><a href="b.html#here">b</a><a href="c.html">c</a>'
        '<a href="b.html#gone">b</a><a href="https://example.org">out</a><p id="x">'
    )
    (tmp_path / "b.html").write_text('<p id="here">')
    (tmp_path / "a.css").write_text("@import url(https://fonts.example/f.css); a { background: url(x.png) }")
    found = script("check").faults(tmp_path)
    assert len(found) == 4, found


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 200
    assert len(text.split()) <= 1200
    assert sum(line.startswith("|") for line in text.splitlines()) <= 40


def test_the_scripts_of_the_gallery_are_cells_with_a_picture_each() -> None:
    scripts = [path for path in (ROOT / "gallery").glob("*.py") if path.stem not in ("run", "picture")]
    assert len(scripts) >= 9
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        title, _, said = (ast.get_docstring(tree) or "").partition("\n\n")
        assert title, path
        assert said, path
        assert text.count("# %%") >= 2, path
        assert f'save("{path.stem}", figure)' in text, path
        assert (ROOT / "docs" / "images" / "gallery" / f"{path.stem}.png").is_file(), path


@pytest.mark.parametrize("name", ["activation_unit", "circuit_on_few_bits", "quantized_real_model"])
def test_the_cheapest_scripts_of_the_gallery_run(name: str, tmp_path: Path) -> None:
    if name == "activation_unit":
        pytest.importorskip("amaranth")
    environment = os.environ | {"HARDY_GALLERY": str(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(ROOT / "gallery" / f"{name}.py")], check=True, env=environment)
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_systems_are_eighteen_and_each_is_in_the_house() -> None:
    from benchmarks import systems

    found = systems.systems()
    assert [one.number for one in found] == list(range(1, 19))
    assert len({one.paper for one in found}) == 18
    for one in found:
        has_figures = f"<!-- generated: system-{one.page.stem} -->" in one.page.read_text(encoding="utf-8")
        assert has_figures == (one.page.stem in systems.CLAIMS) == (one.reproduced != "no figures yet"), one.page
