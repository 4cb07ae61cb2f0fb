"""Signals to fit: images, video, sound and distances as values in [-1, 1] at coordinates in [-1, 1]^d.

Samples of a grid stand at the centres of its cells: the i-th of n along an axis at (2 i + 1) / n - 1. So a field that
was fitted on one grid can be rendered on a finer one without a shift, which `linspace(-1, 1, n)` would cause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardy import checks
from hardy.errors import InputError, near_misses
from hardy.evaluate import psnr
from hardy.reading import check_picture, reading

PEAK = 2.0
"""Of values in [-1, 1]."""


def grid_coordinates(grid: Sequence[int]) -> torch.Tensor:
    """The centres of the cells of a grid over [-1, 1]^d, (points, d) float32, the last axis fastest.

    Raises:
        InputError: a size is not a positive integer, or there is none.
    """
    if not grid or any(type(size) is not int or size < 1 for size in grid):
        raise InputError(f"a grid is one or more positive integers, got {grid!r}")
    # In float64 first: the nearest float32 to each centre, whatever n.
    axes = [((2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1).float() for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(grid))


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """Values at coordinates.

    Args:
        coordinates: (points, d), in [-1, 1].
        values: (points, channels), in [-1, 1].
        grid: the d sizes of the grid whose cells the points are, the last axis fastest; None for scattered points.

    Raises:
        InputError: shapes do not fit, or there are values outside [-1, 1], NaN or infinities.
    """

    coordinates: torch.Tensor
    values: torch.Tensor
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("coordinates", "values"):
            tensor = getattr(self, name)
            if tensor.ndim != 2 or not tensor.numel():
                raise InputError(f"{name} of a signal must be (points, n) and not empty, got {tuple(tensor.shape)}")
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise InputError(f"{name} of a signal must be finite floating-point numbers ({tensor.dtype} given)")
            if tensor.abs().max() > 1:
                raise InputError(
                    f"{name} of a signal must be in [-1, 1], got {tensor.min().item():.4g} to "
                    f"{tensor.max().item():.4g}{_remedy(tensor)}"
                )
        if len(self.coordinates) != len(self.values):
            raise InputError(f"{len(self.coordinates)} coordinates for {len(self.values)} values of a signal")
        if self.grid is not None and (len(self.grid), math.prod(self.grid)) != self.coordinates.T.shape:
            raise InputError(f"grid {self.grid} does not fit coordinates of shape {tuple(self.coordinates.shape)}")

    @classmethod
    def on_grid(cls, values: torch.Tensor) -> Signal:
        """The signal with `values` (*grid, channels) in [-1, 1] at the centres of the grid's cells.

        Raises:
            InputError: there is no grid, the channels come first, or as `Signal`.
        """
        if values.ndim < 2:
            raise InputError(f"values on a grid are (*grid, channels), got shape {tuple(values.shape)}")
        if values.ndim == 3 and _channels_first(values.shape):
            raise InputError(f"values on a grid are (*grid, channels), got shape {tuple(values.shape)}{_PERMUTE}")
        grid = tuple(values.shape[:-1])
        return cls(grid_coordinates(grid), values.float().reshape(-1, values.shape[-1]), grid)

    def arranged(self, values: torch.Tensor | None = None) -> torch.Tensor:
        """`values` (points, channels), by default the signal's own, as (*grid, channels).

        Raises:
            InputError: the signal has no grid.
        """
        if self.grid is None:
            raise InputError("a signal of scattered points has no grid to arrange values on")
        values = self.values if values is None else values
        return values.reshape(*self.grid, values.shape[-1])

    def psnr(self, estimate: torch.Tensor) -> float:
        """The peak signal-to-noise ratio in dB of `estimate` (points, channels), clipped to [-1, 1]."""
        return psnr(estimate.detach().clamp(-1, 1), self.values, PEAK)


def image(source: str | Path | np.ndarray | torch.Tensor | Any, size: int | tuple[int, int] | None = None) -> Signal:
    """A picture as a signal of two coordinates, row and column, with 1 to 4 channels.

    Args:
        source: a file that Pillow reads, a Pillow image, or an array (height, width) or (height, width, channels) of
            uint8, uint16, or floats in [0, 1].
        size: the central square of this many pixels, or (height, width), is cut out.

    Raises:
        InputError: no such picture, or it is smaller than `size`.
    """
    return Signal.on_grid(_centre(torch.from_numpy(_pixels(source)), size) * 2 - 1)


def sample_photo(name: str = "china", size: int | tuple[int, int] | None = None) -> Signal:
    """One of the two photographs that scikit-learn brings along: "china" or "flower", 427 x 640."""
    from sklearn.datasets import load_sample_image

    known = ("china", "flower")
    if name not in known:
        raise InputError(f"sample photo must be china or flower, got {name!r}{near_misses(str(name), known)}")
    return image(load_sample_image(f"{name}.jpg"), size)


def video(source: str | Path | Sequence[Any] | np.ndarray, size: int | tuple[int, int] | None = None) -> Signal:
    """A video as a signal of three coordinates: frame, row, column.

    Args:
        source: a folder of pictures (frames in the order of their names), an animated picture that Pillow reads, or
            frames, each as in `image`.
        size: as in `image`.

    Raises:
        InputError: there are no frames, or they differ in shape.
    """
    named = reading(source, "the video") if isinstance(source, str | Path) else contextlib.nullcontext()
    with named:
        frames = [torch.from_numpy(_pixels(frame)) for frame in _frames(source)]
        if not frames:
            raise InputError(f"no frames in {source!r:.80}")
        if len(shapes := {tuple(frame.shape) for frame in frames}) > 1:
            raise InputError(f"frames of a video must have one shape, got {sorted(shapes)[:3]}")
    return Signal.on_grid(torch.stack([_centre(frame, size) for frame in frames]) * 2 - 1)


def audio(source: str | Path | np.ndarray, samples: int | None = None) -> Signal:
    """A sound as a signal of one coordinate with a channel per track.

    Args:
        source: a WAV file, or an array (samples,) or (samples, tracks) of int16, int32, uint8 or floats in [-1, 1].
        samples: only so many from the beginning.

    Raises:
        InputError: no such sound, or floats outside [-1, 1].
    """
    if isinstance(source, str | Path):
        from scipy.io import wavfile

        with reading(source, "the sound"), warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that say something else
            return audio(wavfile.read(source)[1], samples=samples)
    sound = np.asarray(source)
    if sound.ndim not in (1, 2) or not sound.size:
        raise InputError(f"a sound is (samples,) or (samples, tracks), got shape {sound.shape}")
    if samples is not None and (type(samples) is not int or not 1 <= samples <= len(sound)):
        raise InputError(f"samples must be an integer from 1 to {len(sound)}, got {samples!r}")
    sound = sound[:samples]
    if sound.dtype == np.uint8:  # the one unsigned format of WAV
        waves = (sound.astype(np.float32) - 128) / 128
    elif np.issubdtype(sound.dtype, np.signedinteger):
        waves = (sound / -float(np.iinfo(sound.dtype).min)).astype(np.float32)
    elif np.issubdtype(sound.dtype, np.floating):
        waves = sound.astype(np.float32)
    else:
        raise InputError(f"samples of a sound must be integers or floats, got {sound.dtype}")
    return Signal.on_grid(torch.from_numpy(waves.reshape(len(waves), -1)))


def distance(function: Callable[[torch.Tensor], torch.Tensor], grid: Sequence[int], truncation: float = 0.1) -> Signal:
    """A signed distance function, sampled on a grid and cut off at `truncation`, in units of `truncation`.

    Args:
        function: distances (points,) of coordinates (points, d) in [-1, 1]^d, negative inside.
        grid: sizes of the d axes.
        truncation: distances beyond it are not told apart, so that the field spends itself near the surface.

    Raises:
        InputError: the function does not give one distance per point, or `truncation` is not above zero.
    """
    truncation = checks.number("truncation", truncation, above=0)
    points = grid_coordinates(grid)
    distances = function(points)
    if distances.shape != (len(points),):
        raise InputError(f"a distance for each of {len(points)} points is wanted, got {tuple(distances.shape)}")
    return Signal(points, (distances.float() / truncation).clamp(-1, 1)[:, None], tuple(grid))


def _pixels(source: Any) -> np.ndarray:
    """(height, width, channels) float32 in [0, 1]."""
    from PIL import Image, ImageOps

    if isinstance(source, str | Path):
        with reading(source, "the picture"), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the memory is asked for instead
            with Image.open(source) as opened:
                check_picture(opened)
                _check_depth(opened)
                return _pixels(ImageOps.exif_transpose(opened))
    if isinstance(source, Image.Image):
        source = np.asarray(_plain(source))
    pixels = np.asarray(source)
    pixels = pixels.astype(pixels.dtype.newbyteorder("=")) if pixels.dtype.kind == "u" else pixels
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or not pixels.size or pixels.shape[-1] > 4:
        remedy = _PERMUTE if pixels.ndim == 3 and _channels_first(pixels.shape) else ""
        raise InputError(
            f"a picture is (height, width) or (height, width, 1 to 4 channels), got {pixels.shape}{remedy}"
        )
    if pixels.dtype in (np.uint8, np.uint16):
        return (pixels / np.iinfo(pixels.dtype).max).astype(np.float32)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"pixels must be uint8, uint16 or floats in [0, 1], got {pixels.dtype}")
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"floating-point pixels must be in [0, 1], got {pixels.min():.4g} to {pixels.max():.4g}"
            f"{'; divide by 255' if pixels.min() >= 0 and 1 < pixels.max() <= 255 else ''}"
        )
    return pixels.astype(np.float32)


_PERMUTE = "; channels come last: permute(1, 2, 0)"


def _channels_first(shape: Sequence[int]) -> bool:
    """Whether it is the shape of a picture as networks take it, (channels, height, width)."""
    return shape[0] in (1, 3, 4) and min(shape[1:]) > 4


def _remedy(values: torch.Tensor) -> str:
    low, high = values.min(), values.max()
    return "; pixels of 0 to 255 are x / 127.5 - 1, or hardy.fields.image(x)" if low >= 0 and 1 < high <= 255 else ""


def _plain(picture: Any) -> Any:
    """A Pillow image of one of the modes whose numbers are grey, grey and alpha, RGB, or RGB and alpha."""
    if picture.mode == "I":  # 32 bits that hold 16
        whole = np.asarray(picture)
        if whole.min() < 0 or whole.max() > 65535:
            raise InputError(f"a picture of integers must hold 0 to 65535, got {whole.min()} to {whole.max()}")
        return whole.astype(np.uint16)
    if picture.mode in ("1", "L", "LA", "RGB", "RGBA", "F") or picture.mode.startswith("I;16"):
        return picture
    transparent = "transparency" in picture.info or picture.mode in ("PA", "RGBa", "La")
    return picture.convert("RGBA" if transparent else "RGB")


def _frames(source: Any) -> list[Any]:
    from PIL import Image, ImageSequence

    if not isinstance(source, str | Path):
        return list(source)
    path = Path(source)
    if path.is_dir():
        kinds = Image.registered_extensions()
        return sorted(file for file in path.iterdir() if file.suffix.lower() in kinds)
    with reading(path, "the video"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as opened:
            _check_depth(opened)
            count, frames = getattr(opened, "n_frames", 1), []
            for frame in ImageSequence.Iterator(opened):
                check_picture(frame, count)  # each: a later one may be larger
                frames.append(frame.convert("RGB"))
            return frames


def _check_depth(picture: Any) -> None:
    """Refuse a file whose samples Pillow would cut to 8 bits: it reads 16 bits of one channel only."""
    raw = [str(tile[3]) for tile in getattr(picture, "tile", ())]
    if not picture.mode.startswith("I") and any(";16" in arguments for arguments in raw):
        raise InputError(
            f"a picture of 16 bits in {len(picture.getbands())} channels would lose half of them, as Pillow reads it: "
            "save it with 8 bits, or pass its pixels as an array of uint16"
        )


def _centre(pixels: torch.Tensor, size: int | tuple[int, int] | None) -> torch.Tensor:
    if size is None:
        return pixels
    wanted = (size, size) if isinstance(size, int) else tuple(size)
    height, width = pixels.shape[:2]
    if len(wanted) != 2 or not (1 <= wanted[0] <= height and 1 <= wanted[1] <= width):
        raise InputError(f"size must be positive and at most {height} x {width}, got {size!r}")
    top, left = (height - wanted[0]) // 2, (width - wanted[1]) // 2
    return pixels[top : top + wanted[0], left : left + wanted[1]]
