"""Draws the figures of a report into matplotlib axes.

Imported only where something is drawn, since importing matplotlib takes longer than most reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib import colors, patheffects, ticker
from matplotlib.axes import Axes

from hardy.errors import printable
from hardy.report.display import format_number, legend_shape

if TYPE_CHECKING:
    from hardy.report.figures import Bars, BarSeries, HeatMap, Lines, Series
    from hardy.report.pictures import Pictures

INK, GRID, CONTROL, PAPER = "#24292f", "#d8dee4", "#6e7781", "#ffffff"
# Okabe and Ito's colours, which colour-blind readers tell apart; their yellow is too pale for a line on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INFINITE = "#c2410c"  # in no page's colours, so that what is written on it stays legible
MARKERS = "osD^vP"
LARGEST, SMALLEST = 1e100, 1e-100
"""Beyond these sizes values are marked at the edge like infinity: the arithmetic of an axis overflows near 1e300."""
DASHES = ((4, 2), (1, 1.5), (6, 2, 1, 2))


@dataclass(frozen=True)
class _Scale:
    """Where values go on the y axis: those it cannot show sit near its edges and get a mark."""

    low: float
    high: float
    log: bool

    @classmethod
    def around(cls, values: Sequence[float], log: bool) -> _Scale:
        """Limits for the drawable ones of `values`, with room at the top for a mark if others are too large."""
        fit = [v for v in values if abs(v) <= LARGEST and (v >= SMALLEST or not log)]
        shown = fit or ([1.0, 10.0] if log else [0.0, 1.0])
        low, high = min(shown), max(shown)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) or (0.3 if log else abs(high) or 1.0)
        low, high = low - 0.06 * room, high + (0.25 if any(v > LARGEST for v in values) else 0.06) * room
        return cls(10**low, 10**high, log) if log else cls(low, high, log)

    def at(self, share: float) -> float:
        """The value at `share` of the axis' height."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return 10 ** (low + share * (high - low))
        return self.low + share * (self.high - self.low)

    def place(self, value: float) -> float:
        """`value`, or where it is drawn instead."""
        if self.mark(value):
            return self.at(0.88 if value > LARGEST else 0.04)
        return value

    def mark(self, value: float) -> str:
        """What is written beside a value that is off the axis; nothing for all others."""
        if self.log and value <= 0 and value != -math.inf:
            return "≤ 0"
        off = abs(value) > LARGEST or (self.log and value < SMALLEST)
        return format_number(value) if off else ""

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def draw_lines(figure: Lines, axes: Axes) -> None:
    """Draw `figure` without title and caption into `axes`."""
    values = [value for series in figure.series for value in _reach(series.y, series.spread)]
    scale = _Scale.around(values, figure.log_y)
    for series, color, marker, dashes in _styled(figure.series):
        order = range(len(series.x))
        if series.style != "points":  # a line goes from left to right, whatever order its points were measured in
            order = sorted(order, key=lambda i: series.x[i])
        x = [series.x[i] for i in order]
        y = [series.y[i] for i in order]
        placed = [scale.place(value) for value in y]
        label = _label(series.label)
        if series.style == "points":
            axes.plot(x, placed, marker, color=color, markersize=5, label=label, alpha=0.85, markeredgewidth=0)
        else:
            small = marker if len(x) <= 40 else ""
            line = axes.plot(
                x, placed, color=color, marker=small, markersize=4.5, linewidth=1.8, label=label, markeredgewidth=0
            )
            if dashes:
                line[0].set_dashes(dashes)
        if series.spread:
            _draw_spread(axes, x, y, [series.spread[i] for i in order], color, scale, series.style)
        _draw_marks(axes, x, y, color, scale)
    if figure.log_x:
        _log_x(axes, [x for series in figure.series for x in series.x])
    else:
        axes.margins(x=0.04)
    _finish(axes, figure.y_label, scale, len(figure.series))
    axes.set_xlabel(printable(figure.x_label))


def draw_bars(figure: Bars, axes: Axes) -> None:
    """Draw `figure` without title and caption into `axes`."""
    values = [value for series in figure.series for value in _reach(series.values, series.spread)]
    scale = _Scale.around(values if figure.log_y else [0.0, *values], figure.log_y)
    floor = scale.low if figure.log_y else 0.0
    if not figure.log_y and all(value >= 0 for value in values):
        scale = _Scale(0.0, scale.high, False)
    width = 0.8 / len(figure.series)
    for i, (series, color, _, dashes) in enumerate(_styled(figure.series)):
        x = [group + (i - (len(figure.series) - 1) / 2) * width for group in range(len(figure.groups))]
        heights = [scale.place(value) - floor for value in series.values]
        axes.bar(
            x, heights, width * 0.92, bottom=floor, label=_label(series.label),
            color="none" if dashes else color, edgecolor=color, hatch="////" if dashes else None, linewidth=0.8,
        )  # fmt: skip
        if series.spread:
            _draw_spread(axes, x, series.values, series.spread, INK, scale, "points")
        _draw_marks(axes, x, series.values, color, scale)
    if scale.low < 0 < scale.high and not figure.log_y:
        axes.axhline(0, color=CONTROL, linewidth=0.8)
    _name_ticks(axes, figure.groups, len(figure.groups))
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", length=0)
    _finish(axes, figure.y_label, scale, len(figure.series))


def draw_heat_map(figure: HeatMap, axes: Axes) -> None:
    """Draw `figure` without title and caption into `axes`, with a colour bar."""
    grid = np.array([[np.nan if cell is None else cell for cell in line] for line in figure.values], dtype=float)
    shown = grid[(np.abs(grid) <= LARGEST) & ((grid >= SMALLEST) | (not figure.log))]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (1.0, 10.0)
    if low == high:
        low, high = (low / 2, high * 2) if figure.log else (low - 0.5, high + 0.5)
    norm = colors.LogNorm(low, high) if figure.log else colors.Normalize(low, high)
    beyond = high * 10 if figure.log else high + abs(high) + 1.0  # gets the colour of infinity
    drawn = np.where(grid > LARGEST, beyond, np.where(grid < low, low, grid))
    colormap = matplotlib.colormaps["viridis"].with_extremes(over=INFINITE, bad=GRID)
    rows, columns = grid.shape
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(drawn),
        cmap=colormap, norm=norm, linewidth=1.2 if grid.size <= 400 else 0,
        edgecolors=PAPER if grid.size <= 400 else "face", rasterized=grid.size > 2500,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _name_ticks(axes, figure.columns, columns, offset=0.5)
    step = math.ceil(rows / 32)
    axes.set_yticks([row + 0.5 for row in range(0, rows, step)], [_label(n) for n in figure.rows[::step]])
    if rows <= 24 and columns <= 12:
        for row, column in np.ndindex(rows, columns):
            value = float(grid[row, column])
            text = "" if math.isnan(value) else _short(value)
            red, green, blue = colormap(norm(drawn[row, column]))[:3] if not math.isnan(value) else (0.9, 0.9, 0.9)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.52
            color = "#fdfdfd" if dark else "#101010"  # not INK and PAPER: the cell stays as it is on a dark page
            axes.text(
                column + 0.5,
                row + 0.5,
                text,
                ha="center",
                va="center",
                color=color,
                fontsize=11 if math.isinf(value) else 7.5,
            )
    bar = axes.figure.colorbar(mesh, ax=axes, extend="max" if (grid > LARGEST).any() else "neither", pad=0.02)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(edgecolor="face", rasterized=True)  # as shapes, viewers show seams between the colours
    if figure.log:
        bar.ax.yaxis.set_major_locator(ticker.FixedLocator([t for t in _log_ticks(low, high) if low <= t <= high]))
        bar.ax.yaxis.set_major_formatter(lambda value, _: format_number(value))
        bar.ax.yaxis.set_minor_locator(ticker.NullLocator())
    bar.ax.tick_params(length=2)
    bar.set_label(printable(figure.unit))


def draw_pictures(figure: Pictures, axes: Axes) -> None:
    """Draw `figure` without title and caption into `axes`: every picture in a cell as large as the first."""
    grid = figure.arrays()
    high, wide = grid[0][0].shape[:2]
    gap = 0.03 * wide
    for row, line in enumerate(grid):
        for column, picture in enumerate(line):
            left, top = column * (wide + gap), row * (high + gap)
            extent = (left, left + wide, top + high, top)
            axes.imshow(picture, extent=extent, interpolation="none", aspect="equal")
    axes.set_xlim(-0.5, len(figure.columns) * (wide + gap) - gap + 0.5)
    axes.set_ylim(len(figure.rows) * (high + gap) - gap + 0.5, -0.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.set_xticks(
        [i * (wide + gap) + wide / 2 for i in range(len(figure.columns))], list(map(_label, figure.columns))
    )
    turned = {"rotation": 90, "va": "center"}
    axes.set_yticks(
        [i * (high + gap) + high / 2 for i in range(len(figure.rows))], list(map(_label, figure.rows)), **turned
    )


def _styled(series: Sequence[Series] | Sequence[BarSeries]) -> Iterator[tuple]:
    """Each series with colour, marker and dashes (controls only)."""
    controls = colored = 0
    for one in series:
        if one.style in ("dashed", "hatched"):
            yield one, CONTROL, MARKERS[-1 - controls % len(MARKERS)], DASHES[controls % len(DASHES)]
            controls += 1
        else:
            again = colored // len(PALETTE)  # a colour that comes again has another marker
            yield one, PALETTE[colored % len(PALETTE)], MARKERS[(colored + again) % len(MARKERS)], None
            colored += 1


def _reach(values: Sequence[float], spread: Sequence[float] | None) -> list[float]:
    """All values, and how far their spread reaches."""
    if spread is None:
        return list(values)
    ends = [(v - s, v + s) for v, s in zip(values, spread, strict=True) if math.isfinite(v) and math.isfinite(s)]
    return [*values, *(end for pair in ends for end in pair)]


def _draw_spread(axes: Axes, x, y, spread, color: str, scale: _Scale, style: str) -> None:
    """A band around a line, or error bars; a value or spread that is not finite has none."""
    known = [math.isfinite(v) and math.isfinite(s) and not scale.mark(v) for v, s in zip(y, spread, strict=True)]
    lower = [scale.clip(v - s) if k else math.nan for v, s, k in zip(y, spread, known, strict=True)]
    upper = [scale.clip(v + s) if k else math.nan for v, s, k in zip(y, spread, known, strict=True)]
    if style == "points":
        axes.vlines(x, lower, upper, color=color, linewidth=1.2)
    else:
        axes.fill_between(x, lower, upper, color=color, alpha=0.18, linewidth=0)


def _draw_marks(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, scale: _Scale) -> None:
    for left, value in zip(x, y, strict=True):
        mark = scale.mark(value)
        if mark:
            top = scale.place(value)
            axes.plot([left], [top], "^" if value > LARGEST else "v", color=color, markersize=8, markeredgewidth=0)
            halo = [patheffects.withStroke(linewidth=2.5, foreground=PAPER)]
            axes.annotate(
                mark, (left, top), (0, 5), textcoords="offset points", ha="center", va="bottom", color=color,
                fontsize=12 if math.isinf(value) else 8, path_effects=halo,
            )  # fmt: skip


def _finish(axes: Axes, y_label: str, scale: _Scale, series: int) -> None:
    """The y axis, and above the axes a legend if there is more than one series."""
    if scale.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.FixedLocator(_log_ticks(scale.low, scale.high)))
        axes.yaxis.set_major_formatter(lambda value, _: format_number(value))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(scale.low, scale.high)
    axes.set_ylabel(printable(y_label))
    if series > 1:
        handles, labels = axes.get_legend_handles_labels()
        columns, _ = legend_shape(labels)
        axes.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2,
            borderpad=0.2, columnspacing=1.6, handlelength=2.2,
        )  # fmt: skip


def _log_x(axes: Axes, x: list[float]) -> None:
    positive = sorted({value for value in x if value > 0}) or [1.0]
    low, high = positive[0], positive[-1]
    if 0 in x:
        # Zero has no logarithm: below the smallest positive value the axis is linear, and zero is its left end.
        axes.set_xscale("symlog", linthresh=low, linscale=0.35)
    else:
        axes.set_xscale("log")
    logs = [math.log10(value) for value in positive]
    sparse = len(positive) <= 8 and all(b - a > 0.12 * (logs[-1] - logs[0]) for a, b in pairwise(logs))
    ticks = positive if sparse else [tick for tick in _log_ticks(low, high) if low * 0.7 <= tick <= high * 1.4]
    axes.xaxis.set_major_locator(ticker.FixedLocator([0.0, *ticks] if 0 in x else ticks))
    axes.xaxis.set_major_formatter(lambda value, _: format_number(value))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values between `low` and `high` for a logarithmic axis: powers of ten, 1-2-5, or evenly spaced."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = math.log10(high) - math.log10(low)
    if decades < 0.8:
        return [float(tick) for tick in ticker.MaxNLocator(5).tick_values(low, high) if tick > 0]
    step = max(1, math.ceil((last - first) / 8))
    digits = (1,) if decades >= 2.5 else (1, 2, 5)
    exponents = range(max(first, -307), min(last, 307) + 1, step)
    return [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]


def _name_ticks(axes: Axes, names: Sequence[str], count: int, offset: float = 0.0) -> None:
    """Names along the x axis, slanted when they are too long to stand side by side."""
    step = math.ceil(count / 40)
    labels = [_label(name) for name in names[::step]]
    slanted = count * (max(map(len, labels), default=0) + 1.5) > 58
    places = [index + offset for index in range(0, count, step)]
    if slanted:
        axes.set_xticks(places, labels, rotation=35, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(places, labels)


def _label(name: str) -> str:
    """A name for legend or tick: one line, not endless; matplotlib would hide those that begin with "_"."""
    name = printable(name)
    name = name if len(name) <= 48 else f"{name[:47]}…"
    return f" {name}" if name.startswith("_") else name


def _short(value: float) -> str:
    """Three significant digits, to fit into a cell of a heat map."""
    if not math.isfinite(value) or abs(value) >= 1000 or value == 0:
        return format_number(value) if abs(value) < 10000 or not math.isfinite(value) else f"{value:.0e}"
    return f"{value:.3g}"
