"""A report as Markdown that GitHub and plain readers show alike; the figures are given as their data."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hardy.report.display import format_cell, printable
from hardy.report.figures import Cell
from hardy.report.tables import page_table

if TYPE_CHECKING:
    from hardy.report import Report


def page(report: "Report") -> str:
    """The whole document; the same report gives the same bytes."""
    parts = [f"# {_text(report.title)}", *(_text(sentence) for sentence in report.summary)]
    if report.rows:
        parts.append("## Results")
        table = page_table(report.rows)
        rows = [(metric, *row) for metric, group in table.groups for row in group]
        parts.append(_table(("metric", *table.columns), (False, *table.numeric), rows))
    if report.figures:
        parts.append("## Figures")
    for figure in report.figures:
        columns, data = figure.data()
        numeric = [all(not isinstance(cell, str) for cell in column) for column in zip(*data, strict=True)]
        parts.append(f"### {_text(figure.title)}")
        parts.append(_text(figure.caption))
        # The empty lines make GitHub read the table inside as Markdown.
        parts.append(f"<details><summary>Data</summary>\n\n{_table(columns, numeric, data)}\n\n</details>")
    if report.settings:
        parts.append("## Settings")
        parts.append("\n".join(f"- {_text(key)}: {_text(format_cell(item))}" for key, item in report.settings.items()))
    if report.notes:
        parts.append("## Notes")
        parts.append("\n".join(f"- {_text(note)}" for note in report.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(columns: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[Cell]]) -> str:
    lines = [_line(columns), _line(["---:" if right else "---" for right in numeric], escape=False)]
    return "\n".join([*lines, *(_line([format_cell(cell) for cell in row]) for row in rows)])


def _line(cells: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(_text(cell) if escape else cell for cell in cells)} |"


def _text(text: str) -> str:
    """`text` on one line, with everything that Markdown would obey made literal."""
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", printable(text))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word "_" is literal already
    text = re.sub(r"^([#+-])(?=\s|#|$)", r"\\\1", text)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)
