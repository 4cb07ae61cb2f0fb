"""The reports below a folder: found, listed, and on one page that leads to each."""

import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hardy.errors import InputError, shortened
from hardy.files import write_text
from hardy.report.html import template
from hardy.report.report import FILES, Report

NAME = "index.html"
_MARK = '<meta name="generator" content="hardy report index">'


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A report, or what a file of its name holds in its place.

    Args:
        folder: of the report, below the one that was searched.
        title, summary: of the report; the summary's first sentence.
        rows: how many values it has.
        written: when report.json was, local time.
        page: the file to open, below the folder that was searched: report.html, or report.json where that is missing.
        problem: why it cannot be read, or an empty text.
    """

    folder: Path
    title: str
    summary: str
    rows: int
    written: datetime.datetime
    page: Path
    problem: str = ""

    @property
    def link(self) -> str:
        return quote(self.page.as_posix())

    @property
    def date(self) -> str:
        return f"{self.written:%Y-%m-%d %H:%M}"


def entries(folder: str | Path) -> list[Entry]:
    """Every report in `folder` and below it, the newest first; hidden folders are left out, links not followed.

    Files named report.json that are no reports of hardy come with the reason.

    Raises:
        InputError: `folder` is no folder, or no report is below it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    found = [_entry(file, folder) for file in _files(folder)]
    if not found:
        raise InputError(f"no report is in {folder} or below it: none of its folders holds {FILES[0]}")
    return sorted(found, key=lambda entry: (entry.written, str(entry.folder)), reverse=True)


def page(folder: str | Path) -> str:
    """One HTML page of all reports below `folder`, which needs no network."""
    return template("index.html").render(folder=Path(folder).resolve().name, entries=entries(folder), mark=_MARK)


def save(folder: str | Path) -> Path:
    """Write the page to index.html in `folder`.

    Raises:
        InputError: as of `entries`, or an index.html is there that this did not write.
    """
    path = Path(folder) / NAME
    text = page(folder)
    if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{path} exists and is no index of reports; move it away, or choose another folder")
    write_text(path, text)
    return path


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if FILES[0] in files:
            yield Path(place) / FILES[0]


def _entry(file: Path, folder: Path) -> Entry:
    written = datetime.datetime.fromtimestamp(file.stat().st_mtime)
    shown = file.with_name(FILES[2])
    place = {"folder": file.parent.relative_to(folder), "written": written}
    try:
        report = Report.load(file)
    except InputError as error:
        page, problem = file.relative_to(folder), shortened(error, 200)
        return Entry(title=file.parent.name, summary="", rows=0, page=page, problem=problem, **place)
    return Entry(
        title=report.title,
        summary=report.summary[0] if report.summary else "",
        rows=len(report.rows),
        page=(shown if shown.is_file() else file).relative_to(folder),
        **place,
    )
