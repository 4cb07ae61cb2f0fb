"""Frames to a file or a folder: GIF and animated PNG through Pillow, MP4 through ffmpeg where there is one."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from hardy import checks
from hardy.errors import InputError
from hardy.ffmpeg import program
from hardy.files import write_atomic

_PILLOW = {".gif": "GIF", ".png": "PNG", ".apng": "PNG"}


def save_film(frames: Iterator[np.ndarray], out: str | Path, fps: float = 24) -> None:
    """Write frames (height, width, 3) uint8, all of one size, as they come.

    Args:
        frames: at least one.
        out: a path that ends with .gif, .png or .apng (animated), .mp4, or a folder for one PNG each.
        fps: frames a second.

    Raises:
        InputError: the ending is another one, there is no ffmpeg for an MP4, or there are no frames.
    """
    out, ending = Path(out), Path(out).suffix.lower()
    fps = checks.number("fps", fps, above=0)
    check_film(out)
    first = next(frames, None)
    if first is None:
        raise InputError("a film needs at least one frame")
    if not ending:
        for i, frame in enumerate(itertools.chain([first], frames)):
            picture = Image.fromarray(frame)
            write_atomic(out / f"{i:04}.png", lambda path, made=picture: made.save(path, "PNG"))
    elif ending == ".mp4":
        write_atomic(out, lambda path: _mp4(itertools.chain([first], frames), first.shape[:2], path, fps))
    else:
        pictures = map(Image.fromarray, frames)
        rest = pictures if ending == ".gif" else list(pictures)  # PNG goes through them twice
        options = {"save_all": True, "append_images": rest, "duration": round(1000 / fps), "loop": 0}
        opening = Image.fromarray(first)
        write_atomic(out, lambda path: opening.save(path, _PILLOW[ending], **options))


def check_film(out: Path) -> None:
    """Raise InputError if no film can be written there."""
    ending = out.suffix.lower()
    if ending and not out.is_dir() and ending not in (*_PILLOW, ".mp4"):
        raise InputError(f"{out} must end with .gif, .png, .apng or .mp4, or be a folder")
    if ending == ".mp4" and program() is None:
        raise InputError(f"{out} needs ffmpeg, on the path or by pip install imageio-ffmpeg; .gif and .png do not")


def _mp4(frames: Iterator[np.ndarray], size: tuple[int, ...], path: Path, fps: float) -> None:
    height, width = size
    line = [str(program()), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    line += ["-r", f"{fps:g}", "-i", "-", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    line += ["-movflags", "+faststart", "-f", "mp4", str(path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            for frame in frames:
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass  # what ffmpeg says about it follows
        said = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode:
        raise InputError(f"ffmpeg could not write the film: {said.splitlines()[-1] if said else process.returncode}")
