"""`hardy place`: which matrices of a language model are worth a place on a chip, and how many copies."""

from typing import Annotated

import typer

from hardy.cli.interrupts import interruptible
from hardy.cli.options import (
    Backend,
    Chip,
    Device,
    Dtype,
    Kept,
    Model,
    Seeds,
    Select,
    Text,
    Tokens,
    Window,
    Workers,
    numbers,
    shown,
)


def place(
    model: Model = "tiny-llama",
    chip: Chip = "reram-wan",
    energy: Annotated[
        float, typer.Option(help="Budget: share of the energy that a token takes when all is digital.")
    ] = 0.5,
    arrays: Annotated[
        float | None, typer.Option(help="Budget: share of the arrays that hold all matrices once.")
    ] = None,
    copies: Annotated[str, typer.Option(help="Numbers of copies that may be chosen, separated by commas.")] = "1,2,4",
    slices: Annotated[
        str,
        typer.Option(
            help="Pairs of cells that may share a weight beside the chip's own number, separated by commas; for chips "
            "whose cells have levels."
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(help="Chip instances that each matrix alone is measured on.")] = 3,
    judged: Seeds = 10,
    select: Select = "linear,!head,!router",
    text: Text = None,
    out: Kept = None,
    tokens: Tokens = 3072,
    window: Window = None,
    device: Device = None,
    dtype: Dtype = None,
    backend: Backend = "local",
    workers: Workers = None,
) -> None:
    """Choose what of a model is digital or on the chip, in copies or more bits, within a budget; and measure that."""
    from hardy.studies import place as run

    with interruptible(out):
        report = run(
            model,
            chip=chip,
            energy=energy,
            arrays=arrays,
            copies=numbers(copies, int, "copies"),
            slices=numbers(slices, int, "slices") if slices else (),
            n_seeds=seeds,
            n_judged=judged,
            select=select,
            text=text,
            out=out,
            tokens=tokens,
            window=window,
            device=device,
            dtype=dtype,
            backend=backend,
            workers=workers,
        )
    shown(report, out)
