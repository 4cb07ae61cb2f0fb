"""The rows of a report as tables: one for pages, and a narrower one for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hardy.errors import printable
from hardy.report.display import format_cell, format_measurement, format_number

if TYPE_CHECKING:
    from hardy.report import Row
    from hardy.report.figures import Figure


@dataclass(frozen=True)
class Column:
    """A heading and one cell per row; `numeric` columns are aligned right."""

    name: str
    cells: tuple[str, ...]
    numeric: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table as text: `groups` are (name or None, lines), and a line has a cell for each of `columns`."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    groups: tuple[tuple[str | None, tuple[tuple[str, ...], ...]], ...]


def data_table(figure: "Figure") -> PageTable:
    """The data of a figure, in one group."""
    columns, rows = figure.data()
    numeric = [all(not isinstance(cell, str) for cell in column) for column in zip(*rows, strict=True)]
    return PageTable(columns, tuple(numeric) or (False,) * len(columns), ((None, tuple(map(_texts, rows))),))


def row_table(rows: Sequence["Row"]) -> PageTable:
    """All that `rows` hold, without the columns that none of them uses."""
    columns = [
        Column("condition", _texts([row.condition for row in rows])),
        Column("value", tuple(format_measurement(row.value, row.spread) for row in rows), True),
        Column("unit", _texts([row.unit for row in rows])),
        Column("n", _texts([row.n for row in rows]), True),
        Column("baseline", tuple(_baseline(row, rows) for row in rows)),
        Column("seeds", _texts([row.seeds for row in rows])),
    ]
    return _grouped(rows, [*columns, *_details(rows)])


def terminal_table(rows: Sequence["Row"], every_row: Sequence["Row"]) -> Table:
    """`rows` for a terminal of 80 columns: the baseline (looked up in `every_row`) is given by its value, no seeds."""
    details = _details(rows)
    if len(details) > 3:  # more columns than fit would be cut off
        lines = zip(*([f"{c.name} {cell}" if cell else "" for cell in c.cells] for c in details), strict=True)
        details = [Column("details", tuple(", ".join(filter(None, line)) for line in lines))]
    values = tuple(f"{format_measurement(row.value, row.spread)} {printable(row.unit)}".rstrip() for row in rows)
    repeated = [Column("n", _texts([row.n for row in rows]), True)] if any(row.n > 1 for row in rows) else []
    columns = [
        Column("condition", _texts([row.condition for row in rows])),
        Column("value", values, True),
        *repeated,
        Column("baseline", tuple(_baseline_value(row, every_row) for row in rows), True),
        *details,
    ]
    grouped = _grouped(rows, columns)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, (name, numeric) in enumerate(zip(grouped.columns, grouped.numeric, strict=True)):
        cells = [line[i] for _, lines in grouped.groups for line in lines]
        widest = max(map(len, [*cells, *name.split()]))
        # Numbers are never broken, so their columns are as narrow as their cells and the words of their heading.
        table.add_column(
            Text(name), justify="right" if numeric else "left", overflow="fold",
            width=widest if numeric else None,
        )  # fmt: skip
    for metric, lines in grouped.groups:
        table.add_row(Text(printable(metric or ""), style="cyan"))
        for line in lines:
            table.add_row(*map(Text, line))
        table.add_section()
    return table


def _grouped(rows: Sequence["Row"], columns: Sequence[Column]) -> PageTable:
    used = [column for column in columns if any(column.cells)]
    groups: dict[str, list[tuple[str, ...]]] = {row.metric: [] for row in rows}
    for i, row in enumerate(rows):
        groups[row.metric].append(tuple(column.cells[i] for column in used))
    return PageTable(
        columns=tuple(column.name for column in used),
        numeric=tuple(column.numeric for column in used),
        groups=tuple((metric, tuple(lines)) for metric, lines in groups.items()),
    )


def _details(rows: Sequence["Row"]) -> list[Column]:
    columns = []
    for key in dict.fromkeys(key for row in rows for key in row.details):
        values = [row.details.get(key) for row in rows]
        numeric = all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values
        )
        columns.append(Column(printable(key).replace("_", " "), _texts(values), numeric))
    return columns


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(format_cell(value) for value in values)


def _baseline(row: "Row", rows: Sequence["Row"]) -> str:
    """The condition that `row` is judged against, with its value if `rows` has it once."""
    name = printable(row.baseline or "")
    value = _baseline_value(row, rows)
    return name if value == name else f"{name} ({value})"


def _baseline_value(row: "Row", rows: Sequence["Row"]) -> str:
    """The value that `row` is judged against, or the name of its condition if `rows` does not have it once."""
    found = [other.value for other in rows if (other.metric, other.condition) == (row.metric, row.baseline)]
    return format_number(found[0]) if len(found) == 1 else printable(row.baseline or "")
