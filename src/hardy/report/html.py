"""A report as one HTML page that opens offline: no script, no external file, light and dark."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from hardy.report.display import format_cell, printable
from hardy.report.figures import Cell, Figure, HeatMap
from hardy.report.pictures import Pictures
from hardy.report.tables import page_table

if TYPE_CHECKING:
    from hardy.report import Report

_CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f8fa; --paper: #ffffff; --ink: #24292f; --soft: #57606a; --grid: #d8dee4; --control: #6e7781;
  --accent: #0072b2; --series-1: #0072b2; --series-2: #d55e00; --series-3: #009e73; --series-4: #cc79a7;
  --series-5: #e69f00; --series-6: #56b4e9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --paper: #161b22; --ink: #e6edf3; --soft: #9da7b3; --grid: #30363d; --control: #9da7b3;
    --accent: #58aee8; --series-1: #58aee8; --series-2: #ff8a4c; --series-3: #35c79a; --series-4: #e7a2cb;
    --series-5: #f0b429; --series-6: #9ad8ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 76rem; margin: 0 auto; padding: clamp(1.25rem, 4vw, 3rem) clamp(1rem, 4vw, 2.5rem) 4rem; }
h1 { font-size: clamp(1.6rem, 4vw, 2.25rem); line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 1rem;
  text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 0.9rem; }
h3 { font-size: 1rem; line-height: 1.35; margin: 0 0 0.75rem; }
.summary { max-width: 48rem; border-left: 4px solid var(--accent); padding-left: 1.1rem; }
.summary p { margin: 0 0 0.5rem; color: var(--soft); text-wrap: pretty; }
.summary p:first-child { font-size: 1.2rem; line-height: 1.45; color: var(--ink); }
.figures { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; min-width: 0; background: var(--paper); border: 1px solid var(--grid); border-radius: 10px;
  padding: 1.1rem 1.2rem; display: flex; flex-direction: column; }
figure.wide { grid-column: 1 / -1; }
figure svg { width: 100%; height: auto; display: block; font-family: system-ui, sans-serif; }
figcaption { color: var(--soft); font-size: 0.9rem; line-height: 1.5; margin-top: 0.75rem; }
details { font-size: 0.85rem; margin-top: auto; padding-top: 0.75rem; }
details summary { cursor: pointer; color: var(--accent); width: fit-content; }
details .scroll { margin-top: 0.6rem; max-height: 22rem; }
.scroll { overflow: auto; border: 1px solid var(--grid); border-radius: 10px; background: var(--paper); }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; overflow-wrap: normal; }
details table { font-size: 0.8rem; }
th, td { padding: 0.45rem 0.8rem; text-align: left; border-bottom: 1px solid var(--grid); vertical-align: top; }
tbody:last-child tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 400; min-width: 8rem; }
th.group { font-weight: 650; background: var(--page); }
tbody tr:hover > td, tbody tr:hover > th[scope=row] { background: color-mix(in srgb, var(--accent) 7%, transparent); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; margin: 0; font-size: 0.9rem;
  background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; padding: 0.5rem 1.1rem; }
dt, dd { margin: 0; padding: 0.35rem 0; min-width: 0; overflow-wrap: anywhere; }
dt { color: var(--soft); padding-right: 1.5rem; }
ul { margin: 0; padding-left: 1.2rem; max-width: 48rem; }
li { margin-bottom: 0.35rem; }
td.long { min-width: 10rem; }
@media (max-width: 36rem) { figure { padding: 0.9rem 0.75rem; } th, td { padding: 0.4rem 0.6rem; } }
@media print { body { background: none; } figure { break-inside: avoid; } }
"""


def page(report: "Report") -> str:
    """The whole page; the same report gives the same bytes."""
    parts = [f"<h1>{_text(report.title)}</h1>"]
    if report.summary:
        parts.append(f'<div class="summary">{"".join(f"<p>{_text(line)}</p>" for line in report.summary)}</div>')
    if report.figures:
        figures = "\n".join(_figure(figure, number) for number, figure in enumerate(report.figures, 1))
        parts.append(f'<h2>Figures</h2>\n<div class="figures">\n{figures}\n</div>')
    if report.rows:
        parts.append(f"<h2>Results</h2>\n{_results(report)}")
    if report.settings:
        terms = "".join(f"<dt>{_text(key)}</dt><dd>{_cell(value)}</dd>" for key, value in report.settings.items())
        parts.append(f"<h2>Settings</h2>\n<dl>{terms}</dl>")
    if report.notes:
        parts.append(f"<h2>Notes</h2>\n<ul>{''.join(f'<li>{_text(note)}</li>' for note in report.notes)}</ul>")
    body = "\n".join(parts)
    # The policy makes "no external file" a promise that the browser keeps, whatever stands in the report.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{_text(report.title)}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _figure(figure: Figure, number: int) -> str:
    from hardy.report import rendering  # imports matplotlib

    columns, rows = figure.data()
    large = isinstance(figure, Pictures) or (isinstance(figure, HeatMap) and len(figure.columns) > 20)
    wide = ' class="wide"' if large else ""
    caption = f"<figcaption>{_text(figure.caption)}</figcaption>" if figure.caption else ""
    return (
        f"<figure{wide}><h3>{_text(figure.title)}</h3>\n{rendering.to_svg(figure, f'figure{number}-')}\n{caption}"
        f"<details><summary>Data</summary>{_data(columns, rows)}</details></figure>"
    )


def _results(report: "Report") -> str:
    """All rows, under one heading per metric."""
    table = page_table(report.rows)
    body = ""
    for metric, rows in table.groups:
        heading = f'<tr><th class="group" scope="rowgroup" colspan="{len(table.columns)}">{_text(metric)}</th></tr>'
        body += f"<tbody>{heading}{_rows(rows, table.numeric)}</tbody>"
    return _scroll(_head(table.columns, table.numeric) + body)


def _data(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    numeric = [all(not isinstance(cell, str) for cell in column) for column in zip(*rows, strict=True)]
    return _scroll(f"{_head(columns, numeric)}<tbody>{_rows(rows, numeric)}</tbody>")


def _head(columns: Sequence[str], numeric: Sequence[bool]) -> str:
    cells = [f'<th scope="col"{_align(right)}>{_text(name)}</th>' for name, right in zip(columns, numeric, strict=True)]
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _rows(rows: Sequence[Sequence[Cell]], numeric: Sequence[bool]) -> str:
    lines = []
    for first, *rest in rows:
        cells = [_td(cell, right) for cell, right in zip(rest, numeric[1:], strict=True)]
        lines.append(f'<tr><th scope="row"{_align(numeric[0])}>{_cell(first)}</th>{"".join(cells)}</tr>')
    return "\n".join(lines)


def _td(cell: Cell, right: bool) -> str:
    text = _cell(cell)
    long = ' class="long"' if not right and len(text) > 14 else ""  # else a phone breaks it after every word
    return f"<td{_align(right) or long}>{text}</td>"


def _align(right: bool) -> str:
    return ' class="number"' if right else ""


def _scroll(table: str) -> str:
    return f'<div class="scroll" tabindex="0"><table>{table}</table></div>'


def _cell(value: object) -> str:
    return escape(format_cell(value))


def _text(value: str) -> str:
    return escape(printable(value))
