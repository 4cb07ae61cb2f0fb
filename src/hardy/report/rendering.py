"""Turns the figures of a report into files: PNG, and SVG that can stand inside an HTML page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text

from hardy.errors import printable
from hardy.files import write_atomic
from hardy.report.drawing import CONTROL, GRID, INK, PALETTE, PAPER

if TYPE_CHECKING:
    from hardy.report.figures import Figure

# In SVG these become CSS variables, so that a page may give them other values when it is dark.
VARIABLES = {
    INK: "--ink", GRID: "--grid", CONTROL: "--control", PAPER: "--paper",
    **{color: f"--series-{i + 1}" for i, color in enumerate(PALETTE)},
}  # fmt: skip

_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
    "font.size": 9.5,
    "text.parse_math": False,  # "$" in a name is a dollar
    "text.color": INK,
    "axes.edgecolor": CONTROL,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": CONTROL,
    "ytick.color": CONTROL,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.hashsalt": "hardy",
    "image.composite_image": False,
}


def save_png(figure: Figure, path: Path, dpi: int) -> Path:
    """Draw `figure` with its title into the PNG file `path`."""
    with _drawn(figure) as canvas:
        # Over the whole picture, so that it stands above the legend.
        canvas.suptitle(printable(figure.title), x=0.02, ha="left", fontsize=10.5, fontweight="bold", wrap=True)
        options = {"format": "png", "dpi": dpi, "facecolor": PAPER, "metadata": {"Software": None}}
        write_atomic(path, lambda temporary: canvas.savefig(temporary, **options))
    return path


def to_svg(figure: Figure, prefix: str) -> str:
    """`figure` as an `<svg>` element for an HTML page.

    Every id begins with `prefix`, colours are CSS variables (`VARIABLES`) with the printed colour to fall back on,
    and nothing outside the element is referred to. The same figure gives the same text.
    """
    buffer = io.StringIO()
    with _drawn(figure) as canvas, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from ", UserWarning)
        # Letters as shapes look the same everywhere; only what our font lacks is left to the fonts of the reader.
        glyphs = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
        letters = {ord(letter) for text in canvas.findobj(Text) for letter in text.get_text()}
        with matplotlib.rc_context({"svg.fonttype": "path" if letters <= glyphs.keys() | {10} else "none"}):
            canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return _embeddable(buffer.getvalue(), prefix, f"{printable(figure.title)}. {printable(figure.caption)}")


@contextmanager
def _drawn(figure: Figure) -> Iterator[Canvas]:
    """A matplotlib figure with `figure` drawn, in our style whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for key, value in _STYLE.items():
            matplotlib.rcParams[key] = value
        canvas = Canvas(figsize=figure.size(), layout="constrained")
        figure.draw(canvas.subplots())
        yield canvas


def _embeddable(svg: str, prefix: str, label: str) -> str:
    """matplotlib's SVG file as an element: own ids, no namespaces, comments, metadata, style sheet or fixed size."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            name = key.rpartition("}")[2]
            del element.attrib[key]
            if name == "id":
                value = prefix + value
            elif name == "href" and value.startswith("#"):
                value = f"#{prefix}{value[1:]}"
            elif name == "style":
                value = re.sub(r"#[0-9a-f]{6}\b", lambda hit: _variable(hit[0]), value)
            element.set(name, re.sub(r"url\(#", f"url(#{prefix}", value))
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(child)
    view = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": view, "role": "img", "aria-label": label, "stroke-linejoin": "round"})
    return ElementTree.tostring(root, encoding="unicode")


def _variable(color: str) -> str:
    return f"var({VARIABLES[color]}, {color})" if color in VARIABLES else color
