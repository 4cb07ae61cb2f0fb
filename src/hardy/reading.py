"""What every reader of files shares: one guard, names that stay below a folder, and room asked for before it is taken.

A reader is the boundary where bytes of unknown origin become values. Whatever goes wrong behind it is the file's fault,
and the caller hears one line that names the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import psutil

from hardy.errors import InputError, shortened

MEMORY = "HARDY_MEMORY_GB"
"""Environment variable: so many GB may be taken, whatever the system says is free."""
_BYTES_PER_PIXEL = 40  # on its way to a signal or a photo: pixels, floats and coordinates, with their copies
_SPARE = 0.9  # of what is free; the rest is for everything else
_CGROUPS = (  # (limit, use, statistics, the statistic that counts what can be given back), version 2 and version 1
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


@contextlib.contextmanager
def reading(path: str | Path, what: str = "") -> Iterator[None]:
    """The guard of a reader: whatever goes wrong inside becomes an `InputError` of one line that names `path`.

    An `InputError` that names the file already stays as it is; another gets the name in front of it. A memory that does
    not suffice and an interrupt are not the file's fault and stay what they are.

    Args:
        path: of the file.
        what: it is, for the message: "the chip".
    """
    name = f"{what} {path}".strip()
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{name}: {error}") from None
    except OSError as error:
        reason = error.strerror or shortened(error) or type(error).__name__
        raise InputError(f"cannot read {name}: {reason}") from None
    except RecursionError:
        raise InputError(f"{name} is damaged: it is nested too deeply") from None
    except MemoryError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"{name} is damaged: it is not UTF-8 text") from None
    except KeyError as error:
        raise InputError(f"{name} is damaged: it lacks {shortened(error)}") from error
    except Exception as error:  # bytes go wrong in as many ways as there are libraries behind a reader
        raise InputError(f"{name} is damaged: {shortened(error) or type(error).__name__}") from error


def below(folder: str | Path, name: str, whose: str | Path) -> Path:
    """The file `name` below `folder`, for names that come from a file.

    Only the name is judged: a symbolic link in the folder is the work of whoever made the folder.

    Args:
        folder: where it lies.
        name: relative, as POSIX or Windows writes it.
        whose: the file that names it, for the message.

    Raises:
        InputError: the name is empty, absolute, leads out of the folder by `..`, or is none (NUL).
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{whose} names the file {shortened(repr(name))}, which is no name")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts):
        raise InputError(f"{whose} names the file {shortened(name)}, which lies outside {folder}")
    return Path(folder) / name


def available_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may still be taken: of the machine, or of the container if that has less."""
    free = psutil.virtual_memory().available
    for limit, use, statistics, given_back in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            most, used = (int((cgroup / name).read_text()) for name in (limit, use))
            facts = dict(line.split() for line in (cgroup / statistics).read_text().splitlines())
            free = min(free, max(0, most - used + int(facts.get(given_back, 0))))
    return free


def memory_budget() -> int:
    """Bytes that may be taken: nine tenths of what is free, or what the environment variable HARDY_MEMORY_GB says.

    Raises:
        InputError: the variable is set, and no number above zero.
    """
    said = os.environ.get(MEMORY, "").strip()
    if not said:
        return int(_SPARE * available_memory())
    try:
        budget = float(said) * 1e9
    except ValueError:
        budget = 0.0
    if not 0 < budget < float("inf"):
        raise InputError(f"{MEMORY} must be a number of GB above zero, got {shortened(repr(said))}")
    return int(budget)


def check_room(what: str, needed: int, hint: str = "") -> None:
    """Refuse what would take more memory than there is, before any of it is taken.

    Args:
        what: would be made, with its size: "a picture of 32768 x 32768".
        needed: bytes, about.
        hint: what would take less.

    Raises:
        InputError: it does not fit; the message says what raises the limit.
    """
    budget = memory_budget()
    if needed > budget:
        hint = f"; {hint}" if hint else ""
        raise InputError(
            f"{what} takes about {_gigabytes(needed)}, and {_gigabytes(budget)} may be taken{hint} ({MEMORY} says "
            "otherwise)"
        )


def most_points(stored: int) -> int:
    """Pixels or samples that a file of `stored` bytes may declare: 2^14 for each byte, and 2^22 at least."""
    return max(1 << 22, stored << 14)


def check_picture(picture: Any, frames: int = 1) -> None:
    """Refuse a picture that Pillow has opened, before its pixels are unpacked: what a file of its size cannot mean, and
    what the memory does not hold.

    Args:
        picture: of `PIL.Image.open`.
        frames: that will be held at once.

    Raises:
        InputError: so it is. HARDY_MEMORY_GB allows both, where it is set.
    """
    (width, height), file = picture.size, Path(picture.filename or "")
    what = f"a picture of {width} x {height}" + (f" with {frames} frames" if frames > 1 else "")
    if file.is_file() and MEMORY not in os.environ:
        stored = file.stat().st_size
        if width * height * frames > most_points(stored):
            raise InputError(f"{stored} bytes declare {what}: it is damaged, or a trap ({MEMORY} says otherwise)")
    check_room(what, _BYTES_PER_PIXEL * width * height * frames)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 10**15 else f"{count:.1e} bytes"
