"""Plots as data: lines, bars, heat maps and pictures that a report keeps, stores as JSON and draws with matplotlib."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from hardy import checks
from hardy.errors import InputError, near_misses
from hardy.report import fields
from hardy.report.display import legend_shape
from hardy.report.fields import store
from hardy.report.pictures import Pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell: TypeAlias = str | float | None
Data: TypeAlias = tuple[tuple[str, ...], tuple[tuple[Cell, ...], ...]]
"""A plain table: column names, and rows of cells."""

LineStyle: TypeAlias = Literal["line", "points", "dashed"]
BarStyle: TypeAlias = Literal["filled", "hatched"]


def _same_length(name: str, expected: int, **values: tuple[Any, ...] | None) -> None:
    for field, value in values.items():
        if value is not None and len(value) != expected:
            raise InputError(f"{name} needs {expected} values in {field}, got {len(value)}")


def _spread(values: Iterable[Any] | None, name: str) -> tuple[float, ...] | None:
    """Standard deviations, which cannot be negative."""
    if values is None:
        return None
    spread = fields.reals(name, values)
    if any(value < 0 for value in spread):
        raise InputError(f"{name} must not be negative, got {min(spread)}")
    return spread


def _room_of_legend(labels: Sequence[str]) -> float:
    """What a legend of more than two rows takes, in inches, so that the axes keep their height."""
    return 0.19 * max(0, legend_shape(labels)[1] - 2)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line or cloud of points of `Lines`.

    Args:
        label: its name in the legend.
        x, y: the points; `y` may be infinite (drawn at the edge with a mark) or NaN (a gap).
        spread: standard deviation of each `y`, drawn as a band ("points": as error bars).
        style: "line", "points", or "dashed": grey, for a control.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] | None = None
    style: LineStyle = "line"

    def __post_init__(self) -> None:
        label = checks.text("label", self.label)
        name = f"series {label!r}"
        x, y = fields.reals(f"x of {name}", self.x), fields.reals(f"y of {name}", self.y)
        spread = _spread(self.spread, f"spread of {name}")
        _same_length(name, len(x), y=y, spread=spread)
        for value in x:
            if value != 0 and not 1e-100 <= abs(value) <= 1e100:
                raise InputError(f"x of {name} must be finite, and 0 or from 1e-100 to 1e100 in size, got {value}")
        checks.one_of(f"style of {name}", self.style, get_args(LineStyle))
        store(self, x=x, y=y, spread=spread)


@dataclass(frozen=True, kw_only=True)
class BarSeries:
    """The bars of one colour in `Bars`.

    Args:
        label: its name in the legend.
        values: one per group; may be infinite (drawn to the edge with a mark) or NaN (left out).
        spread: standard deviation of each value, drawn as error bars.
        style: "filled", or "hatched": grey, for a control.
    """

    label: str
    values: tuple[float, ...]
    spread: tuple[float, ...] | None = None
    style: BarStyle = "filled"

    def __post_init__(self) -> None:
        label = checks.text("label", self.label)
        name = f"series {label!r}"
        values, spread = fields.reals(f"values of {name}", self.values), _spread(self.spread, f"spread of {name}")
        _same_length(name, len(values), spread=spread)
        checks.one_of(f"style of {name}", self.style, get_args(BarStyle))
        store(self, values=values, spread=spread)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Curves or points over a numeric x.

    Args:
        title, caption: shown above and below; the caption says what to see in it.
        x_label, y_label: names of the axes, with units.
        series: at least one.
        log_x: logarithmic x; x = 0 (such as "no noise") is then drawn at the left, negative x is refused.
        log_y: logarithmic y; what is not positive is drawn at the bottom edge with a mark.
    """

    title: str
    caption: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False

    def __post_init__(self) -> None:
        for name in ("title", "caption", "x_label", "y_label"):
            checks.text(name, getattr(self, name))
        store(self, series=_records(self.series, Series, f"series of {self.title!r}"))
        checks.boolean("log_x", self.log_x)
        checks.boolean("log_y", self.log_y)
        for series in self.series:
            if self.log_x and any(x < 0 for x in series.x):
                raise InputError(f"x of series {series.label!r} must be >= 0 for log_x=True, got {min(series.x)}")

    def size(self) -> tuple[float, float]:
        """Width and height that it is drawn at, in inches."""
        return 5.2, 3.4 + _room_of_legend([series.label for series in self.series])

    def draw(self, axes: "Axes") -> None:
        """Draw everything but title and caption into matplotlib `axes`."""
        from hardy.report import drawing

        drawing.draw_lines(self, axes)

    def data(self) -> Data:
        """One row per point: series, x, y, and the spread if any series has one."""
        points = [
            (series.label, x, y, series.spread[i] if series.spread else None)
            for series in self.series
            for i, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        ]
        if any(series.spread for series in self.series):
            return ("series", self.x_label, self.y_label, "spread"), tuple(points)
        return ("series", self.x_label, self.y_label), tuple(point[:3] for point in points)


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Groups of bars, one bar per series in each.

    Args:
        title, caption: shown above and below.
        y_label: what the height is, with its unit.
        groups: names along the x axis.
        series: at least one, each with one value per group.
        log_y: logarithmic height; what is not positive is marked at the bottom edge.
    """

    title: str
    caption: str
    y_label: str
    groups: tuple[str, ...]
    series: tuple[BarSeries, ...]
    log_y: bool = False

    def __post_init__(self) -> None:
        for name in ("title", "caption", "y_label"):
            checks.text(name, getattr(self, name))
        store(self, groups=checks.texts(f"groups of {self.title!r}", self.groups))
        store(self, series=_records(self.series, BarSeries, f"series of {self.title!r}"))
        checks.boolean("log_y", self.log_y)
        for series in self.series:
            _same_length(f"series {series.label!r}, one per group,", len(self.groups), values=series.values)

    def size(self) -> tuple[float, float]:
        """Width and height that it is drawn at, in inches."""
        return 5.2, 3.4 + _room_of_legend([series.label for series in self.series])

    def draw(self, axes: "Axes") -> None:
        """Draw everything but title and caption into matplotlib `axes`."""
        from hardy.report import drawing

        drawing.draw_bars(self, axes)

    def data(self) -> Data:
        """One row per group, one column per series, followed by its spread if it has one."""
        columns: list[str] = ["group"]
        values: list[tuple[Cell, ...]] = [self.groups]
        for series in self.series:
            columns.append(series.label)
            values.append(series.values)
            if series.spread:
                columns.append(f"{series.label}: spread")
                values.append(series.spread)
        return tuple(columns), tuple(zip(*values, strict=True))


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A coloured grid, such as fragility by layer and projection.

    Args:
        title, caption: shown above and below.
        rows, columns: their names; the first row is drawn on top.
        values: (rows, columns); None or NaN is missing, infinity has a colour of its own.
        unit: what the colours mean.
        log: logarithmic colours; what is not positive gets the lowest colour.
    """

    title: str
    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str = ""
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("title", "caption", "unit"):
            checks.text(name, getattr(self, name))
        rows = checks.texts(f"rows of {self.title!r}", self.rows)
        columns = checks.texts(f"columns of {self.title!r}", self.columns)
        checks.boolean("log", self.log)
        grid = checks.items(f"values of {self.title!r}", self.values)
        if not rows or not columns or len(grid) != len(rows):
            raise InputError(
                f"{self.title!r} needs one row of values for each of its {len(rows)} rows and {len(columns)} columns "
                f"(at least 1 each), got {len(grid)}"
            )
        values = []
        for label, line in zip(rows, grid, strict=True):
            cells = checks.items(f"row {label!r}", line)
            _same_length(f"row {label!r} of {self.title!r}", len(columns), values=cells)
            values.append(tuple(_present(cell, f"row {label!r}") for cell in cells))
        store(self, rows=rows, columns=columns, values=tuple(values))

    def size(self) -> tuple[float, float]:
        """Width and height that it is drawn at, in inches."""
        width = 5.2 + 0.22 * max(0, len(self.columns) - 12)
        return min(width, 11), min(max(3.4, 1.2 + 0.29 * len(self.rows)), 9)

    def draw(self, axes: "Axes") -> None:
        """Draw everything but title and caption, with a colour bar, into matplotlib `axes`."""
        from hardy.report import drawing

        drawing.draw_heat_map(self, axes)

    def data(self) -> Data:
        """The grid, with the row names as its first column."""
        lines = zip(self.rows, self.values, strict=True)
        return (self.unit, *self.columns), tuple((label, *cells) for label, cells in lines)


Figure: TypeAlias = Lines | Bars | HeatMap | Pictures
KINDS: dict[str, type[Lines] | type[Bars] | type[HeatMap] | type[Pictures]] = {
    "lines": Lines,
    "bars": Bars,
    "heat map": HeatMap,
    "pictures": Pictures,
}
_SERIES = {"lines": Series, "bars": BarSeries}


def save_png(figure: Figure, path: str | Path, dpi: int = 200) -> Path:
    """Draw `figure` with its title into the PNG file `path` (for a README or a paper), atomically.

    Returns:
        The path.
    """
    from hardy.report import rendering

    return rendering.save_png(figure, Path(path), dpi)


def figure_to_json(figure: Figure) -> dict[str, Any]:
    """The figure as JSON values; the field "kind" says which figure it is."""
    kind = next(kind for kind, cls in KINDS.items() if type(figure) is cls)
    return {"kind": kind, **_fields_to_json(figure)}


def figure_from_json(value: Any, name: str) -> Figure:
    """The inverse of `figure_to_json`.

    Raises:
        InputError: it is no figure, or its fields do not fit; `name` says where it stands.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{name} must be of a kind in {', '.join(KINDS)}, got {kind!r}{near_misses(str(kind), KINDS)}")
    cls = KINDS[kind]
    values = record_fields(cls, {key: item for key, item in value.items() if key != "kind"}, name)
    if kind in _SERIES:
        series = checks.items(f"series of {name}", values["series"])
        record = _SERIES[kind]
        values["series"] = tuple(
            record(**record_fields(record, item, f"series {i} of {name}")) for i, item in enumerate(series)
        )
    return cls(**values)


def record_fields(cls: type, value: Any, name: str) -> dict[str, Any]:
    """The fields of dataclass `cls` from a JSON object, with none missing and none unknown."""
    missing = dataclasses.MISSING
    needed = {f.name: f.default is missing and f.default_factory is missing for f in dataclasses.fields(cls)}
    required = [field for field, need in needed.items() if need]
    return fields.known(name, value, required, needed)


def _fields_to_json(record: Any) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    if "series" in values:
        return values | {"series": [_fields_to_json(series) for series in values["series"]]}
    return values


def _records(values: object, cls: type, name: str) -> tuple[Any, ...]:
    records = checks.items(name, values)
    if not records:
        raise InputError(f"{name} must hold at least one {cls.__name__}")
    for record in records:
        if type(record) is not cls:
            raise InputError(f"{name} must hold {cls.__name__} only, got {record!r:.80}")
    return records


def _present(value: object, name: str) -> float | None:
    """None for what is missing, so that equal maps compare equal (NaN never does)."""
    value = None if value is None else fields.real(name, value)
    return None if value is None or math.isnan(value) else value
