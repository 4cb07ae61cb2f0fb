"""Text to measure on: the standard library's own source, which every machine with Python has, or a user's file."""

import sysconfig
from pathlib import Path

from hardy.errors import InputError

EVALUATION = ("argparse", "calendar", "difflib", "fractions", "heapq", "statistics", "textwrap")
"""Held-out modules on which figures are reported."""

CALIBRATION = ("configparser", "csv", "imaplib", "shlex")
"""Held-out modules for everything that is chosen by looking: validation while training, layers to protect."""

HELD_OUT = {"evaluation": EVALUATION, "calibration": CALIBRATION}

PARTS = ("evaluation", "calibration")
"""Figures are reported on the first; whatever is chosen by looking is chosen on the second."""

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


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file.

    Raises:
        InputError: it is missing, a folder, unreadable, empty, or not UTF-8 text.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"text file {path} does not exist") from None
    except OSError as error:
        raise InputError(f"text file {path} cannot be read: {error.strerror}") from None
    if not raw.strip():
        raise InputError(f"text file {path} is empty")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"text file {path} is not UTF-8: byte {raw[error.start]:#04x} at {error.start}") from None
    if "\0" in text:
        raise InputError(f"text file {path} is binary: it holds a NUL byte at {raw.index(0)}")
    return text


def texts_of(path: str | Path | None) -> dict[str, str]:
    """The text of each of `PARTS`: of a file its second and its first half, by default the held-out modules.

    Raises:
        InputError: as `read_text`, or this Python has no source files.
    """
    if path is None:
        return {part: held_out_text(part) for part in PARTS}
    text = read_text(path)
    middle = len(text) // 2
    return {"evaluation": text[middle:], "calibration": text[:middle]}


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
