"""What several commands share: options, lists of numbers in one, and how a stopped command ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from hardy.errors import InputError

if TYPE_CHECKING:
    from hardy.core import Report

Number = TypeVar("Number", int, float)

Model = Annotated[str, typer.Option(help="Zoo name, Hugging Face folder, or hub id.")]
Text = Annotated[str | None, typer.Option(help="A UTF-8 file; by default held-out standard-library modules.")]
Bits = Annotated[int, typer.Option(help="Bits per weight, 2 to 8.")]
GroupSize = Annotated[int, typer.Option(help="Weights that share a scale; 0 for one scale per output channel.")]
Select = Annotated[str, typer.Option(help="Which layers: roles, globs, re: patterns, ! to exclude.")]
Tokens = Annotated[int, typer.Option(help="Tokens of text per measurement.")]
Window = Annotated[int | None, typer.Option(help="Tokens the model sees at once; by default its context, at most 512.")]
Backend = Annotated[Literal["local", "ray"], typer.Option(help="Processes on this machine, or a Ray cluster.")]
Workers = Annotated[int | None, typer.Option(help="Processes at once; by default all cores.")]


def numbers(text: str, kind: Callable[[str], Number], name: str) -> tuple[Number, ...]:
    """The comma-separated numbers of an option; none for an empty text.

    Raises:
        InputError: an entry is not a number of this kind.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    try:
        return tuple(kind(entry) for entry in entries)
    except ValueError:
        raise InputError(f"--{name} takes numbers separated by commas, got {text!r}") from None


@contextmanager
def interruptible(out: str | Path | None) -> Iterator[None]:
    """Ends a command stopped with Ctrl-C in a line that says what is kept in `out`, and exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f" What is finished is in {out}; the same command goes on from there." if out else ""
        typer.echo(f"\nInterrupted.{kept}", err=True)
        raise typer.Exit(130) from None


def shown(report: "Report", out: str | Path | None, **options: Any) -> None:
    """Print a report (`options` as of `Report.print`), and where its page is, if it was kept."""
    report.print(**options)
    if out is not None:
        typer.echo(f"Report: {out}/report.html  (hardy report open {out})")
