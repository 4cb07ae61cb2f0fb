"""Files of photos, and the cameras that took them, before they are read."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from hardy.errors import InputError
from hardy.reading import below, check_picture, reading

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".heic", ".heif")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PosedImage:
    """A photo's file and camera, as a scene's files list them.

    Args:
        file: of the photo.
        name: it goes by.
        viewmat: (4, 4), world to camera.
        K: (3, 3).
        width, height: of the camera; 0 for those of the photo, whose centre then is the middle.
        distortion: k1, k2, k3, p1, p2, and k4, if any.
        mask: its file, if the scene's files name one.
        part: "train", "val" or "test", if the scene's files say so; "" if there are lists and it is in none.
    """

    file: Path
    name: str
    viewmat: np.ndarray
    K: np.ndarray
    width: int
    height: int
    distortion: tuple[float, ...] = (0.0,) * 5
    mask: Path | None = None
    part: str | None = None


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
    """Width and height as the photo is stored, without reading the pixels.

    Raises:
        InputError: it is no image.
    """
    return _read(file, lambda image: image.size)


def read_photo(file: Path, background: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The photo, (height, width, 3) float32 from 0 to 1.

    What is transparent shows the background. A photo that its camera held sideways (EXIF) is turned, unless only the
    unturned one has the proportions of `size`, width and height of the camera. 16 bits keep their precision.

    Raises:
        InputError: it is no image.
    """

    def look(image: Image.Image) -> np.ndarray:
        turned = ImageOps.exif_transpose(image)
        image = turned if _fits(turned.size, size) or not _fits(image.size, size) else image
        if image.mode.startswith(("I", "F")):
            return np.repeat(_gray(image, file)[..., None], 3, 2)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
            alpha = pixels[..., 3:]
            return pixels[..., :3] * alpha + np.array(background, dtype=np.float32) * (1 - alpha)
        return np.asarray(image.convert("RGB"), dtype=np.float32) / 255

    return _read(file, look)


def read_mask(file: Path) -> np.ndarray:
    """(height, width) bool, where an image is lighter than half; of one with colors none of which differ, its alpha.

    Raises:
        InputError: it is no image.
    """

    def look(image: Image.Image) -> np.ndarray:
        if image.mode.startswith(("I", "F")):
            return _gray(image, file) > 0.5
        if image.mode in ("RGBA", "LA"):
            gray, alpha = (np.asarray(band) for band in (image.convert("L"), image.getchannel("A")))
            return (alpha if gray.min() == gray.max() else gray) > 127
        return np.asarray(image.convert("L")) > 127

    return _read(file, look)


def _gray(image: Image.Image, file: Path) -> np.ndarray:
    values = np.asarray(image, dtype=np.float32)
    most = 1.0 if image.mode.startswith("F") else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > most:
        raise InputError(f"{file} has values from {values.min():g} to {values.max():g}, where 0 to {most:g} are due")
    return values / most


def _fits(size: tuple[int, int], camera: tuple[int, int]) -> bool:
    """Whether a photo has the proportions of its camera, up to rounding."""
    return min(camera) < 1 or abs(camera[0] * size[1] / camera[1] - size[0]) <= 1.5


def _read(file: Path, look: Callable[[Image.Image], Any]) -> Any:
    if file.suffix.lower() in (".heic", ".heif") and ".heic" not in Image.registered_extensions():
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            raise InputError(
                f"{file} is a HEIC photo: pip install pillow-heif reads them, or convert them to JPEG"
            ) from None
    with reading(file, "the image"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the memory is asked for instead
        with Image.open(file) as image:
            check_picture(image)
            return look(image)
