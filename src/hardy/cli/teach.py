"""`hardy teach`: training that looks only at the graphs that still teach, beside full training and random choice."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hardy.cli.interrupts import interruptible
from hardy.cli.options import MOST_SEEDS, Kept, Workers, numbers, shown

DEMO = "demo"


def teach(
    data: Annotated[str, typer.Argument(help="Text file, .csv of SMILES, PyG folder; or demo, which makes graphs.")],
    task: Annotated[
        str | None, typer.Option(help="graph- or node-regression or -classification; by default what the labels are.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Column of a .csv, or several by commas; the last one of numbers by default.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="gin (the default), gcn or flexible (GraNT's GCN).")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="soft (the default), hard, batch, proportional, mix, kernel-guided; several by commas."),
    ] = None,
    score: Annotated[str, typer.Option(help="gradient-norm, loss, kernel-norm or loss-cap.")] = "gradient-norm",
    schedule: Annotated[str, typer.Option(help="staircase, linear, cosine, constant or reverse-cosine.")] = "staircase",
    start: Annotated[float, typer.Option(help="The first share of the graphs (the last, for reverse-cosine).")] = 0.05,
    epochs: Annotated[int | None, typer.Option(help="Of every arm; 200, or 30 for the demo.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Graphs in a step; 64.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW; 0.001.")] = None,
    width: Annotated[int | None, typer.Option(help="Of hidden layers; 64.")] = None,
    orders: Annotated[str, typer.Option(help="Of the flexible GCN's layers, by commas; 3,2.")] = "",
    protocol: Annotated[
        str,
        typer.Option(help="minibatch; or paper: GraNT's network, settings and one step an epoch, where not given."),
    ] = "minibatch",
    seeds: Annotated[int, typer.Option(help="Splits and starts, the same for every arm.", max=MOST_SEEDS)] = 3,
    count: Annotated[int, typer.Option(help="Graphs of the demo.")] = 400,
    out: Kept = None,
    workers: Workers = 1,
) -> None:
    """Train a graph network in full, taught, and on random graphs by the same schedule: metric against time."""
    from hardy.teach import graphs
    from hardy.teach.experiment import Plan, experiment

    demo = data == DEMO and not Path(DEMO).exists()
    names = None if teacher is None else tuple(name.strip() for name in teacher.split(",") if name.strip())
    trained = {
        "epochs": epochs or (30 if demo and protocol == "minibatch" else None), "batch_size": batch_size,
        "learning_rate": learning_rate,
    }  # fmt: skip
    fields = {
        "model": model, "selectors": names, "score": score, "ratio": schedule, "start": start, "width": width,
        "orders": numbers(orders, int, "orders") or None,
    }  # fmt: skip

    def plan(kind: str) -> Plan:
        return Plan.of_protocol(protocol, kind, training=given(trained), **given(fields))

    plan(task or graphs.TASKS[0])  # what is wrong with the options is said before anything is read
    if demo:
        kind = graphs.TASKS[0] if task is None else task
        found = graphs.generated(kind, count, nodes=(10, 30))  # pyright: ignore[reportArgumentType]
    else:
        found = graphs.read(data, task=task, target=target)  # pyright: ignore[reportArgumentType]
    with interruptible(out):
        report = experiment(found, plan(found.task), seeds=seeds, out=out, workers=workers)
    shown(report, out)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that are not left to their defaults."""
    return {name: value for name, value in values.items() if value is not None}
