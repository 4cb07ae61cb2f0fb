"""A report as Markdown that GitHub and plain readers show alike; the figures are given as their data."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hardy.errors import printable
from hardy.report.display import format_cell
from hardy.report.tables import PageTable, data_table, row_table

if TYPE_CHECKING:
    from hardy.report import Report


def page(report: "Report") -> str:
    """The whole document; the same report gives the same bytes."""
    parts = [f"# {_text(report.title)}", *(_text(sentence) for sentence in report.summary)]
    if report.rows:
        parts.append("## Results")
        parts.append(_table(row_table(report.rows)))
    if report.figures:
        parts.append("## Figures")
    for figure in report.figures:
        parts.append(f"### {_text(figure.title)}")
        parts.append(_text(figure.caption))
        # The empty lines make GitHub read the table inside as Markdown.
        parts.append(f"<details><summary>Data</summary>\n\n{_table(data_table(figure))}\n\n</details>")
    if report.settings:
        parts.append("## Settings")
        parts.append("\n".join(f"- {_text(key)}: {_text(format_cell(item))}" for key, item in report.settings.items()))
    if report.notes:
        parts.append("## Notes")
        parts.append("\n".join(f"- {_text(note)}" for note in report.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: PageTable) -> str:
    """A table whose groups are named in a column of their own."""
    columns, numeric = table.columns, table.numeric
    lines = [cells if name is None else (name, *cells) for name, group in table.groups for cells in group]
    if any(name is not None for name, _ in table.groups):
        columns, numeric = ("metric", *columns), (False, *numeric)
    rule = _line(["---:" if right else "---" for right in numeric], escape=False)
    return "\n".join([_line(columns), rule, *map(_line, lines)])


def _line(cells: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(_text(cell) if escape else cell for cell in cells)} |"


def _text(text: str) -> str:
    """`text` on one line, with everything that Markdown would obey made literal."""
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", printable(text))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word "_" is literal already
    text = re.sub(r"^([#+-])(?=\s|#|$)", r"\\\1", text)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)
