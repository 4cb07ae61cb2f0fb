"""Text that every machine with Python has: the standard library's own source and its language reference."""

import sysconfig
from pathlib import Path

from hardy.errors import InputError

EVALUATION = ("argparse", "calendar", "difflib", "fractions", "heapq", "statistics", "textwrap")
"""Held-out modules on which figures are reported."""

CALIBRATION = ("configparser", "csv", "imaplib", "shlex")
"""Held-out modules for everything that is chosen by looking: validation while training, layers to protect."""

HELD_OUT = {"evaluation": EVALUATION, "calibration": CALIBRATION}

# Third-party code, generated tables and one-per-machine build settings teach a language model nothing.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "encodings", "config"}
_SKIPPED_PREFIXES = ("_sysconfigdata",)
_TEST_FOLDERS = {"test", "tests", "idle_test"}


def standard_library() -> Path:
    """The folder of this Python's standard library.

    Raises:
        InputError: it holds no source files (a zipped or frozen Python).
    """
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "argparse.py").is_file():
        raise InputError(f"no standard-library source in {folder}; give a text of your own with --text FILE")
    return folder


def held_out_text(part: str = "evaluation") -> str:
    """The source of the held-out modules of `part` ("evaluation" or "calibration"), joined by blank lines.

    Raises:
        InputError: there is no such part, or this Python has no source files.
    """
    if part not in HELD_OUT:
        raise InputError(f"unknown part {part!r}; there are {', '.join(HELD_OUT)}")
    folder = standard_library()
    return "\n\n".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in HELD_OUT[part])


def training_files() -> list[Path]:
    """Every standard-library source file that training may see, in a fixed order.

    The held-out modules are left out together with their tests, which quote them.
    """
    folder = standard_library()
    held_out = {name for part in HELD_OUT.values() for name in part}
    files = []
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if _SKIPPED_FOLDERS & set(relative.parts) or path.name.startswith(_SKIPPED_PREFIXES):
            continue
        stem = path.stem.removeprefix("test_")
        if any(stem == name or stem.startswith(f"{name}_") for name in held_out):
            continue
        files.append(path)
    return files


def training_documents() -> tuple[list[str], list[str]]:
    """The texts of `training_files`: the library's modules, and its tests.

    The few files that are not UTF-8 (they test decoding errors) are left out.
    """
    library: list[str] = []
    tests: list[str] = []
    folder = standard_library()
    for path in training_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            (tests if _TEST_FOLDERS & set(path.relative_to(folder).parts) else library).append(text)
    return library, tests
