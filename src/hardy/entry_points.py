"""What installed packages add to hardy: their entry points, looked up once until a folder of packages changes."""

import functools
import importlib.metadata
import os
import sys


def entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """The entry points of `group` of all installed packages.

    Reading those of every package takes tens of milliseconds, so they are kept until `sys.path` or one of its folders
    changes, as it does when a package is installed.
    """
    return _found(group, tuple((folder, _changed(folder)) for folder in sys.path))


@functools.lru_cache(maxsize=16)
def _found(group: str, _: tuple[tuple[str, int], ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=group))


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0
