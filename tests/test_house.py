"""The house rules that a machine can check: imports point down only, files stay short, no name hides a module."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hardy"
ROOMS = ["quant", "analog", "stream", "fields", "splat", "teach", "interp"]
FLOORS = [["report"], ["core"], ["ops"], ["evaluate"], ["hardware"], ["zoo"], ROOMS, ["rtl"], ["studies"], ["cli"]]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str | None:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else None


def imported_rooms(path: Path) -> set[str]:
    """Rooms of hardy that a file imports, at the top or inside a function."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            modules |= {f"hardy.{alias.name}" for alias in node.names} if module == "hardy" else {module}
    return {name.split(".")[1] for name in modules if name.startswith("hardy.") and name.split(".")[1] in HEIGHT}


def test_every_folder_is_a_room_of_the_house() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(HEIGHT), f"{folders - set(HEIGHT)} has no floor; say in this test where it stands"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room is None:
        return  # the package's front door names the rooms without entering them
    for other in imported_rooms(path) - {room}:
        assert HEIGHT[other] < HEIGHT[room], f"{path}: {room} must not import {other}"


def test_the_check_sees_arrows_that_point_up_and_sideways(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "from hardy import studies\ndef f():\n    import hardy.analog.chip\n    from hardy.quant import x\n"
    )
    assert imported_rooms(path) == {"studies", "analog", "quant"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


HIDDEN = {
    "core.observe",
    "quant.layer_importance",
    "splat.strategies.mcmc",
    "studies.reasoning",
    "studies.repair",
    "studies.simulate",
    "studies.survival",
}
"""Modules that a function of their name still hides in their package; the list only gets shorter."""


def names_of(package: Path) -> set[str]:
    """Names that a package's `__init__.py` binds by importing them from elsewhere than itself, or by defining them."""
    names: set[str] = set()
    for node in ast.parse(package.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            own = ".".join(("hardy", *package.parent.relative_to(SOURCE).parts))
            names |= {alias.asname or alias.name for alias in node.names if node.module != own}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def hidden_modules() -> set[str]:
    """`import hardy.studies.repair` gives such a module, `from hardy.studies import repair` something else."""
    found = set()
    for package in SOURCE.rglob("__init__.py"):
        inside = {path.stem for path in package.parent.glob("*.py")} | {
            p.parent.name for p in package.parent.glob("*/__init__.py")
        }
        room = ".".join(package.parent.relative_to(SOURCE).parts)
        found |= {f"{room}.{name}".lstrip(".") for name in names_of(package) & inside}
    return found


def test_no_module_is_hidden_by_a_name_of_its_package() -> None:
    hidden = hidden_modules()
    assert hidden <= HIDDEN, f"{sorted(hidden - HIDDEN)}: name the module after what is in it, not after its function"
    assert hidden >= HIDDEN, f"{sorted(HIDDEN - hidden)} are hidden no more: take them off the list"


def test_committed_files_have_the_modes_of_their_kind() -> None:
    """Everybody may read them; what begins with #! may be run, and nothing else."""
    root = SOURCE.parents[1]
    listed = subprocess.run(["git", "ls-files", "-z", "--stage"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    wrong = []
    for entry in filter(None, listed.stdout.split("\0")):
        (mode, *_), name = entry.partition("\t")[0].split(), entry.partition("\t")[2]
        path = root / name
        if not path.is_file():
            continue  # deleted, and not committed yet
        script = path.read_bytes()[:2] == b"#!"
        readable = path.stat().st_mode & 0o444 == 0o444 or os.name == "nt"
        if mode != ("100755" if script else "100644") or not readable:
            wrong.append((name, mode))
    assert not wrong
