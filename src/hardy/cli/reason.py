"""`hardy reason`: how a language model's reasoning stands noise, by way of asking and by where copies are spent."""

from typing import Annotated

import typer

from hardy.cli.interrupts import interruptible
from hardy.cli.options import (
    Backend,
    Device,
    Dtype,
    Kept,
    Model,
    Seeds,
    Select,
    Workers,
    numbers,
    shown,
)


def reason(
    model: Model = "tiny-reasoner",
    tasks: Annotated[str | None, typer.Option(help="JSON lines: answer, and a prompt for each way of asking.")] = None,
    noise: Annotated[
        str, typer.Option(help="proportional (to each weight) or additive (to each output's largest).")
    ] = ("proportional"),
    levels: Annotated[str, typer.Option(help="Noise strengths: standard deviations of a weight.")] = "0.1,0.2,0.3,0.4",
    chip: Annotated[
        str | None, typer.Option(help="Instead of noise: a preset, a chip as .json, or a .csv table of cells.")
    ] = None,
    seeds: Seeds = 10,
    copies: Annotated[int, typer.Option(help="Copies of each layer in a third of them; 1 for none.")] = 3,
    problems: Annotated[int, typer.Option(help="Problems at most.")] = 200,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer at most.")] = None,
    longest: Annotated[int | None, typer.Option(help="The old name of --max-new-tokens.", hidden=True)] = None,
    select: Select = "linear,!head,!router",
    out: Kept = None,
    device: Device = None,
    dtype: Dtype = None,
    backend: Backend = "local",
    workers: Workers = None,
) -> None:
    """Right answers and their length under noise: at once, in written steps, after examples, with copied layers."""
    from hardy.studies import reasoning as run

    if longest is not None:
        typer.echo("--longest is now called --max-new-tokens; the old name goes with the next version", err=True)
        max_new_tokens = longest if max_new_tokens is None else max_new_tokens
    with interruptible(out):
        report = run(
            model,
            tasks=tasks,
            noise=noise,  # pyright: ignore[reportArgumentType]
            levels=numbers(levels, float, "levels"),
            chip=chip,
            n_seeds=seeds,
            copies=copies,
            problems=problems,
            max_new_tokens=max_new_tokens,
            select=select,
            out=out,
            device=device,
            dtype=dtype,
            backend=backend,
            workers=workers,
        )
    shown(report, out)
