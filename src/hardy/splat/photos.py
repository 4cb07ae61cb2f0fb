"""Files of photos, and the cameras that took them, before they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from hardy.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PosedImage:
    """A photo's file and camera, as a scene's files list them; `distortion` is k1, k2, k3, p1, p2."""

    file: Path
    name: str
    viewmat: np.ndarray
    K: np.ndarray
    width: int
    height: int
    distortion: tuple[float, ...] = (0.0,) * 5


def photo_size(file: Path) -> tuple[int, int]:
    """Width and height, without reading the pixels.

    Raises:
        InputError: it is no image.
    """
    return _read(file, lambda image: image.size)


def read_pixels(file: Path, mode: str) -> np.ndarray:
    """The pixels in a mode of Pillow, uint8: (height, width, 3) for "RGB", (height, width) for "L".

    Raises:
        InputError: it is no image.
    """
    return _read(file, lambda image: np.array(image.convert(mode)))


def _read(file: Path, look: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(file) as image:
            return look(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is not a readable image: {error}") from None
