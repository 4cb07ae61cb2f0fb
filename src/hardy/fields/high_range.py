"""Pictures of high dynamic range: floating-point light as logarithms, in 16-bit samples that latents or networks hold.

A sample is the logarithm to base 2 of the light, from the whole number below the least to the one above the largest, at
most 24 apart; errors and PSNR are those of the logarithms. Decoded samples are the same on every machine, the light
that `light` makes of them to the last bit of float32.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from hardy.errors import InputError, install
from hardy.files import write_atomic
from hardy.reading import check_room, reading

ENDINGS = (".hdr", ".pfm", ".npy", ".tif", ".tiff")
"""Files that are read and written: Radiance, portable float maps, NumPy, floating-point TIFF."""
MOST_STOPS = 24
_TOP = 2**16 - 1


def read_light(path: str | Path) -> np.ndarray:
    """(height, width, 1 or 3) float32, not negative.

    Raises:
        InputError: the file is of another kind, cannot be read, or holds something else.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: light of high range is read from {', '.join(ENDINGS)}")
    with reading(path, "the picture"):
        if path.suffix.lower() == ".npy":
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
            check_room(f"a picture of {stored.shape}", 8 * stored.size)
            found = np.asarray(stored)
        else:
            found = _opencv().imread(str(path), -1)  # as it is: IMREAD_UNCHANGED
            if found is None:
                raise InputError("OpenCV cannot read it")
            found = found[..., ::-1] if found.ndim == 3 else found
        found = found[..., None] if found.ndim == 2 else found
        if found.ndim != 3 or not found.size or found.shape[-1] not in (1, 3):
            raise InputError(f"it has the shape {found.shape}, not (height, width, 1 or 3)")
        if not np.issubdtype(found.dtype, np.floating):
            raise InputError(f"it holds {found.dtype}, no floating-point numbers: encode it without --hdr")
        if not np.isfinite(found).all() or found.min() < 0:
            raise InputError("light is finite and not below zero, and it holds other numbers")
        if not found.max() > 0:
            raise InputError("it is dark everywhere")
    return found.astype(np.float32)


def logarithms(light: np.ndarray) -> tuple[np.ndarray, tuple[int, int], float]:
    """Samples uint16 of light, the whole logarithms of the first and last of them, and the share of light too dark.

    Light below the first, zero too, becomes the first.
    """
    high = math.ceil(math.log2(float(light.max())))
    least = float(light[light > 0].min())
    low = min(high - 1, max(high - MOST_STOPS, math.floor(math.log2(least))))
    dark = float((light < 2.0**low).mean())
    found = (np.log2(np.maximum(light, 2.0**low).astype(np.float64)) - low) / (high - low)
    return np.round(found * _TOP).astype(np.uint16), (low, high), dark


def light(samples: np.ndarray, stops: tuple[int, int]) -> np.ndarray:
    """float32 light of samples uint16."""
    low, high = stops
    return np.exp2(low + samples.astype(np.float64) * ((high - low) / _TOP)).astype(np.float32)


def save_light(values: np.ndarray, path: str | Path) -> None:
    """Write (height, width, 1 or 3) float32 to a file of one of `ENDINGS`; Radiance files round to 8 bits.

    Raises:
        InputError: the file is of another kind.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise InputError(f"{path}: light of high range is written to {', '.join(ENDINGS)}")
    if kind == ".npy":
        write_atomic(path, lambda temporary: temporary.write_bytes(_npy(values)))
        return
    if kind == ".hdr" and values.shape[-1] == 1:
        values = values.repeat(3, -1)
    opencv = _opencv()
    # Without a word on compression OpenCV 4 rounds TIFF to 8 bits of logarithms and colours; 1 is none.
    options = [opencv.IMWRITE_TIFF_COMPRESSION, 1] if kind in (".tif", ".tiff") else []
    done, data = opencv.imencode(kind, np.ascontiguousarray(values[..., ::-1]), options)
    if not done:
        raise InputError(f"{path}: OpenCV cannot write it")
    write_atomic(path, lambda temporary: temporary.write_bytes(data.tobytes()))


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _opencv() -> Any:
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"pictures of high range other than .npy need OpenCV: {install('splat')}") from None
    return cv2
