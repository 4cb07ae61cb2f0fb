"""`hardy repair`: what a repair gives back on a chip, and what it costs."""

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
    Text,
    Tokens,
    Window,
    Workers,
    shown,
)
from hardy.errors import InputError


def repair(
    model: Model,
    by: Annotated[str, typer.Option("--with", help="hpd, romer, redundancy, halora; several by commas; suited.")],
    chip: Chip = "reram-wan",
    seeds: Seeds = 10,
    select: Annotated[
        str | None, typer.Option(help="What is split (hpd), copied (redundancy) or adapted (halora).")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="In which layers: last, 0, 0:2, 1,5.")] = None,
    copies: Annotated[int, typer.Option(help="Copies of each layer, for redundancy.")] = 2,
    rank: Annotated[int, typer.Option(help="Of adapters, for halora.")] = 8,
    steps: Annotated[int, typer.Option(help="Of training adapters, for halora.")] = 200,
    learning_rate: Annotated[float, typer.Option(help="Of training adapters, for halora.")] = 3e-4,
    text: Text = None,
    out: Kept = None,
    tokens: Tokens = 3072,
    window: Window = None,
    device: Device = None,
    dtype: Dtype = None,
    backend: Backend = "local",
    workers: Workers = None,
) -> None:
    """Perplexity recovered on a noisy chip against extra arrays, digital multiplications and memory."""
    from hardy.studies import repair as run
    from hardy.studies import repairs

    names = [name.strip() for name in by.split(",") if name.strip()]
    options = {
        "chip": chip, "n_seeds": seeds, "select": select, "layers": layers, "copies": copies, "rank": rank,
        "steps": steps, "learning_rate": learning_rate, "text": text, "out": out, "tokens": tokens, "window": window,
        "device": device, "dtype": dtype, "backend": backend, "workers": workers,
    }  # fmt: skip
    with interruptible(out):
        if len(names) == 1 and names[0] != "suited":
            report = run(model, by=names[0], **options)  # pyright: ignore[reportArgumentType]
        else:
            if select is not None or layers is not None:
                raise InputError("--select and --layers are for one repair; give --with one of them")
            del options["select"], options["layers"]
            report = repairs(model, names, **options)  # pyright: ignore[reportArgumentType]
    shown(report, out)
