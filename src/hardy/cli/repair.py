"""`hardy repair`: what a repair without training gives back on a chip, and what it costs."""

from typing import Annotated

import typer

from hardy.cli.options import Backend, Text, Tokens, Window, Workers
from hardy.cli.simulate import Chip


def repair(
    model: Annotated[str, typer.Argument(help="Zoo name, Hugging Face folder, or hub id.")],
    by: Annotated[str, typer.Option("--with", help="hpd, romer or redundancy.")],
    chip: Chip = "reram-wan",
    seeds: Annotated[int, typer.Option(help="Chip instances.")] = 10,
    select: Annotated[str | None, typer.Option(help="What is split (hpd) or copied (redundancy).")] = None,
    layers: Annotated[str | None, typer.Option(help="In which layers: last, 0, 0:2, 1,5.")] = None,
    copies: Annotated[int, typer.Option(help="Copies of each layer, for redundancy.")] = 2,
    text: Text = None,
    out: Annotated[str | None, typer.Option(help="Folder to keep the study and its report in.")] = None,
    tokens: Tokens = 3072,
    window: Window = None,
    backend: Backend = "local",
    workers: Workers = None,
) -> None:
    """Perplexity recovered on a noisy chip against extra arrays, digital multiplications and memory."""
    from hardy.studies.repair import repair as run

    options = {"text": text, "out": out, "tokens": tokens, "window": window, "backend": backend, "workers": workers}
    try:
        report = run(model, by=by, chip=chip, seeds=seeds, where=select, layers=layers, copies=copies, **options)  # pyright: ignore[reportArgumentType]
    except KeyboardInterrupt:
        kept = f" What is finished is in {out}; the same command goes on from there." if out else ""
        typer.echo(f"\nInterrupted.{kept}", err=True)
        raise typer.Exit(130) from None
    report.print()
    if out is not None:
        typer.echo(f"Report: {out}/report.html  (hardy report open {out})")
