"""The house rules that a machine can check: imports point down only, files stay short, nothing prints."""

import ast
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


def hidden_modules(package: Path) -> set[str]:
    """Names that a package gives away and that are its modules as well: `import package.name` would hide one of them."""
    own = ".".join(("hardy", *package.relative_to(SOURCE).parts))
    given: set[str] = set()
    for node in ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module != own:
            given |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            given.add(node.name)
    return given & {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}


PACKAGES = sorted(path.parent for path in SOURCE.rglob("__init__.py") if path.parent != SOURCE)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(SOURCE)))
def test_no_function_hides_its_module(package: Path) -> None:
    assert not hidden_modules(package)
