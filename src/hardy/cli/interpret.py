"""`hardy interpret`, `hardy steer`, `hardy circuit`, `hardy prompts`: inside of a language model."""

from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from hardy.cli.interrupts import interruptible
from hardy.cli.options import Device, Dtype, Model, Text, new_file, new_folder, shown

TASK = "A file of JSON lines, or indirect-object, greater-than, induction."
TaskFile = Annotated[str, typer.Option("--task", help=TASK)]
Out = Annotated[
    str | None, typer.Option(help="Folder of the report; the same command goes on from there.", callback=new_folder)
]
Examples = Annotated[int, typer.Option(help="Examples of a known task.")]
Seed = Annotated[int, typer.Option(help="Of the draw of a known task.")]


def interpret(
    model: Model,
    task: TaskFile,
    object: Annotated[
        str, typer.Option("--object", help="head, embedding, residual, attention, ffn, neuron, or feature with --sae.")
    ] = "head",
    by: Annotated[
        str,
        typer.Option(
            help="patching, attribution-patching, grad-drop, gradient, fisher, magnitude, massive, block-influence, "
            "prefix-matching, sink, probing, logit-lens, patchscope, direct-logit-attribution, path-patching."
        ),
    ] = "attribution-patching",
    mode: Annotated[
        str | None, typer.Option(help="Of patching: denoise, noise, zero, mean, resample, gaussian.")
    ] = None,
    statistic: Annotated[
        str | None, typer.Option(help="Of magnitude: mean, rms, max, rate, contrast, cohen-d, rate-contrast.")
    ] = None,
    probe: Annotated[str | None, typer.Option(help="Of probing: logistic, mass-mean, sparse.")] = None,
    receiver: Annotated[
        str | None, typer.Option(help="Of path-patching: logits, or an input as in blocks.5.attn.q.3.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of attribution-patching: points that are averaged over.")] = None,
    sae: Annotated[str | None, typer.Option(help="Folder of a sparse autoencoder whose features are objects.")] = None,
    first_token: Annotated[bool, typer.Option(help="Judge answers of several tokens by their first.")] = False,
    top: Annotated[int | None, typer.Option(help="Objects that the controls knock out; by default a tenth.")] = None,
    examples: Examples = 16,
    seed: Seed = 0,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Which heads, neurons, layers or tokens carry a behaviour, beside random ones and shuffled answers."""
    from hardy.interp.pages import interpret as run

    given: dict[str, Any] = {
        "mode": mode,
        "statistic": statistic,
        "steps": steps,
        "probe": probe,
        "receiver": receiver,
    }
    options = {name: value for name, value in given.items() if value is not None}
    with interruptible(out):
        report = run(
            model, task, object=object, by=by, out=out, n=examples, seed=seed, first_token=first_token, k=top,
            sae=sae, device=device, dtype=dtype, **options,
        )  # fmt: skip
    shown(report, out)


def circuit(
    model: Model,
    task: TaskFile,
    by: Annotated[
        Literal["eap", "acdc", "masks"],
        typer.Option(help="Attribution; removal one by one, a run of the model for each edge; or gates that learn."),
    ] = "eap",
    steps: Annotated[int, typer.Option(help="Of eap: points that gradients are averaged over; of masks: of Adam.")] = 5,
    threshold: Annotated[float, typer.Option(help="Of acdc: share of the effect that an edge must be worth.")] = 0.01,
    examples: Examples = 8,
    seed: Seed = 0,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Which edges between heads and MLPs carry a behaviour, and how faithful they are beside random ones."""
    from hardy.interp.pages import find_circuit

    with interruptible(out):
        report = find_circuit(
            model, task, by=by, steps=steps, threshold=threshold, out=out, n=examples, seed=seed, device=device,
            dtype=dtype,
        )  # fmt: skip
    shown(report, out)


class _Steer(TyperGroup):
    """`hardy steer MODEL ...` is `hardy steer text MODEL ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args and (args[0] in self.commands or args[0].startswith("-"))
        return super().resolve_command(ctx, args if known else ["text", *args])


steer_app = typer.Typer(
    cls=_Steer, help="Steer a language model by a direction in its residual stream.", no_args_is_help=True
)


@steer_app.command()
def text(
    model: Model,
    vector: Annotated[str, typer.Option(help="directions.safetensors of hardy steer make, or a GGUF control vector.")],
    prompt: Annotated[list[str], typer.Option(help="Prompt to continue; may be given several times.")],
    scale: Annotated[float, typer.Option(help="Times the direction; 0 changes nothing.")] = 1.0,
    layer: Annotated[int | None, typer.Option(help="Block after which it is added; by default the middle one.")] = None,
    positions: Annotated[str, typer.Option(help="all, last or generated.")] = "all",
    ablate: Annotated[bool, typer.Option(help="Take the direction out everywhere, rather than adding it.")] = False,
    tokens: Annotated[int, typer.Option(help="Generated for each prompt.")] = 40,
    save: Annotated[
        str | None, typer.Option(help="Folder of the model with the direction in its weights.", callback=new_folder)
    ] = None,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Text before and after, and what else changes."""
    from hardy.artefacts import save as store
    from hardy.interp import AblatedWeights, DirectionalAblation, Directions, bake
    from hardy.interp.steering_pages import steer
    from hardy.zoo import Subject

    directions = Directions.load(vector)
    subject = Subject.of(model, device=device, dtype=dtype)
    steering = directions.steering(subject.model, layer, scale=scale, positions=positions)
    method = DirectionalAblation(direction=steering.vector) if ablate else steering
    with interruptible(out):
        report = steer(subject, method, prompt, tokens=tokens, out=out)
        if save is not None:
            (AblatedWeights(direction=steering.vector) if ablate else bake(steering)).apply(subject.model)
            store(subject.model, save, tokenizer=subject.tokenizer)
    shown(report, out)


@steer_app.command()
def make(
    model: Model,
    out: Annotated[str, typer.Argument(help="Folder of directions.safetensors and the report.", callback=new_folder)],
    pairs: Annotated[str, typer.Option(help="A file of JSON lines of positive and negative, or sentiment, truth.")],
    by: Annotated[
        Literal["mean-difference", "pca", "probe"], typer.Option(help="How one is made of the pairs.")
    ] = "mean-difference",
    gguf: Annotated[
        str | None, typer.Option(help="Also write a control vector for llama.cpp to this file.", callback=new_file)
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make a direction for every layer from pairs of texts."""
    from hardy.interp import Directions
    from hardy.interp.control_vectors import write_control_vector
    from hardy.interp.steering_pages import make_directions
    from hardy.zoo import Subject

    subject = Subject.of(model, device=device, dtype=dtype)
    with interruptible(out):
        report = make_directions(subject, pairs, out, by=by)
    if gguf is not None:
        made = Directions.load(f"{out}/directions.safetensors").values
        hint = subject.model.config.model_type
        write_control_vector(gguf, {layer: vector for layer, vector in made.items() if layer}, hint)
        typer.echo(f"Control vector, without block 0, for which the format has no place: {gguf}")
    shown(report, out)


sae_app = typer.Typer(help="Sparse autoencoders of a language model.", no_args_is_help=True)


@sae_app.command("train")
def sae_train(
    model: Model,
    out: Annotated[
        str,
        typer.Argument(
            help="Folder of cfg.json and sae_weights.safetensors, as SAELens reads them.", callback=new_folder
        ),
    ],
    object: Annotated[
        str, typer.Option("--object", help="Whose activation: residual, attention, head, ffn, neuron or embedding.")
    ] = "residual",
    layer: Annotated[int, typer.Option(help="Block.")] = 0,
    architecture: Annotated[Literal["topk", "jumprelu"], typer.Option(help="What switches features off.")] = "topk",
    expansion: Annotated[int, typer.Option(help="Features for each coordinate of the activation.")] = 8,
    k: Annotated[int, typer.Option(help="Features on at a time.")] = 16,
    steps: Annotated[int, typer.Option(help="Of the training.")] = 2000,
    batch: Annotated[int, typer.Option(help="Activations per step.")] = 512,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of the start and the order.")] = 0,
    text: Text = None,
    tokens: Annotated[int, typer.Option(help="Of text, from the first half for the training.")] = 200_000,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Train a sparse autoencoder on one activation, and judge it on text that it does not see."""
    from hardy.interp.sae_pages import train_sae
    from hardy.interp.sae_training import Training

    settings = Training(
        architecture=architecture, expansion=expansion, k=k, steps=steps, batch=batch, learning_rate=learning_rate,
        seed=seed,
    )  # fmt: skip
    with interruptible(out):
        report = train_sae(
            model, out, object=object, layer=layer, settings=settings, text=text, tokens=tokens, device=device,
            dtype=dtype,
        )  # fmt: skip
    shown(report, out)


def prompts(
    name: Annotated[str, typer.Argument(help="indirect-object, greater-than, induction; pairs: sentiment, truth.")],
    model: Model,
    out: Annotated[str, typer.Argument(help="File of JSON lines to write.", callback=new_file)],
    examples: Annotated[int, typer.Option(help="Lines.")] = 32,
    seed: Seed = 0,
) -> None:
    """Write the prompts of a known behaviour for the tokenizer of a model."""
    import json

    from hardy.files import write_text
    from hardy.interp.prompts import written
    from hardy.zoo import Subject

    lines = written(name, Subject.of(model).tokenizer, examples, seed)
    write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    typer.echo(f"{len(lines)} lines: {out}")
