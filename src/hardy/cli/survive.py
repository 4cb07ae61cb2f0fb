"""`hardy survive`: is what was found inside of a model still there on few bits and under noise?"""

from typing import Annotated

import typer

from hardy.cli.interrupts import interruptible
from hardy.cli.options import Device, Dtype, Kept, Model, numbers, shown

app = typer.Typer(
    help="Whether what carries or steers a behaviour is still there on 2 to 4 bits, 1 to 3 trit-planes, in noise.",
    no_args_is_help=True,
)
Noise = Annotated[float, typer.Option(help="Standard deviation of the noise, as a share of each weight.")]
Seeds = Annotated[int, typer.Option(help="Of the noise.")]


@app.command("circuit")
def survive_circuit(
    model: Model,
    task: Annotated[str, typer.Option(help="A file of JSON lines, or indirect-object, greater-than, induction.")],
    noise: Noise = 0.05,
    seeds: Seeds = 3,
    steps: Annotated[int, typer.Option(help="Points that gradients are averaged over.")] = 2,
    share: Annotated[float, typer.Option(help="Of the edges that make up a circuit.")] = 0.05,
    examples: Annotated[int, typer.Option(help="Examples of a known task.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the draw of a known task.")] = 0,
    out: Kept = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Heads and edges that carry a behaviour, located before and after: the same ones, and still faithful?"""
    from hardy.interp.pages import task_of
    from hardy.studies import circuit_survival
    from hardy.studies.circuit_study import usual_conditions
    from hardy.zoo import Subject

    subject = Subject.of(model, device=device, dtype=dtype)
    given = task_of(task, subject, n=examples, seed=seed)
    with interruptible(out):
        report = circuit_survival(
            subject, given, methods=usual_conditions(noise), seeds=seeds, steps=steps, share=share, out=out
        )
    shown(report, out, metrics=("score_kept", "heads_spearman", "edges_shared", "old_circuit", "random_edges"))


@app.command("vector")
def survive_vector(
    model: Model,
    pairs: Annotated[str, typer.Option(help="A file of JSON lines of positive and negative; or sentiment.")],
    task: Annotated[
        str | None, typer.Option(help="Judges the vector: a task file; for sentiment, neutral openings by default.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Block after which it is added; by default the middle one.")] = None,
    scales: Annotated[str, typer.Option(help="Doses, separated by commas.")] = "-1,-0.5,0,0.5,1",
    noise: Noise = 0.05,
    seeds: Seeds = 3,
    out: Kept = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Add a vector made on the model as it is to the model on few bits: its effect, side effect, and random vectors."""
    from hardy.evaluate import encode
    from hardy.interp.steering_pages import judge_of, pairs_of
    from hardy.studies import steering_survival
    from hardy.studies.circuit_study import usual_conditions
    from hardy.zoo import Subject, held_out_text

    subject = Subject.of(model, device=device, dtype=dtype)
    made, judge = pairs_of(pairs, subject), judge_of(task, pairs, subject)
    ids = encode(subject.tokenizer, held_out_text()[:3000])[:128][None].to(subject.device)
    with interruptible(out):
        report = steering_survival(
            subject, made, judge, ids, layer=layer, scales=numbers(scales, float, "scales"),
            methods=usual_conditions(noise), seeds=seeds, out=out,
        )  # fmt: skip
    shown(report, out, metrics=tuple(f"{kind}: effect" for kind in ("old vector", "own vector", "random vectors")))
