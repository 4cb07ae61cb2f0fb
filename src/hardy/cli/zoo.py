"""`hardy zoo`: list, train and describe the models that come with hardy."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hardy.cli.interrupts import interruptible
from hardy.cli.options import new_folder

app = typer.Typer(help="Models that come with hardy, and how they were trained.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """The zoo's models and what they reach on what they have never seen."""
    from hardy.zoo import card, digits, names, tiny_vggt

    table = Table("name", "parameters", "on what it never saw", "what it is")
    for figures in (*(card(name) for name in names()), digits.card(), tiny_vggt.card()):
        name = figures["name"]
        reached = _reached(figures["held_out"])
        table.add_row(name, f"{figures['parameters'] / 1e6:.2g} M", reached, figures["summary"])
    Console().print(table)


def _reached(held_out: dict[str, Any]) -> str:
    """The figures of a card in words: of a model of text, or of one that answers."""
    if "bits_per_byte" in held_out:
        against = f"{-100 * held_out['below_xz']:+.0f} % against xz -9e"
        return f"{held_out['bits_per_byte']:.3f} bits per byte, {against}"
    if "abs_rel" in held_out:
        return f"depth off by {held_out['abs_rel']:.1%}, against {held_out['constant_abs_rel']:.1%} of one constant"
    if "accuracy" in held_out:
        return f"{held_out['accuracy']:.1%} right"
    return f"right at once {held_out['direct']['all']:.0%}, with written steps {held_out['steps']['all']:.0%}"


@app.command()
def info(name: Annotated[str, typer.Argument(help="Zoo name.")] = "tiny-llama") -> None:
    """The model card: data, recipe, figures, loss curve."""
    from hardy.zoo import card, digits, tiny_vggt

    others = {module.NAME: module.card for module in (digits, tiny_vggt)}
    Console().print_json(data=others[name]() if name in others else card(name))


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="Zoo name.")] = "tiny-llama",
    out: Annotated[
        str | None, typer.Option(help="Folder of weights and checkpoint; default training/NAME.", callback=new_folder)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Total steps, if not the recipe's.")] = None,
    validate_every: Annotated[
        int, typer.Option(help="Steps between validations, which are also where a stopped training goes on.")
    ] = 250,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")] = None,
    compile: Annotated[bool, typer.Option(help="Use torch.compile; needs a C++ compiler.")] = False,
) -> None:
    """Train a zoo model on the standard library's source, or on generated lines or videos; the same command resumes."""
    from hardy.zoo import digits, tiny_vggt
    from hardy.zoo.recipes import recipe
    from hardy.zoo.train import train as run

    folder = out or f"training/{name}"
    if name == digits.NAME:  # half a minute, which nobody interrupts
        Console().print_json(data=digits.train(folder, steps=steps or digits.STEPS)["held_out"])
        return
    if name == tiny_vggt.NAME:
        with interruptible(folder):
            card = tiny_vggt.train(folder, steps=steps or tiny_vggt.STEPS, validate_every=validate_every)
        Console().print_json(data=card["held_out"])
        return
    with interruptible(folder):
        card = run(recipe(name), folder, steps=steps, device=device, compile=compile, validate_every=validate_every)
    Console().print_json(data=card["held_out"])
