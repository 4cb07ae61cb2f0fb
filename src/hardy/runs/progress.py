"""How far a long job is: a bar in a terminal, a line every few seconds where the output is a pipe or a file.

Everything goes to standard error, so that standard output stays what the command prints; worker processes are silent.
HARDY_PROGRESS says otherwise if it has to: auto (the default), bar, lines or off.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hardy import checks

T = TypeVar("T")
EVERY = 5.0
"""Seconds between two lines."""
_REFRESH = 0.05
_silent = 0
_running: Progress | None = None
"""The bars on the screen: a job inside another gets a bar of its own below."""


class Bar:
    """How far one job is; this one shows nothing."""

    def __init__(self, title: str, total: int | None, done: int) -> None:
        self.title, self.total, self.done, self.note = title, total, done, ""

    def update(self, done: int, note: str | None = None) -> None:
        """`done` steps are behind; `note` says what they gave ("31.2 dB") and stays until the next."""
        self.done = done
        self.note = self.note if note is None else note
        self._show()

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """`steps` more are done."""
        self.update(self.done + steps, note)

    def print(self, line: str) -> None:
        """A line that stays, whatever the bar does."""

    def _show(self) -> None: ...

    def _end(self) -> None: ...


class _Drawn(Bar):
    """A bar of rich."""

    def __init__(self, title: str, total: int | None, done: int, screen: Progress) -> None:
        super().__init__(title, total, done)
        self._screen, self._shown = screen, time.monotonic()
        self._task = screen.add_task(escape(title), total=total, completed=done, note="")

    def print(self, line: str) -> None:
        self._screen.console.print(line, markup=False, highlight=False)

    def _show(self) -> None:
        if time.monotonic() - self._shown > _REFRESH or self.done == self.total:
            self._end()
            self._shown = time.monotonic()

    def _end(self) -> None:
        self._screen.update(self._task, completed=self.done, note=escape(self.note))


class _Lines(Bar):
    """A line now and then."""

    def __init__(self, title: str, total: int | None, done: int) -> None:
        super().__init__(title, total, done)
        self._first, self._begun = done, time.monotonic()
        self._written = self._begun
        self._last = -1

    def print(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._written >= EVERY:
            self._written, self._last = now, self.done
            self.print(self._line(now - self._begun))

    def _end(self) -> None:
        if self._last not in (-1, self.done):
            self.print(self._line(time.monotonic() - self._begun))

    def _line(self, seconds: float) -> str:
        parts = [f"{_clock(seconds)} elapsed"]
        count = str(self.done)
        if self.total is not None:
            count = f"{self.done}/{self.total} ({self.done / self.total if self.total else 1:.0%})"
            made = self.done - self._first
            if made > 0 and self.done < self.total:
                parts.append(f"{_clock(seconds / made * (self.total - self.done))} left")
        return ", ".join([f"{self.title}: {count}", *parts, *([self.note] if self.note else [])])


@contextlib.contextmanager
def progress(title: str, total: int | None, *, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """Show how far a job is, for as long as the context lasts.

    Args:
        title: what is done ("fit", "train", the name of a file).
        total: its steps; None if nobody knows.
        done: steps that an earlier run has behind it.
        show: False shows nothing.
    """
    global _running
    kind = _kind() if show else "off"
    if kind == "off":
        yield Bar(title, total, done)
    elif kind == "lines":
        bar = _Lines(title, total, done)
        yield bar
        bar._end()
    elif _running is not None:
        bar = _Drawn(title, total, done, _running)
        try:
            yield bar
        finally:
            _running.remove_task(bar._task)
    else:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        force = True if os.environ.get("HARDY_PROGRESS") == "bar" else None
        with Progress(*columns, console=Console(stderr=True, force_terminal=force), transient=True) as screen:
            _running = screen
            try:
                yield _Drawn(title, total, done, screen)
            finally:
                _running = None


def track(values: Iterable[T], title: str, *, total: int | None = None, show: bool = True) -> Iterator[T]:
    """`values`, one by one, with the progress of whoever takes them."""
    if total is None and isinstance(values, Collection):
        total = len(values)
    with progress(title, total, show=show) as bar:
        for value in values:
            yield value
            bar.advance()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """No progress from anything inside: for jobs that show the whole."""
    global _silent
    _silent += 1
    try:
        yield
    finally:
        _silent -= 1


def _kind() -> str:
    asked = checks.one_of("HARDY_PROGRESS", os.environ.get("HARDY_PROGRESS") or "auto", ("auto", "bar", "lines", "off"))
    if _silent:
        return "off"
    if asked != "auto":
        return asked
    if multiprocessing.parent_process() is not None:
        return "off"  # whoever started this worker shows the whole
    console = Console(stderr=True)
    return "bar" if (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter else "lines"


def _clock(seconds: float) -> str:
    """0:07, 12:34, 3:07:00."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
