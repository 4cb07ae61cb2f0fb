"""`hardy stream`: language models and videos within a bounded, packed cache."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hardy.cli.interrupts import interruptible, until_interrupted
from hardy.cli.options import Device, Dtype, Kept, Model, Text, Workers, new_folder, numbers, shown

app = typer.Typer(help="Endless text and endless video in bounded, packed memory.", no_args_is_help=True)

SCORERS = (
    "sink-recent, sliding, random, key-norm, key-diversity, pooled-query, snapkv, accumulated-attention, "
    "residual-shift."
)
Codec = Annotated[str, typer.Option(help="affine: scale and minimum; lloyd-max: after a random rotation.")]


@app.command()
def evaluate(
    model: Model = "tiny-llama",
    text: Text = None,
    budgets: Annotated[
        str, typer.Option(help="Tokens of each layer (256), or bytes of the whole cache (1MB), by commas.")
    ] = "128,256",
    policies: Annotated[str, typer.Option(help=f"By commas: {SCORERS}")] = "sink-recent,pooled-query",
    bits: Annotated[str, typer.Option(help="Of codes, by commas; 16 packs nothing.")] = "16,4",
    codec: Codec = "affine",
    tokens: Annotated[
        int | None, typer.Option(help="Of each text; by default the model's context, at most 4096.")
    ] = None,
    chunk: Annotated[int, typer.Option(help="Tokens that are read at once.")] = 64,
    facts: Annotated[int, typer.Option(help="Planted in each text and asked for at its end; 0 for none.")] = 4,
    seeds: Annotated[int, typer.Option(help="Texts, each from another place with other facts.")] = 2,
    out: Kept = None,
    device: Device = None,
    dtype: Dtype = None,
    workers: Workers = 1,
) -> None:
    """Perplexity of a long text and recall of planted facts against bytes of the cache, beside the dense one."""
    from hardy.stream.evaluation import METRICS
    from hardy.stream.evaluation import evaluate as run

    with interruptible(out):
        report = run(
            model,
            text=text,
            budgets=_names(budgets),
            policies=_names(policies),
            bits=numbers(bits, int, "bits"),
            codec=codec,
            tokens=tokens,
            chunk=chunk,
            facts=facts,
            seeds=seeds,
            out=out,
            device=device,
            dtype=dtype,
            workers=workers,
        )
    shown(report, out, metrics=METRICS if facts else tuple(name for name in METRICS if name != "recall"))


@app.command()
def chat(
    model: Model = "tiny-llama",
    budget: Annotated[str, typer.Option(help="512 tokens of each layer, or 64MB of the whole cache.")] = "64MB",
    policy: Annotated[str, typer.Option(help=f"What stays: {SCORERS}")] = "sink-recent",
    bits: Annotated[int, typer.Option(help="Of codes; 16 packs nothing.")] = 4,
    codec: Codec = "affine",
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer at most.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the choice of tokens.")] = 0,
    out: Kept = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Talk, a line at a time, in a session that never grows: the cache keeps within its budget for as long as you like.

    /stats shows what the cache holds, /quit or the end of the input ends the session.
    """
    from hardy.stream.chat import Chat
    from hardy.stream.policy import KVPolicy
    from hardy.zoo.subject import Subject

    rule = KVPolicy(budget=int(budget) if budget.isdecimal() else budget, bits=bits, scorer=policy, codec=codec,
                    protect="turn")  # fmt: skip
    with interruptible(out):
        subject = Subject.of(model, device=device, dtype=dtype)
        session = Chat(subject, rule, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, out=out)
        if session.turns:
            typer.echo(f"Going on after {len(session.turns)} turns.", err=True)
        warned = False
        while True:
            if sys.stdin.isatty():
                typer.echo("> ", nl=False)
            line = sys.stdin.readline()
            if not line or line.strip() == "/quit":
                break
            if line.strip() == "/stats":
                typer.echo(", ".join(f"{name} {value}" for name, value in session.cache.stats.items()))
            elif line.strip():
                for piece in session.say(line.strip()):
                    typer.echo(piece, nl=False)
                stats = session.cache.stats
                typer.echo("")
                typer.echo(f"[{stats['seen']} seen, {stats['kept']} kept, {stats['bytes'] / 1e6:.4g} MB]", err=True)
                if (notes := session.report().notes) and not warned:
                    warned = True
                    typer.echo(f"Note: {notes[0]}", err=True)
    if out is not None and session.turns:
        typer.echo(f"Report: {out}/report.html  (hardy report open {out})", err=True)


@app.command()
def run(
    frames: Annotated[Path, typer.Argument(help="A folder of pictures, or a video file.")],
    out: Annotated[Path, typer.Argument(help="Folder of what is found; the same goes on.", callback=new_folder)],
    weights: Annotated[
        Path | None, typer.Option(help="VGGT or StreamVGGT as .pt, .pth or .safetensors; hardy's tiny-vggt by default.")
    ] = None,
    budget: Annotated[
        str, typer.Option(help="4f (frames), 2048 (tokens of each layer), 64MB (the whole cache), or all.")
    ] = "4f",
    policy: Annotated[str, typer.Option(help=f"What stays beside the first and the current frame: {SCORERS}")] = (
        "sink-recent"
    ),
    bits: Annotated[int, typer.Option(help="Of codes; 16 packs nothing.")] = 4,
    codec: Codec = "affine",
    camera_cache: Annotated[
        Literal["shared", "per-iteration"] | None,
        typer.Option(help="shared or per-iteration; by default as the weights were trained."),
    ] = None,
    long_side: Annotated[
        int | None, typer.Option(help="Of frames as the model sees them, in pixels; by default what it was made for.")
    ] = None,
    stride: Annotated[int, typer.Option(help="Of so many frames one is read.")] = 1,
    limit: Annotated[int | None, typer.Option(help="At most so many are.")] = None,
    rate: Annotated[float, typer.Option(help="Frames in a second, for the times of the trajectory.")] = 1.0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Pose, depth and points of every frame of a video, in memory that does not grow.

    OUT gets a file per frame as it comes, and at the end a trajectory (TUM), points (PLY), a COLMAP model that
    `hardy splat train OUT` takes, and a report. `hardy stream view OUT` shows it in the browser meanwhile.
    """
    import torch

    from hardy.devices import device_of
    from hardy.stream.policy import KVPolicy
    from hardy.stream.running import run as stream
    from hardy.stream.vggt import load_vggt, tiny_vggt
    from hardy.zoo.loading import dtype_of

    limited = None if budget == "all" else int(budget) if budget.isdecimal() else budget
    rule = KVPolicy(budget=limited, bits=bits, scorer=policy, codec=codec, protect="frame")
    place, kind = device_of(device), dtype_of(dtype or "float32")
    if not isinstance(kind, torch.dtype):
        kind = torch.float32
    with interruptible(out):
        model, left_out = (tiny_vggt().to(kind), 0) if weights is None else load_vggt(weights, dtype=kind)
        report = stream(
            frames, out, model=model.to(place), policy=rule, camera_cache=camera_cache, long_side=long_side,
            stride=stride, limit=limit, rate=rate, left_out_weights=left_out,
        )  # fmt: skip
    shown(report, out)


@app.command()
def view(
    folder: Annotated[Path, typer.Argument(help="OUT of `hardy stream run`, which may be going on.")],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The next free one is taken if it is not.")] = 8080,
    frames: Annotated[int, typer.Option(help="At most so many are shown, the newest.")] = 100,
) -> None:
    """Show the points and cameras of a stream in the browser, as it goes on."""
    from hardy.stream.viewer import StreamViewer

    viewer = StreamViewer(folder, host=host, port=port, frames=frames)
    until_interrupted(f"Showing {folder} at {viewer.url}", viewer.stop)


def _names(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]
