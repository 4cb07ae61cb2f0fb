"""`hardy teach`: training that looks only at the graphs that still teach, beside full training and random choice."""

from pathlib import Path
from typing import Annotated

import typer

from hardy.cli.options import MOST_SEEDS, Kept, Workers, interruptible, shown

DEMO = "demo"


def teach(
    data: Annotated[str, typer.Argument(help="Text file, .csv of SMILES, PyG folder; or demo, which makes graphs.")],
    task: Annotated[
        str | None, typer.Option(help="graph- or node-regression or -classification; by default what the labels are.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column of a .csv; the last one of numbers by default.")] = None,
    model: Annotated[str, typer.Option(help="flexible (GraNT's GCN), gcn or gin.")] = "gin",
    teacher: Annotated[str, typer.Option(help="soft, hard, batch, proportional, mix; several by commas.")] = "soft",
    score: Annotated[str, typer.Option(help="gradient-norm, loss or kernel-norm.")] = "gradient-norm",
    schedule: Annotated[str, typer.Option(help="staircase, linear, cosine, constant or reverse-cosine.")] = "staircase",
    start: Annotated[float, typer.Option(help="The first share of the graphs (the last, for reverse-cosine).")] = 0.05,
    epochs: Annotated[int | None, typer.Option(help="Of every arm; 200, or 30 for the demo.")] = None,
    batch_size: Annotated[int, typer.Option(help="Graphs in a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    width: Annotated[int, typer.Option(help="Of hidden layers.")] = 64,
    protocol: Annotated[str, typer.Option(help="minibatch, or paper: one step an epoch, GraNT's way.")] = "minibatch",
    seeds: Annotated[int, typer.Option(help="Splits and starts, the same for every arm.", max=MOST_SEEDS)] = 3,
    count: Annotated[int, typer.Option(help="Graphs of the demo.")] = 400,
    out: Kept = None,
    workers: Workers = 1,
) -> None:
    """Train a graph network in full, taught, and on random graphs by the same schedule: metric against time."""
    from hardy.teach import graphs
    from hardy.teach.experiment import Plan, experiment
    from hardy.teach.training import Training

    training = Training(
        epochs=epochs or (30 if data == DEMO else 200), batch_size=batch_size, learning_rate=learning_rate,
        protocol=protocol,  # pyright: ignore[reportArgumentType] - checked there
    )  # fmt: skip
    names = tuple(name.strip() for name in teacher.split(",") if name.strip())
    plan = Plan(
        model=model, selectors=names, score=score, ratio=schedule, start=start, width=width, training=training
    )  # fmt: skip
    if data == DEMO and not Path(DEMO).exists():
        kind = graphs.TASKS[0] if task is None else task
        found = graphs.generated(kind, count, nodes=(10, 30))  # pyright: ignore[reportArgumentType]
    else:
        found = graphs.read(data, task=task, target=target)  # pyright: ignore[reportArgumentType]
    with interruptible(out):
        report = experiment(found, plan, seeds=seeds, out=out, workers=workers)
    shown(report, out)
