"""Frames of a video, read one by one: a folder of pictures, a GIF or animated PNG, or a film through ffmpeg."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence

from hardy.errors import InputError
from hardy.ffmpeg import program
from hardy.reading import check_picture, reading

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
ANIMATED = (".gif", ".apng", ".png", ".webp")
RGBD = (".color.jpg", ".color.png", ".rgb.jpg", ".rgb.png")
"""Where a folder has such names, its other pictures are depths."""
FILMS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


class Frames:
    """The frames of a video, none of which is held.

    Args:
        source: a folder of pictures, in the order of their names with numbers as numbers; or one file.
        stride: of so many frames one is read.
        limit: at most so many are.

    Attributes:
        count: how many there are, where that is known without reading them.
        left_out: files of the folder that are no pictures.

    Raises:
        InputError: there is nothing, no picture in the folder, or no ffmpeg for a film.
    """

    def __init__(self, source: str | Path, *, stride: int = 1, limit: int | None = None) -> None:
        self.source, self.stride, self.limit = Path(source), stride, limit
        self.files: list[Path] = []
        self.left_out = 0
        self.count: int | None = None
        if self.source.is_dir():
            everything = sorted((f for f in self.source.iterdir() if f.is_file()), key=_with_numbers)
            pictures = [file for file in everything if file.suffix.lower() in PICTURES]
            for colors in RGBD:
                pictures = [file for file in pictures if file.name.lower().endswith(colors)] or pictures
            if not pictures:
                raise InputError(f"{self.source} has no pictures ({', '.join(PICTURES)})")
            self.left_out = len(everything) - len(pictures)
            self.files = pictures[::stride][:limit]
            self.count = len(self.files)
        elif not self.source.is_file():
            raise InputError(f"there is no {self.source}; frames are a folder of pictures or a video file")
        elif self.source.suffix.lower() not in (*ANIMATED, *FILMS):
            raise InputError(
                f"{self.source} is no video: {', '.join((*ANIMATED, *FILMS))}, or a folder of pictures, are"
            )
        elif self.source.suffix.lower() in FILMS and program() is None:
            raise InputError(
                f"{self.source} needs ffmpeg, on the path or by pip install imageio-ffmpeg; a folder of pictures does"
                " not"
            )

    def read(self, first: int = 0) -> Iterator[np.ndarray]:
        """Frames (height, width, 3) uint8 from number `first` on.

        Raises:
            InputError: a frame cannot be read.
        """
        if self.files:
            for file in self.files[first:]:
                with reading(file, "the frame"), Image.open(file) as image:
                    check_picture(image)
                    pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
                yield pixels
            return
        every = self._film() if self.source.suffix.lower() in FILMS else self._animated()
        for number, pixels in enumerate(every):
            chosen, rest = divmod(number, self.stride)
            if self.limit is not None and chosen >= self.limit:
                return
            if not rest and chosen >= first:
                yield pixels

    def _animated(self) -> Iterator[np.ndarray]:
        with reading(self.source, "the video"), Image.open(self.source) as image:
            for frame in ImageSequence.Iterator(image):
                check_picture(frame)  # each: a later one may be larger
                yield np.asarray(frame.convert("RGB"))

    def _film(self) -> Iterator[np.ndarray]:
        line = [str(program()), "-v", "error", "-nostdin", "-i", str(self.source)]
        probe = subprocess.run(
            [*line, "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"], capture_output=True, check=False
        )
        header = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", probe.stdout)
        if header is None:
            raise InputError(f"ffmpeg cannot read {self.source}: {_last(probe.stderr) or 'it has no picture'}")
        width, height = int(header[1]), int(header[2])
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [*line, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], stdout=subprocess.PIPE, stderr=said
            )
            assert process.stdout is not None
            try:
                while len(data := process.stdout.read(3 * width * height)) == 3 * width * height:
                    yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
                process.stdout.close()
                if process.wait():
                    said.seek(0)
                    raise InputError(f"ffmpeg stopped in {self.source}: {_last(said.read()) or process.returncode}")
            finally:
                process.kill()
                process.wait()


def fitted(height: int, width: int, long_side: int, patch: int) -> tuple[int, int]:
    """Height and width of a frame for a model: the long side `long_side`, both rounded down to multiples of `patch`."""
    scale = long_side / max(height, width)
    sides = [max(patch, round(side * scale) // patch * patch) for side in (height, width)]
    return sides[0], sides[1]


def as_tensor(pixels: np.ndarray, height: int, width: int) -> torch.Tensor:
    """(3, height, width) from 0 to 1, of a frame (any height, any width, 3) uint8."""
    picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _with_numbers(file: Path) -> list[tuple[int, int, str]]:
    """For sorting: frame 9 before frame 10."""
    parts = re.split(r"(\d+)", file.name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _last(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
