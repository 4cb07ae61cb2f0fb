"""The house rules that a machine can check: imports point down and in no circle, files stay short, and more."""

import ast
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hardy"
ROOMS = ["quant", "analog", "stream", "fields", "splat", "teach", "interp"]
BELOW = [["report"], ["runs"], ["core"], ["artefacts"], ["hooks"], ["ops"], ["evaluate"], ["hardware"], ["zoo"]]
FLOORS = [*BELOW, ROOMS, ["rtl"], ["studies"], ["cli"]]
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


def module_of(path: Path, source: Path) -> str:
    parts = path.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Modules that a file imports when it runs, at the top or inside a function; what only types need does not count.

    `from room import file` counts as the file, not as the room's `__init__`.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in names}
        waiting.extend(ast.iter_child_nodes(node))
    return found & modules


def circles(source: Path) -> list[list[str]]:
    """Groups of modules in which each imports, by way of others, all the others."""
    files = {module_of(path, source): path for path in source.rglob("*.py")}
    graph = {name: imported_modules(path, set(files)) for name, path in files.items()}
    reached = {name: set(targets) for name, targets in graph.items()}
    for middle in reached:
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    groups = {frozenset(a for a in graph if a in reached[b] and b in reached[a]) for b in graph if b in reached[b]}
    return sorted(sorted(group) for group in groups)


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles(SOURCE) == []


def test_the_check_sees_circles(tmp_path: Path) -> None:
    files = {
        "__init__": "",
        "room/__init__": "from package.room.a import x",
        "room/a": "import package.room.b",
        "room/b": "def f():\n    from package.room import c",
        "room/c": "from package.room.a import x",
        "room/d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.room.e import x",
        "room/e": "from package.room import d",
        "room/f": "from package.room import x",
    }
    for name, text in files.items():
        path = tmp_path / "package" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert circles(tmp_path / "package") == [[f"package.room.{name}" for name in "abc"]]
    (tmp_path / "package" / "room" / "a.py").write_text("from package.room import f")
    assert circles(tmp_path / "package") == [["package.room", "package.room.a", "package.room.f"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


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
    assert not hidden, f"{sorted(hidden)}: name the module after what is in it, not after its function"


def test_committed_files_have_the_modes_of_their_kind() -> None:
    """What begins with #! may be run, and nothing else."""
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
        if mode != ("100755" if script else "100644"):
            wrong.append((name, mode))
    assert not wrong


def test_every_page_says_its_answer_first() -> None:
    """Tables that no command makes a page of need no sentence: what a method did, a cost, conversions."""
    tables = {SOURCE / "core" / "method.py", SOURCE / "hardware" / "cost.py", SOURCE / "analog" / "layers.py"}
    for path in set(FILES) - tables:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Report":
                assert "summary" in {keyword.arg for keyword in node.keywords}, f"{path}, line {node.lineno}"
