"""A grid of pictures in a report: photos, renderings, maps of errors."""

import base64
import binascii
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hardy.checks import items, text, texts
from hardy.errors import InputError
from hardy.report.fields import store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PIXELS = 1 << 24
_DAMAGED = (binascii.Error, ValueError, OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures side by side; `Pictures.of` makes one from arrays.

    Args:
        title, caption: shown above and below.
        rows, columns: their names; the first row is drawn on top.
        images: (rows, columns), each a PNG file in base64.

    Raises:
        InputError: there are not as many pictures as rows and columns, or one is no PNG file.
    """

    title: str
    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    images: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for name in ("title", "caption"):
            text(name, getattr(self, name))
        rows, columns = texts("rows", self.rows), texts("columns", self.columns)
        images = tuple(texts("images", line) for line in items("images", self.images))
        if not rows or not columns or [len(line) for line in images] != [len(columns)] * len(rows):
            raise InputError(
                f"{self.title!r} needs a picture for each of its {len(rows)} rows and {len(columns)} columns "
                f"(at least 1 each), got {[len(line) for line in images]}"
            )
        store(self, rows=rows, columns=columns, images=images)
        for line in images:
            for image in line:
                _opened(image, self.title)

    @classmethod
    def of(
        cls, title: str, caption: str, rows: Sequence[str], columns: Sequence[str], arrays: Sequence[Sequence[Any]]
    ) -> "Pictures":
        """From arrays (height, width, 3), 0 to 1, by row and column."""
        images = tuple(tuple(_encoded(np.asarray(array)) for array in line) for line in arrays)
        return cls(title=title, caption=caption, rows=tuple(rows), columns=tuple(columns), images=images)

    def arrays(self) -> list[list[np.ndarray]]:
        """The pictures as (height, width, 3) bytes, by row and column."""
        return [[np.array(_opened(image, self.title).convert("RGB")) for image in line] for line in self.images]

    def size(self) -> tuple[float, float]:
        """Width and height that it is drawn at, in inches."""
        height, width = self.arrays()[0][0].shape[:2]
        each = min(2.6, 11 / len(self.columns))
        return 0.6 + each * len(self.columns), 0.4 + each * height / width * len(self.rows)

    def draw(self, axes: "Axes") -> None:
        """Draw everything but title and caption into matplotlib `axes`."""
        from hardy.report import drawing

        drawing.draw_pictures(self, axes)

    def data(self) -> tuple[tuple[str, ...], tuple[tuple[str | float | None, ...], ...]]:
        """The size of each picture, in pixels."""
        sizes = [[_opened(image, self.title).size for image in line] for line in self.images]
        lines = zip(self.rows, sizes, strict=True)
        return ("pixels", *self.columns), tuple(
            (name, *(f"{width} x {height}" for width, height in line)) for name, line in lines
        )


def _encoded(array: np.ndarray) -> str:
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InputError(f"a picture must have the shape (height, width, 3), got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError("a picture holds values that are not finite")
    file = io.BytesIO()
    Image.fromarray((array.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _opened(image: str, title: str) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(base64.b64decode(image, validate=True)), formats=["PNG"])
        if opened.width * opened.height > MOST_PIXELS:
            raise InputError(f"a picture of {title!r} has {opened.width} x {opened.height} pixels: too many for a page")
        opened.load()
    except _DAMAGED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"a picture of {title!r} is not a PNG file in base64: {str(error)[:80]}") from None
    return opened
