"""Options that several commands share, and how a list of numbers is read from one."""

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import typer

from hardy.errors import InputError

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
