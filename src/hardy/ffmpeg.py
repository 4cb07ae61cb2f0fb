"""The program ffmpeg, which reads and writes films, where there is one."""

from __future__ import annotations

import importlib
import shutil


def program() -> str | None:
    """Where it is: on the path, or inside of the package imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        return importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None
