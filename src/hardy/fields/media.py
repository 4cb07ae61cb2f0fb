"""Files that people have, as signals, and decoded samples as files: pictures, folders of frames, WAV."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from hardy.errors import InputError
from hardy.fields.container import Contents
from hardy.fields.high_range import light, logarithms, read_light, save_light
from hardy.fields.signals import Signal, audio, image, sample_photo, video
from hardy.files import write_atomic
from hardy.reading import reading

ANIMATED = (".gif", ".webp", ".apng")
"""Endings of films in one file."""
FILMS = ("GIF", "PNG", "WEBP", "AVIF")
SAMPLES = ("china", "flower")
"""Names that stand for the photographs that scikit-learn brings along."""


def load_media(source: str | Path, *, hdr: bool = False, normalize: bool = False) -> tuple[Signal, Contents]:
    """A picture, a folder of frames, a WAV file, or one of `SAMPLES`.

    Args:
        source: its file, or its name.
        hdr: it is a picture of high dynamic range, whose light is to be kept as logarithms (`high_range`). What is
            darker than 24 stops below the brightest is warned of.
        normalize: a sound is made as loud as it can be: networks then spend themselves on it and not on silence.

    Raises:
        InputError: it is none of these, or cannot be read.
    """
    if hdr:
        samples, stops, dark = logarithms(read_light(source))
        if dark:
            warnings.warn(
                f"{source}: {dark:.2%} of the light, zeros included, is raised to 2^{stops[0]}, the least that is kept",
                stacklevel=2,
            )
        signal = image(samples)
        return signal, Contents(kind="image", grids=(_grid(signal),), sample_bits=16, stops=stops)
    if source in SAMPLES:
        signal = sample_photo(str(source))
        return signal, Contents(kind="image", grids=(_grid(signal),))
    path = Path(source)
    if not path.exists():
        raise InputError(f"there is no {path}; known by name are {' and '.join(SAMPLES)}")
    if path.is_dir():
        signal = video(path)
        return signal, Contents(kind="video", grids=(_grid(signal),))
    if not path.stat().st_size:
        raise InputError(f"{path} is empty")
    if path.suffix.lower() in (".wav", ".wave"):
        from scipy.io import wavfile

        signal = audio(path)
        loudest = signal.values.abs().max().item()
        if normalize and loudest:
            signal = Signal.on_grid(signal.values / loudest)
        return signal, Contents(kind="audio", grids=(_grid(signal),), sample_bits=16, rate=wavfile.read(path)[0])
    if path.suffix.lower() in (".hdr", ".pfm", ".npy", ".exr"):
        raise InputError(f"{path} is of high dynamic range: --hdr keeps its light as logarithms")
    frames, rate, profile = _looked_at(path)
    if frames > 1:
        signal = video(path)
        return signal, Contents(kind="video", grids=(_grid(signal),), rate=rate)
    signal = image(path)
    return signal, Contents(kind="image", grids=(_grid(signal),), sample_bits=_sample_bits(path), profile=profile)


def _looked_at(path: Path) -> tuple[int, int, bytes]:
    """Frames of a picture, how many of them are shown in a second, and the profile of its colours.

    A profile of inks is none of the red, green and blue that they become, and is left out.
    """
    from PIL import Image

    with reading(path, "the picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the memory is asked for instead
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1 and opened.format not in FILMS:
                warnings.warn(f"{path} has {opened.n_frames} pages: the first is taken", stacklevel=3)
            frames, duration = getattr(opened, "n_frames", 1), opened.info.get("duration", 0)
            animated = frames > 1 and opened.format in FILMS  # the pages of a TIFF are no film
            profile = opened.info.get("icc_profile") or b""
            kept = profile if opened.mode in ("L", "LA", "P", "PA", "RGB", "RGBA") or opened.mode[0] == "I" else b""
            return frames if animated else 1, max(1, round(1000 / duration)) if duration else 0, kept


def save_media(samples: np.ndarray, path: str | Path, contents: Contents) -> None:
    """Decoded samples (*grid, channels): a picture, frames into a folder, or a WAV file.

    Raises:
        InputError: the kind of file at `path` cannot hold them.
    """
    path = Path(path)
    if contents.stops is not None:
        save_light(light(samples, contents.stops), path)
    elif contents.kind == "video" and path.suffix.lower() in ANIMATED:
        _save_animated(samples, path, contents.rate)
    elif contents.kind == "video":
        for index, frame in enumerate(samples):
            _save_picture(frame, path / f"frame-{index:05}.png")
    elif contents.kind == "audio":
        from scipy.io import wavfile

        sound = (samples.astype(np.int32) - 2**15).astype(np.int16)
        if path.suffix.lower() not in (".wav", ".wave"):
            raise InputError(f"a sound is written to a .wav file, got {path}")
        write_atomic(path, lambda temporary: wavfile.write(temporary, contents.rate, sound))
    else:
        _save_picture(samples, path, contents.profile)


def _save_animated(samples: np.ndarray, path: Path, rate: int) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in samples)
    duration = round(1000 / rate) if rate else 100
    form = Image.registered_extensions()[path.suffix.lower()]

    def write(temporary: Path) -> None:
        first.save(temporary, format=form, save_all=True, append_images=others, duration=duration, loop=0)

    write_atomic(path, write)


def _save_picture(samples: np.ndarray, path: Path, profile: bytes = b"") -> None:
    from PIL import Image

    channels = samples.shape[-1]
    if samples.dtype != np.uint8 and channels > 1:
        raise InputError(f"{path}: pictures of {channels} channels are written with 8 bits, not 16")
    kinds = Image.registered_extensions()
    if path.suffix.lower() not in kinds or kinds[path.suffix.lower()] not in Image.SAVE:
        raise InputError(f"{path}: pictures are written to .png and other formats that Pillow writes")
    picture = Image.fromarray(samples[..., 0] if channels == 1 else samples)
    form = kinds[path.suffix.lower()]
    colors = {"icc_profile": profile} if profile else {}
    try:
        write_atomic(path, lambda temporary: picture.save(temporary, format=form, **colors))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, not the format
        raise InputError(f"{path}: {form} cannot hold this picture ({error}); .png can") from None


def _sample_bits(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as opened:
        return 16 if opened.mode.startswith("I") else 8


def _grid(signal: Signal) -> tuple[int, ...]:
    assert signal.grid is not None
    return signal.grid
