"""Labelled images for training and judging, out of an .npz file, a folder of pictures by class, or the zoo."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.reading import check_picture, reading
from hardy.runs.checkpoint import digest
from hardy.zoo import digits

NAMES = ("x_train", "y_train", "x_test", "y_test")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
TEST_SHARE = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images (count, channels, height, width) float32 and labels (count,), of training and of testing."""

    name: str
    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if x.ndim != 4 or len(x) == 0:
                raise InputError(f"x_{part} of {self.name} must be images (count, channels, height, width), got "
                                 f"{tuple(x.shape)}")  # fmt: skip
            if y.shape != (len(x),):
                raise InputError(f"y_{part} of {self.name} must hold {len(x)} labels, got {tuple(y.shape)}")
            checks.finite(f"x_{part} of {self.name}", x)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise InputError(f"{self.name}: images of training are {tuple(self.x_train.shape[1:])}, of testing "
                             f"{tuple(self.x_test.shape[1:])}")  # fmt: skip

    @property
    def digest(self) -> str:
        """Of all of it."""
        return digest([self.x_train, self.y_train, self.x_test, self.y_test])


def read_images(source: str | Path | None) -> Images:
    """The images in an .npz file or a folder; None for the zoo's handwritten digits.

    An .npz has `x_train, y_train, x_test, y_test`: bytes (count, height, width, channels), which are divided by 255, or
    floats (count, channels, height, width), which are taken as they are. A folder has one folder of pictures for each
    class, all of one size, from 0 to 1 in RGB; a fifth of each class, drawn once for all, is for testing.

    Raises:
        InputError: there is nothing, labels are missing, or something is damaged.
    """
    if source is None:
        return Images("scikit-learn's digits", **digits.digits())
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InputError(f"{path} is not there; --data takes an .npz or a folder of pictures by class")
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        missing = [name for name in NAMES if name not in stored]
        if missing:
            raise InputError(f"{path} lacks {', '.join(missing)}; it has {', '.join(stored) or 'nothing'}")
        parts = {name: stored[name] for name in NAMES}
    x = {name: _pixels(path, name, parts[name]) for name in ("x_train", "x_test")}
    return Images(str(path), **x, **{name: _labels(path, name, parts[name]) for name in ("y_train", "y_test")})


def _pixels(path: Path, name: str, values: Any) -> torch.Tensor:
    x = torch.from_numpy(np.ascontiguousarray(values))
    if x.dtype == torch.uint8:
        x = x[..., None] if x.ndim == 3 else x
        return x.movedim(-1, 1).float() / 255 if x.ndim == 4 else x.float()
    if not x.is_floating_point():
        raise InputError(f"{name} of {path} must be uint8 or floats, got {x.dtype}")
    return x.float()


def _labels(path: Path, name: str, values: Any) -> torch.Tensor:
    if not np.issubdtype(values.dtype, np.integer) or (values.size and values.min() < 0):
        raise InputError(f"{name} of {path} must be whole numbers from 0, got {values.dtype}")
    return torch.from_numpy(values.astype(np.int64))


def _folder(path: Path) -> Images:
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise InputError(f"{path} has no labels: put the pictures of each class into a folder of its own")
    train: list[tuple[torch.Tensor, int]] = []
    test: list[tuple[torch.Tensor, int]] = []
    size: tuple[int, ...] = ()
    for label, folder in enumerate(classes):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        if len(files) < 2:
            raise InputError(f"{folder} has {len(files)} pictures; a class takes two at least")
        order = torch.randperm(len(files), generator=generator(0, "test", folder.name)).tolist()
        held = set(order[: max(1, round(TEST_SHARE * len(files)))])
        for i, file in enumerate(files):
            with reading(file), Image.open(file) as picture:
                check_picture(picture)
                image = torch.from_numpy(np.array(picture.convert("RGB"))).movedim(-1, 0).float() / 255
            size = size or tuple(image.shape)
            if tuple(image.shape) != size:
                raise InputError(f"{file} is {tuple(image.shape[1:])}, others are {size[1:]}; bring them to one size")
            (test if i in held else train).append((image, label))

    def stacked(part: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([image for image, _ in part]), torch.tensor([label for _, label in part])

    return Images(str(path), *stacked(train), *stacked(test))
