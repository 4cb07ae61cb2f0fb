"""What a measurement found: rows and figures that print as a table and save as JSON, Markdown and one HTML page."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hardy.checks import integer, items, text, texts
from hardy.errors import InputError, near_misses, printable
from hardy.files import from_json, to_json, write_text
from hardy.reading import reading
from hardy.report.fields import free, real, scalar, store
from hardy.report.figures import KINDS, Figure, figure_from_json, figure_to_json, record_fields
from hardy.report.tables import terminal_table

FORMAT = "hardy-report"
VERSION = 1
FILES = ("report.json", "report.md", "report.html")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured value.

    Args:
        metric: what was measured, such as "perplexity".
        condition: under what it was measured, such as "trit-planes, 3.2 bits".
        value: may be infinite or NaN.
        spread: standard deviation over the `n` repetitions.
        n: repetitions that `value` is the mean of.
        unit: of `value` and `spread`; empty for a bare number.
        seeds: of the repetitions.
        baseline: the condition, with the same metric, that this one is judged against.
        details: further facts, each a number, a text, a truth value or None: bits_per_weight, strength ...

    Raises:
        InputError: a field is of the wrong type, or `spread` is negative, or `n` is not positive.
    """

    metric: str
    condition: str
    value: float
    spread: float | None = None
    n: int = 1
    unit: str = ""
    seeds: tuple[int, ...] = ()
    baseline: str | None = None
    details: Mapping[str, float | int | str | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("metric", "condition", "unit"):
            text(name, getattr(self, name))
        where = f"{self.metric} of {self.condition!r}"
        if self.baseline is not None:
            text(f"baseline of {where}", self.baseline)
        if not isinstance(self.details, Mapping):
            raise InputError(f"details of {where} must be a mapping, got {self.details!r}")
        store(
            self,
            value=real(f"value of {where}", self.value),
            spread=None if self.spread is None else real(f"spread of {where}", self.spread),
            n=integer(f"n of {where}", self.n, at_least=1),
            seeds=tuple(integer(f"seeds of {where}", seed) for seed in items(f"seeds of {where}", self.seeds)),
            details={
                text(f"a key in details of {where}", key): scalar(f"details[{key!r}] of {where}", value)
                for key, value in self.details.items()
            },
        )
        if self.spread is not None and self.spread < 0:
            raise InputError(f"spread of {where} must not be negative, got {self.spread:g}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one measurement has to say.

    Args:
        title: what was asked or measured.
        summary: sentences, the answer first.
        rows: every value, controls included.
        figures: `Lines`, `Bars`, `HeatMap`, `Pictures`.
        settings: how it was made (model, text, seeds, versions): numbers, texts, lists and mappings of them.
        notes: what a reader should know before trusting it.

    Raises:
        InputError: a field is of the wrong type.
    """

    title: str
    summary: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    figures: tuple[Figure, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        text("title", self.title)
        if not isinstance(self.settings, Mapping):
            raise InputError(f"settings must be a mapping, got {self.settings!r}")
        store(
            self,
            summary=texts("summary", self.summary),
            rows=items("rows", self.rows),
            figures=items("figures", self.figures),
            settings=free("settings", self.settings),
            notes=texts("notes", self.notes),
        )
        for row in self.rows:
            if not isinstance(row, Row):
                raise InputError(f"rows must hold Row only, got {row!r:.80}")
        for figure in self.figures:
            if type(figure) not in KINDS.values():
                raise InputError(f"figures must hold Lines, Bars, HeatMap or Pictures, got {figure!r:.80}")

    def select(self, metric: str | None = None, condition: str | None = None) -> tuple[Row, ...]:
        """The rows of this metric and this condition, in order; None means any."""
        return tuple(row for row in self.rows if metric in (None, row.metric) and condition in (None, row.condition))

    def value(self, metric: str, condition: str) -> float:
        """The value of the one row with this metric and condition.

        Raises:
            InputError: there is no such row (close names are given), or more than one.
        """
        rows = self.select(metric, condition)
        if len(rows) == 1:
            return rows[0].value
        if rows:
            raise InputError(f"{len(rows)} rows have the metric {metric!r} and the condition {condition!r}, expected 1")
        metrics = [row.metric for row in self.rows]
        if metric not in metrics:
            raise InputError(f"no row has the metric {metric!r}{_hint(metric, metrics)}")
        conditions = [row.condition for row in self.select(metric)]
        raise InputError(f"no row for {metric} has the condition {condition!r}{_hint(condition, conditions)}")

    def table(self, metric: str | None = None) -> Table:
        """The rows, of one metric or all, as a table for the terminal.

        Raises:
            InputError: no row has this metric.
        """
        if metric is not None and not self.select(metric):
            raise InputError(f"no row has the metric {metric!r}{_hint(metric, [row.metric for row in self.rows])}")
        return terminal_table(self.select(metric), self.rows)

    def print(self, console: Console | None = None, *, metrics: Sequence[str] | None = None) -> None:
        """Print title, summary, table and notes to `console`, by default the terminal.

        Args:
            console: where to.
            metrics: the rows of these metrics only, a table each; by default all rows in one table.

        Raises:
            InputError: no row has one of the metrics.
        """
        console = console or Console()
        console.print(Text(printable(self.title), style="bold"))
        for sentence in self.summary:
            console.print(Text(printable(sentence)))
        if self.rows:
            for table in [self.table()] if metrics is None else map(self.table, metrics):
                console.print()
                console.print(table)
        for note in self.notes:
            console.print(Text(f"Note: {printable(note)}", style="dim"))

    def __str__(self) -> str:
        """What `print` shows, without colours, at most 100 columns wide."""
        console = Console(file=io.StringIO(), width=100, color_system=None)
        self.print(console)
        return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]

    def to_json(self) -> str:
        """The whole report as JSON text; `from_json` restores it exactly, infinity and NaN included."""
        value = {
            "format": FORMAT,
            "version": VERSION,
            "title": self.title,
            "summary": self.summary,
            "rows": [{field.name: getattr(row, field.name) for field in fields(row)} for row in self.rows],
            "figures": [figure_to_json(figure) for figure in self.figures],
            "settings": self.settings,
            "notes": self.notes,
        }
        return json.dumps(to_json(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any]) -> "Report":
        """The report in a JSON text, or in what `json.loads` made of one.

        Raises:
            InputError: it is no JSON, no report, from a newer version of hardy, or has wrong fields.
        """
        try:
            value = json.loads(source) if isinstance(source, str) else dict(source)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"the report is not JSON: {error}") from None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(f'this is not a hardy report: it must be a JSON object with "format": "{FORMAT}"')
        version = integer("version of the report", value.get("version"))
        if version != VERSION:
            advice = "; it was written by a newer hardy" if version > VERSION else ""
            raise InputError(f"the report has format version {version}, this hardy reads version {VERSION}{advice}")
        try:
            content = {key: from_json(item) for key, item in value.items() if key not in ("format", "version")}
            content = record_fields(cls, content, "the report")
            for name, read in (("rows", _row), ("figures", figure_from_json)):
                entries = items(name, content.get(name, ()))
                content[name] = tuple(read(entry, f"{name}[{i}]") for i, entry in enumerate(entries))
            return cls(**content)
        except RecursionError:
            raise InputError("the report is nested too deeply to be read") from None

    def to_markdown(self) -> str:
        """The report as Markdown, its figures as their data."""
        from hardy.report import markdown

        return markdown.page(self)

    def to_html(self) -> str:
        """The report as one HTML page with drawn figures, which needs no other file and no network."""
        from hardy.report import html

        return html.page(self)

    def save(self, folder: str | Path) -> tuple[Path, Path, Path]:
        """Write report.json, report.md and report.html into `folder`, each of them atomically.

        Returns:
            The three paths.

        Raises:
            InputError: `folder` is a file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; a report needs a folder")
        pages = (self.to_json(), self.to_markdown(), self.to_html())  # all made before the first is replaced
        paths = (folder / FILES[0], folder / FILES[1], folder / FILES[2])
        for path, page in zip(paths, pages, strict=True):
            write_text(path, page)
        return paths

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """The report saved in a folder or a JSON file.

        Raises:
            InputError: there is none, or it is damaged, of another kind, or from a newer version of hardy.
        """
        path = Path(path)
        file = path / FILES[0] if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"no report at {path}: expected {FILES[0]} or a folder that holds it")
        with reading(file):
            return cls.from_json(file.read_text(encoding="utf-8"))


def _row(value: Any, name: str) -> Row:
    return Row(**record_fields(Row, value, name))


def _hint(name: str, known: list[str]) -> str:
    """Close names, or else a few of those there are."""
    known = list(dict.fromkeys(known))
    return near_misses(name, known) or f"; there are {', '.join(known[:5]) or 'no rows'}{', ...' * (len(known) > 5)}"
