"""Markdown tables out of results: which rows, which columns, in which format is data; this is the one writer.

A cell is a format string over the metrics and details of the rows of a line: `{psnr:.2f}` is a mean ± its spread,
`{psnr.value:.2f}` the mean alone, `{steps}` a detail, `{condition}` the condition, `{at[unmodified].perplexity:.1f}` a
metric of those of the line's rows with this condition, `{at[noise=0.1].accuracy:.1f}` with this detail; `%` at the end
of a format means times 100.
"""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardy.report import Row

Cell = str | Sequence[str]
"""A template, or several: the first of them counts whose metrics are all there."""


class MissingError(Exception):
    """A line has no row of this metric."""


class Entry:
    """Some rows, with their metrics and details by name.

    Raises:
        MissingError: no row here has this metric or detail, but other rows of the results have.
        AttributeError: no row of the results has it, or several rows differ in it.
    """

    def __init__(self, rows: Sequence[Row], known: set[str]) -> None:
        self._rows, self._known = rows, known

    @property
    def at(self) -> Mapping[str, "Entry"]:
        return _Among(self)

    def __getattr__(self, name: str) -> Any:
        metrics = [row for row in self._rows if row.metric == name]
        if not metrics:
            values = {facts(row)[name] for row in self._rows if name in facts(row)} - {None}
            if len(values) == 1:
                return values.pop()
            if not values and name in self._known:
                raise MissingError(name)
            raise AttributeError(f"{name!r} is {sorted(map(str, values)) or 'nothing that was measured'} here")
        if len(metrics) > 1:
            raise AttributeError(f"{len(metrics)} rows of {name!r} make one line: {[row.condition for row in metrics]}")
        return metrics[0]


class _Among(dict[str, Entry]):
    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def __missing__(self, key: str) -> Entry:
        name, _, value = key.partition("=")
        if name not in self.entry._known:
            name, value = "condition", key
        rows = [row for row in self.entry._rows if str(facts(row).get(name)) == value]
        if not rows:
            raise MissingError(key)
        return Entry(rows, self.entry._known)


class _Formatter(string.Formatter):
    def get_value(self, key: Any, args: Any, kwargs: Any) -> Any:
        return getattr(args[0], key)

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Row):
            shown = self.format_field(value.value, format_spec)
            unsigned = format_spec.replace("+", "")
            return shown if value.spread is None else f"{shown} ± {self.format_field(value.spread, unsigned)}"
        if value is None:
            raise MissingError("a spread")
        if format_spec.endswith("%"):
            return format(100 * value, f"{format_spec[:-1]}{'' if 'g' in format_spec else 'f'}")
        return format(value, format_spec)


FORMATTER = _Formatter()


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines of a table, one for every combination of what is in `by`.

    Args:
        rows: of one result or of several.
        by: "condition" and details that tell the lines apart.
        where: what rows must have: a field and its value, or a tuple of those allowed.
        order: a metric by which lines are sorted, the largest first; by default they are as measured.
        cells: of a line.
    """

    rows: Sequence[Row]
    cells: Sequence[Cell]
    by: Sequence[str] = ("condition",)
    where: Mapping[str, Any] = field(default_factory=dict)
    order: str | None = None

    def filled(self) -> list[list[str]]:
        known = {name for row in self.rows for name in facts(row)} | {row.metric for row in self.rows}
        chosen = [row for row in self.rows if all(_among(facts(row).get(k), v) for k, v in self.where.items())]
        if not chosen:
            raise ValueError(f"no rows where {dict(self.where)}")
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in chosen:
            groups.setdefault(tuple(facts(row).get(name) for name in self.by), []).append(row)
        entries = [Entry(rows, known) for rows in groups.values()]
        if self.order is not None:
            entries.sort(key=lambda entry: -getattr(entry, str(self.order)).value)
        return [[fill(cell, entry) for cell in self.cells] for entry in entries]


def table(headers: Sequence[str], *parts: Lines) -> str:
    """A Markdown table of the lines of all parts; columns of figures are flush right."""
    lines = [line for part in parts for line in part.filled()]
    for line in lines:
        if len(line) != len(headers):
            raise ValueError(f"{len(line)} cells under {len(headers)} headers: {line}")
    columns = list(zip(*lines, strict=True))
    rule = ["---:" if all(re.match(r"[-+]?[\d.]|-?$", cell) for cell in column) else "---" for column in columns]
    return "\n".join([_row(headers), f"|{'|'.join(rule)}|", *map(_row, lines)])


def values_of(name: str, rows: Iterable[Row]) -> list[Any]:
    """The values of a detail, as they come."""
    return list(dict.fromkeys(facts(row)[name] for row in rows if name in facts(row)))


def fill(cell: Cell, entry: Entry) -> str:
    """The first of the templates of a cell that can be filled; "-" where none can."""
    for template in (cell,) if isinstance(cell, str) else cell:
        try:
            return FORMATTER.vformat(template, (entry,), {})
        except MissingError:
            continue
    return "-"


def facts(row: Row) -> dict[str, Any]:
    """Condition and details."""
    return {"condition": row.condition, **row.details}


def _row(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _among(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def of_columns(columns: Mapping[str, Cell], found: Sequence[Row], **lines: Any) -> str:
    """The table of `found` whose columns are named, each with its cell; `lines` as for `Lines`."""
    return table(tuple(columns), Lines(rows=found, cells=tuple(columns.values()), **lines))
