"""`hardy simulate`: a language model on a chip."""

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
    shown,
)

Time = Annotated[str, typer.Option(help="Times after programming, separated by commas: 0, 1h, 1d, 1y.")]


def simulate(
    model: Model = "tiny-llama",
    chip: Chip = "reram-wan",
    time: Time = "0",
    seeds: Seeds = 10,
    adc_range: Annotated[
        float | None, typer.Option(help="Fixed range of the output converters, in cells; calibrated without.")
    ] = None,
    text: Text = None,
    out: Kept = None,
    select: Select = "linear,!head,!router",
    tokens: Tokens = 3072,
    window: Window = None,
    device: Device = None,
    dtype: Dtype = None,
    backend: Backend = "local",
    workers: Workers = None,
) -> None:
    """Perplexity of a language model on chip instances, right after programming and later."""
    from hardy.studies import simulate as run

    with interruptible(out):
        report = run(
            model,
            chip=chip,
            times=[entry.strip() for entry in time.split(",") if entry.strip()],
            n_seeds=seeds,
            adc_range=adc_range,
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
