"""What several commands share: options, lists of numbers in one, and how a stopped command ends."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from hardy.errors import InputError

if TYPE_CHECKING:
    from hardy.core import Report

INCOMPLETE = 3
"""Exit status of a command that measured, but not all of it."""

Number = TypeVar("Number", int, float)
Place = TypeVar("Place", str, Path, None)


def new_file(path: Place) -> Place:
    """Callback of an option: a file that will be written, refused before any work if it could not be."""
    if path is not None:
        from hardy.files import check_writable

        check_writable(path)
    return path


def new_folder(path: Place) -> Place:
    """Likewise a folder that files will be written into."""
    if path is not None:
        from hardy.files import check_writable

        check_writable(path, folder=True)
    return path


_MODEL = "Zoo name, Hugging Face folder, GGUF file, or hub id."
Model = Annotated[str, typer.Argument(help=_MODEL)]
ModelOption = Annotated[str, typer.Option("--model", help=_MODEL)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; by default a GPU if there is one.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32 (the default), bfloat16, float16, or auto for the stored one."),
]
Text = Annotated[str | None, typer.Option(help="A UTF-8 file; by default held-out standard-library modules.")]
Chip = Annotated[str, typer.Option(help="A preset, a chip as .json, or a .csv table of measured cells.")]
MOST_SEEDS = 10_000
Seeds = Annotated[int, typer.Option(help="Chip instances.", max=MOST_SEEDS)]
Kept = Annotated[
    str | None,
    typer.Option(help="Folder to keep the study and its report in; the same command resumes.", callback=new_folder),
]
GroupSize = Annotated[int, typer.Option(help="Weights that share a scale; 0 for one scale per output channel.")]
Select = Annotated[str, typer.Option(help="Which layers: roles, globs, re: patterns, ! to exclude.")]
Tokens = Annotated[int, typer.Option(help="Tokens of text per measurement.")]
Window = Annotated[int | None, typer.Option(help="Tokens the model sees at once; by default its context, at most 512.")]
Backend = Annotated[Literal["local", "ray"], typer.Option(help="Processes on this machine, or a Ray cluster.")]
Workers = Annotated[int | None, typer.Option(help="Processes at once; by default as cores and memory allow.")]


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


def shown(report: "Report", out: str | Path | None, **options: Any) -> None:
    """Print a report (`options` as of `Report.print`), and where its page is, if it was kept.

    Ends the command with exit status 3 if cells failed.
    """
    from hardy.runs.conditions import FAILED

    failed = report.select(FAILED)
    if failed and "metrics" in options:
        options["metrics"] = (*options["metrics"], FAILED)
    report.print(**options)
    if out is not None:
        typer.echo(f"Report: {out}/report.html  (hardy report open {out})")
    if failed:
        count = sum(round(row.value) for row in failed)
        typer.echo(f"{count} cells failed; the report's notes say why. The same command tries them again.", err=True)
        raise typer.Exit(INCOMPLETE)


@contextmanager
def complete() -> Iterator[None]:
    """Ends a command with exit status 3 and one line for each warning that something could not be measured."""
    from hardy.studies.fragility import FailedCells

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FailedCells)
        yield
    for warning in caught:
        if issubclass(warning.category, FailedCells):
            typer.echo(str(warning.message), err=True)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if any(issubclass(warning.category, FailedCells) for warning in caught):
        raise typer.Exit(INCOMPLETE)
