"""Files that are either the old one or the new one, never half of each, and JSON that holds every number."""

import contextlib
import errno
import fnmatch
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hardy.errors import InputError, shortened

NON_FINITE = "non-finite"
"""Key of the object that stands for infinity or NaN in JSON, which has neither: {"non-finite": "inf"}."""
_DAY = 24 * 3600.0
_swept: set[Path] = set()
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.tmp")


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary_path)` make the file, then move it over `path` in one step.

    A full disk or a kill in the middle leaves the previous `path` untouched and, at worst, a file beside it that
    `sweep` removes. The file is as readable as any new one, whatever `write` makes of it.
    """
    path = Path(path)
    check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        with _named_by_the_system(path):
            write(temporary)
        temporary.chmod(mode)  # safetensors writes files that only their owner can read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | Path, *, folder: bool = False) -> None:
    """Refuse, before long work, a place where its result could not be written.

    Args:
        path: of a file, or with `folder` of a folder; it and what is above it need not exist.
        folder: whether files will be written into it.

    Raises:
        InputError: it is the other of the two, no name, or lies below a file or a folder that cannot be written to.
    """
    path = Path(path)
    if not folder and not path.name:
        raise InputError(f"{str(path)!r} is no name of a file")
    if folder and path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; a folder is wanted")
    if not folder and path.is_dir():
        raise InputError(f"{path} is a folder; a file is wanted")
    whole = path.absolute()
    above = next(place for place in ([whole] if folder else []) + list(whole.parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: {above} is no folder that one can write to")


def write_files(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary_folder)` make files, then move each over its namesake in `folder` in one step.

    For libraries that write several files themselves. A kill leaves whole files, of the old ones or the new ones.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder / "files")
    temporary.mkdir()
    try:
        with _named_by_the_system(folder):
            write(temporary)
        follow_umask(temporary)
        for file in sorted(temporary.iterdir()):
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _named_by_the_system(path: Path) -> Iterator[None]:
    """Errors of writing as `OSError` with `path` and the system's reason: safetensors and tokenizers have their own."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # not the temporary file's
        raise
    except Exception as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None and not isinstance(error, SafetensorError):
            raise
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number) if code else shortened(error), str(path)) from None


def temporary_beside(path: str | Path) -> Path:
    """A new hidden name beside `path` for a file or folder that will take its place; `sweep` knows whose it is.

    The first one in a folder also sweeps what killed processes left there.
    """
    path = named(path)
    if (folder := path.parent.absolute()) not in _swept:
        _swept.add(folder)
        sweep(folder / "*")
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def named(path: str | Path) -> Path:
    """`path`, absolute where it has no name of its own, as "." and "..": something will lie beside it.

    Raises:
        InputError: nothing lies beside it.
    """
    found = Path(path)
    found = Path(os.path.abspath(found)) if found.name in ("", "..") else found
    if not found.name:
        raise InputError(f"{path} cannot be written: it is the root of all folders")
    return found


def sweep(path: str | Path) -> list[Path]:
    """Remove what killed processes left of writing `path`: its temporary files and folders.

    Those of running processes stay, on this machine; those of other machines go when they are a day old.

    Args:
        path: a file or folder that is written atomically; its last part may be a pattern ("cells/*").

    Returns:
        What was removed.
    """
    path = Path(path)
    removed = []
    for entry in path.parent.glob(".*.tmp"):
        owner = _TEMPORARY.fullmatch(entry.name)
        if owner is None or not (owner["name"] == path.name or fnmatch.fnmatchcase(owner["name"], path.name)):
            continue
        if _abandoned(entry, owner["host"], int(owner["process"])):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
            removed.append(entry)
    return removed


def follow_umask(path: str | Path) -> None:
    """Make what a library wrote, a file or a folder and all in it, as readable as anything new.

    safetensors writes files that only their owner can read.
    """
    path = Path(path)
    probe = temporary_beside(path)
    probe.touch(exist_ok=False)
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for entry in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if not entry.is_symlink():
            entry.chmod(mode | (mode & 0o444) >> 2 if entry.is_dir() else mode)  # who may read a folder may enter it


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity as `to_json` has them."""
    write_text(path, json.dumps(to_json(value), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The value that `write_json` stored.

    Raises:
        InputError: `path` is not JSON in UTF-8.
    """
    try:
        return from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except RecursionError:
        raise InputError(f"{path} is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path} is damaged: {shortened(error)}") from None


def to_json(value: Any) -> Any:
    """`value`, plain data, with infinity and NaN as {"non-finite": "inf"}, which no text can be mistaken for.

    Raises:
        InputError: a mapping has the key "non-finite" itself.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {NON_FINITE: repr(float(value))}
    if isinstance(value, Mapping):
        if NON_FINITE in value:
            raise InputError(f"the key {NON_FINITE!r} marks infinity and NaN in JSON and cannot be used: {value!r:.80}")
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`; tuples come back as lists.

    Raises:
        InputError: something else than "inf", "-inf" or "nan" is marked as not finite.
    """
    if isinstance(value, dict):
        if NON_FINITE in value:
            mark = value[NON_FINITE]
            if len(value) != 1 or mark not in ("inf", "-inf", "nan"):
                raise InputError(f"{NON_FINITE!r} marks inf, -inf or nan, alone in its object; got {value!r:.80}")
            return float(mark)
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return value


def _abandoned(entry: Path, host: str, process: int) -> bool:
    """Whether nobody writes to `entry` any more."""
    import psutil

    try:
        changed = entry.stat().st_mtime
    except FileNotFoundError:
        return False
    if time.time() - changed > _DAY:
        return True
    if host != _HOST:
        return False
    try:
        return psutil.Process(process).create_time() > changed + 1  # else the number was given to another process
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
