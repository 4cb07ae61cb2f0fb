"""Files that people have, as signals, and decoded samples as files: pictures, folders of frames, WAV."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardy.errors import InputError
from hardy.fields.container import Contents
from hardy.fields.signals import Signal, audio, image, sample_photo, video
from hardy.files import write_atomic

SAMPLES = ("china", "flower")
"""Names that stand for the photographs that scikit-learn brings along."""


def load_media(source: str | Path) -> tuple[Signal, Contents]:
    """A picture, a folder of frames, a WAV file, or one of `SAMPLES`.

    Raises:
        InputError: it is none of these, or cannot be read.
    """
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
        return signal, Contents(kind="audio", grids=(_grid(signal),), sample_bits=16, rate=wavfile.read(path)[0])
    signal = image(path)
    return signal, Contents(kind="image", grids=(_grid(signal),), sample_bits=_sample_bits(path))


def save_media(samples: np.ndarray, path: str | Path, contents: Contents) -> None:
    """Decoded samples (*grid, channels): a picture, frames into a folder, or a WAV file.

    Raises:
        InputError: the kind of file at `path` cannot hold them.
    """
    path = Path(path)
    if contents.kind == "video":
        for index, frame in enumerate(samples):
            _save_picture(frame, path / f"frame-{index:05}.png")
    elif contents.kind == "audio":
        from scipy.io import wavfile

        sound = (samples.astype(np.int32) - 2**15).astype(np.int16)
        if path.suffix.lower() not in (".wav", ".wave"):
            raise InputError(f"a sound is written to a .wav file, got {path}")
        write_atomic(path, lambda temporary: wavfile.write(temporary, contents.rate, sound))
    else:
        _save_picture(samples, path)


def _save_picture(samples: np.ndarray, path: Path) -> None:
    from PIL import Image

    channels = samples.shape[-1]
    if samples.dtype != np.uint8 and channels > 1:
        raise InputError(f"{path}: pictures of {channels} channels are written with 8 bits, not 16")
    kinds = Image.registered_extensions()
    if path.suffix.lower() not in kinds or kinds[path.suffix.lower()] not in Image.SAVE:
        raise InputError(f"{path}: pictures are written to .png and other formats that Pillow writes")
    picture = Image.fromarray(samples[..., 0] if channels == 1 else samples)
    form = kinds[path.suffix.lower()]
    try:
        write_atomic(path, lambda temporary: picture.save(temporary, format=form))
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
