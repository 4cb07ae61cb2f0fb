"""`hardy binarize`: a network with binary weights and few-bit activations, trained, packed, and shown on a page."""

from typing import Annotated

import typer

from hardy.cli.interrupts import interruptible
from hardy.cli.options import new_folder, numbers, shown


def binarize(
    model: Annotated[
        str, typer.Argument(help="tiny-cnn, a folder of hardy, or module:function that makes the network.")
    ],
    out: Annotated[
        str,
        typer.Argument(help="Folder of the packed model and its page; the same command goes on.", callback=new_folder),
    ],
    activation_bits: Annotated[int, typer.Option(help="1 to 8, of the model that is kept.")] = 4,
    data: Annotated[
        str | None, typer.Option(help=".npz of x_train, y_train, x_test, y_test, or pictures in a folder by class.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help=".safetensors for the network of module:function.")] = None,
    method: Annotated[str, typer.Option(help="bwma, bwma-lloyd, xnor, lsq-a, dorefa, irnet, reactnet.")] = "bwma",
    activation: Annotated[
        str | None, typer.Option(help="lsq, pact, dorefa, staircase, rsign; by default the method's own.")
    ] = None,
    sweep: Annotated[str, typer.Option(help="Train these activation bits too, for the curves.")] = "1,2,8",
    epochs: Annotated[int, typer.Option(help="Of every training.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of Adam, falling to zero.")] = 2e-3,
    select: Annotated[str | None, typer.Option(help="Which layers; by default all but the first and the last.")] = None,
    eight_bit: Annotated[
        str | None, typer.Option(help="Layers that have 8-bit weights and inputs instead, as conv1,head.")
    ] = None,
    rectifier: Annotated[str | None, typer.Option(help="rprelu: ReActNet's, in the place of every ReLU.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the images.")] = 0,
) -> None:
    """Train binary weights and few-bit activations, keep one bit per weight, and show what it costs and saves."""
    from hardy.studies.binarize import Plan
    from hardy.studies.binarize import binarize as run

    plan = Plan(
        activation_bits=activation_bits, method=method, activation=activation, sweep=numbers(sweep, int, "sweep"),
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, select=select,
        eight_bit=eight_bit, rectifier=rectifier, seed=seed,
    )  # fmt: skip
    with interruptible(f"{out}.training"):
        report = run(model, out, plan=plan, data=data, weights=weights)
    shown(report, out, metrics=("accuracy", "bytes", "energy"))
