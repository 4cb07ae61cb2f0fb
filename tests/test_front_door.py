"""`import hardy` reaches everything, and loads nothing that is not used."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hardy

SOURCE = Path(hardy.__file__).parent
ROOMS = {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {"cli"}


def test_every_room_is_an_attribute() -> None:
    assert set(hardy.__all__) == ROOMS | set(hardy._HOMES) | {"__version__"}
    assert dir(hardy) == sorted(hardy.__all__)
    for room in ROOMS:
        assert getattr(hardy, room) is importlib.import_module(f"hardy.{room}")
    for name, home in hardy._HOMES.items():
        value = getattr(hardy, name)
        assert value is getattr(importlib.import_module(home), name)
        assert (inspect.getdoc(value) or "").strip()
    with pytest.raises(AttributeError, match="module 'hardy' has no attribute 'qant'"):
        hardy.qant  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert set(seen) == ROOMS | set(hardy._HOMES)
    assert {seen[room] for room in ROOMS} == {"hardy"}
    assert {name: seen[name] for name in hardy._HOMES} == hardy._HOMES


def test_a_star_import_gives_all_of_it() -> None:
    names: dict[str, object] = {}
    exec("from hardy import *", names)
    assert names.keys() >= set(hardy.__all__)


def loaded_by(code: str) -> set[str]:
    """The slow libraries that a new process has loaded after `code`."""
    code += "\nimport sys; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    slow = {"torch", "transformers", "numpy", "scipy", "matplotlib", "sklearn", "hardy.core"}
    return set(shown.splitlines()[-1].split()) & slow


def test_import_hardy_costs_nothing() -> None:
    assert loaded_by("import hardy; hardy.InputError; dir(hardy); hardy.__version__") == set()
    assert "torch" not in loaded_by("import hardy; str(hardy.Report(title='t')); hardy.Report(title='t').to_json()")


def test_help_is_there_at_once() -> None:
    code = "import sys; from hardy.cli.main import app; sys.argv = ['hardy', '--help']; app(standalone_mode=False)"
    assert loaded_by(code) == set()
