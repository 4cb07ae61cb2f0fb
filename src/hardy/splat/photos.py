"""Files of photos, and the cameras that took them, before they are read."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardy.errors import InputError
from hardy.reading import below, reading

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


def photo_in(folder: Path, name: str, whose: Path, outside: bool) -> Path:
    """The file that a scene's files call `name`.

    Raises:
        InputError: it lies outside `folder`, and `outside` does not allow that; the message says what does.
    """
    if outside:
        return folder / name
    try:
        return below(folder, name, whose)
    except InputError as error:
        raise InputError(f"{error}; outside=True (--outside) reads it nevertheless") from None


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
    with reading(file, "the image"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the memory is asked for instead
        with Image.open(file) as image:
            return look(image)
