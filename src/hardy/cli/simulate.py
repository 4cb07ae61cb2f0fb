"""`hardy simulate`: a language model on a chip."""

from typing import Annotated

import typer

from hardy.cli.options import Backend, Select, Text, Tokens, Window, Workers, interruptible, shown

Chip = Annotated[str, typer.Option(help="A preset, a chip as .json, or a .csv table of measured cells.")]
Time = Annotated[str, typer.Option(help="Times after programming, separated by commas: 0, 1h, 1d, 1y.")]


def simulate(
    model: Annotated[str, typer.Argument(help="Zoo name, Hugging Face folder, or hub id.")] = "tiny-llama",
    chip: Chip = "reram-wan",
    time: Time = "0",
    seeds: Annotated[int, typer.Option(help="Chip instances at each time.")] = 10,
    adc_range: Annotated[
        float | None, typer.Option(help="Fixed range of the output converters, in cells; calibrated without.")
    ] = None,
    text: Text = None,
    out: Annotated[str | None, typer.Option(help="Folder to keep the study and its report in.")] = None,
    select: Select = "linear,!head,!router",
    tokens: Tokens = 3072,
    window: Window = None,
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
            seeds=seeds,
            adc_range=adc_range,
            select=select,
            text=text,
            out=out,
            tokens=tokens,
            window=window,
            backend=backend,
            workers=workers,
        )
    shown(report, out)
