"""Where the scripts of the gallery put their pictures."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hardy.report.figures import Figure as ReportFigure
from hardy.report.figures import save_png

FOLDER = Path(os.environ.get("HARDY_GALLERY", Path(__file__).parents[1] / "docs" / "images" / "gallery"))


def axes(width: float = 6.4, height: float = 3.6, columns: int = 1):
    """A figure and its axes, without the frame's upper and right line."""
    figure, found = plt.subplots(1, columns, figsize=(width, height), layout="constrained")
    for each in [found] if columns == 1 else found:
        each.spines[["top", "right"]].set_visible(False)
    return figure, found


def save(name: str, figure: Figure | ReportFigure) -> None:
    """Draw `figure` into NAME.png in the gallery's folder."""
    path = FOLDER / f"{name}.png"
    FOLDER.mkdir(parents=True, exist_ok=True)
    if isinstance(figure, Figure):
        figure.savefig(path, dpi=100)
    else:
        save_png(figure, path, dpi=90)
    print(path)
