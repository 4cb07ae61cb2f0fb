"""`hardy quantize` and `hardy export`: few bits on disk, and what they cost."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from hardy.cli.interrupts import interruptible
from hardy.cli.options import (
    Device,
    Dtype,
    GroupSize,
    Model,
    Select,
    Text,
    Tokens,
    Window,
    complete,
    new_file,
    new_folder,
    numbers,
)


def quantize(
    model: Model,
    out: Annotated[str, typer.Argument(help="Folder of the packed model and its report.", callback=new_folder)],
    bits: Annotated[str, typer.Option(help="A grid of so many bits; two or more, as 2,4, with a budget.")] = "",
    planes: Annotated[str, typer.Option(help="So many trit-planes, 1 to 3; two or more with a budget.")] = "",
    budget: Annotated[
        float | None, typer.Option(help="Most bits per weight, scales counted; more for layers that matter.")
    ] = None,
    by: Annotated[str, typer.Option(help="How layers are ranked for the budget, as in hardy locate.")] = (
        "perplexity-drop"
    ),
    calibration: Annotated[
        str,
        typer.Option(help="own (its own samples), held-out, a UTF-8 file, several with commas, or none: no data."),
    ] = "own,held-out",
    text: Text = None,
    group_size: GroupSize = 128,
    select: Select = "linear,!head,!router",
    tokens: Tokens = 3072,
    window: Window = None,
    calibration_tokens: Annotated[int, typer.Option(help="Tokens of calibration text.")] = 8192,
    correction: Annotated[
        float, typer.Option(help="Share of the errors of earlier layers that a layer makes up for; 0 for none.")
    ] = 0.3,
    damping: Annotated[
        float, typer.Option(help="How little to trust the calibration text, 0 to 1; more keeps other texts better.")
    ] = 0.1,
    rotation: Annotated[
        int, typer.Option(help="Inputs turned together so that none sticks out, a power of two; 0 for none.")
    ] = 128,
    tune: Annotated[int, typer.Option(help="Steps of training the scales of trit-planes; 100 help, 0 for none.")] = 0,
    embedding_bits: Annotated[
        int, typer.Option(help="Bits of the embedding and the head: 8, 4, or 16 to leave them as they are.")
    ] = 8,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Store a language model in few bits, loadable by transformers, with its true size, errors and perplexity."""
    from rich.console import Console

    from hardy.studies.quantize import SUMMARY
    from hardy.studies.quantize import quantize as run

    with complete(), interruptible(Path(out).with_name(f".{Path(out).name}.unfinished")):
        report = run(
            model,
            out,
            bits=numbers(bits, int, "bits"),
            planes=numbers(planes, int, "planes"),
            budget=budget,
            by=by,
            calibration=calibration,
            text=text,
            group_size=group_size or None,
            select=select,
            tokens=tokens,
            window=window,
            calibration_tokens=calibration_tokens,
            correction=correction,
            damping=damping,
            rotation=rotation,
            tune=tune,
            embedding_bits=embedding_bits,
            device=device,
            dtype=dtype,
        )
    console = Console()
    dataclasses.replace(report, rows=tuple(row for row in report.rows if row.condition in SUMMARY)).print(console)
    console.print(f"Layer by layer: {out}/report.html  (hardy report open {out})", soft_wrap=True)


def export(
    model: Annotated[str, typer.Argument(help="Folder of a model quantized with --planes, or of hardy binarize.")],
    out: Annotated[
        Path,
        typer.Argument(
            help="File to write: .gguf, or for binary weights .onnx, or .qonnx.onnx for QONNX.", callback=new_file
        ),
    ],
) -> None:
    """Write packed trit-planes to a GGUF file (llama.cpp reads it, not runs it), or binary weights to ONNX."""
    if out.suffix == ".onnx":
        from hardy.studies.binarize import export_folder

        qonnx = out.name.endswith(".qonnx.onnx")
        export_folder(model, out, "qonnx" if qonnx else "onnx")
        kind = "Quant and BipolarQuant of QONNX" if qonnx else "QuantizeLinear and DequantizeLinear around int8 weights"
        typer.echo(f"{kind}: {out} ({out.stat().st_size / 1e6:.2f} MB)")
        return
    from hardy.quant.gguf_export import export_gguf
    from hardy.zoo import Subject

    planes = export_gguf(Subject.of(model, dtype="float32").model, out)
    kinds = {kind: list(planes.values()).count(kind) for kind in sorted({*planes.values()})}
    counted = " and ".join(f"{count} planes as {kind}" for kind, count in kinds.items())
    typer.echo(f"{counted}, and all other tensors: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    typer.echo("llama.cpp reads the file, but does not run it: it has no graph that adds planes up.", err=True)
