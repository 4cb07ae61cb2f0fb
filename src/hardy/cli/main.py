"""`hardy` and `python -m hardy`: the commands, and the one place where errors become one line and an exit code."""

import io
import logging
import sys
import tempfile
import traceback
from typing import Annotated

import typer
from rich.console import Console

import hardy
from hardy import checks
from hardy.cli.binarize import binarize
from hardy.cli.field import app as field_app
from hardy.cli.generate import chat, generate
from hardy.cli.interpret import circuit, interpret, prompts, sae_app, steer_app
from hardy.cli.interrupts import STATUS, Commands, interruptible, take_interrupts
from hardy.cli.options import (
    MOST_SEEDS,
    Backend,
    Chip,
    Device,
    Dtype,
    GroupSize,
    Model,
    ModelOption,
    Select,
    Text,
    Tokens,
    Window,
    Workers,
    complete,
    new_file,
    new_folder,
    numbers,
    shown,
)
from hardy.cli.place import place
from hardy.cli.quantize import export, quantize
from hardy.cli.reason import reason
from hardy.cli.repair import repair
from hardy.cli.report import app as report_app
from hardy.cli.rtl import app as rtl_app
from hardy.cli.simulate import simulate
from hardy.cli.splat import app as splat_app
from hardy.cli.stream import app as stream_app
from hardy.cli.survive import app as survive_app
from hardy.cli.teach import teach
from hardy.cli.zoo import app as zoo_app
from hardy.errors import InputError, shortened

LOCATORS = (
    "rtn, noise, weight-error; effective-rank, energy-gain, perplexity-drop, or lieq-v1, their mean; on a chip "
    "noise-sensitivity; or what another package brings."
)

app = typer.Typer(
    name="hardy",
    cls=Commands,
    help="Find what matters in a neural network and make it hold: on few bits, on noisy analog hardware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(zoo_app, name="zoo")
app.add_typer(report_app, name="report")
app.add_typer(field_app, name="field")
app.add_typer(splat_app, name="splat")
app.add_typer(steer_app, name="steer")
app.add_typer(sae_app, name="sae")
app.add_typer(rtl_app, name="rtl")
app.add_typer(stream_app, name="stream")
app.add_typer(survive_app, name="survive")
app.command()(quantize)
app.command()(binarize)
app.command()(export)
app.command()(generate)
app.command()(chat)
app.command()(simulate)
app.command()(repair)
app.command()(place)
app.command()(reason)
app.command()(interpret)
app.command()(circuit)
app.command()(prompts)
app.command()(teach)


def main() -> None:
    """Run the command line.

    Exit code 2 and one line for the user's mistakes, 3 where cells of a study failed, 130 for an interrupt; 1 and one
    line that names the file of the traceback for an error that is hardy's own. What hardy logs, the model, its dtype
    and its device first, goes to the error stream.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for what it has not
    handler, logger = logging.StreamHandler(), logging.getLogger("hardy")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    take_interrupts()
    try:
        app()
    except KeyboardInterrupt:  # before any command
        typer.echo("\nInterrupted.", err=True)
        sys.exit(STATUS)
    except InputError as error:
        _say(error)
        sys.exit(2)
    except OSError as error:
        _say(f"{error.filename or 'file'}: {error.strerror or error}")
        sys.exit(2)
    except Exception as error:  # what nobody foresaw
        kind = type(error).__name__
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or kind == "OutOfMemoryError":
            kind = "the memory does not suffice"
        _say(f"{kind}: {shortened(error, 300)} (traceback: {_written_traceback()})")
        sys.exit(1)
    finally:
        logger.removeHandler(handler)


def _say(error: object) -> None:
    """An error as one line that a terminal can be shown, whatever a file put into it."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {shortened(error)}", markup=False)


def _written_traceback() -> str:
    """Where the traceback of the error in hand was written."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="hardy-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(f"hardy {hardy.__version__}, Python {sys.version}\n{traceback.format_exc()}")
        return file.name
    except OSError as error:
        return f"could not be written: {error.strerror}"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hardy {hardy.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def study(
    model: ModelOption = "tiny-llama",
    text: Text = None,
    out: Annotated[
        str, typer.Option(help="Folder of the study and its report; the same command resumes.", callback=new_folder)
    ] = ("hardy-study"),
    seeds: Annotated[
        int, typer.Option(help="Chip instances per noise strength, random draws per control.", max=MOST_SEEDS)
    ] = 5,
    bits: Annotated[str, typer.Option(help="Round-to-nearest at these bits.")] = "8,4,3,2",
    additive: Annotated[str, typer.Option(help="Additive noise, relative to channel absmax.")] = "0.01,0.02,0.05,0.1",
    proportional: Annotated[str, typer.Option(help="Noise relative to each weight.")] = "0.05,0.1,0.2,0.4",
    keep: Annotated[str, typer.Option(help="Shares of the layers to protect.")] = "0.05,0.1,0.25",
    break_bits: Annotated[int, typer.Option(help="Bits at which layers are located and protected.")] = 2,
    break_noise: Annotated[float, typer.Option(help="Additive noise under which they are.")] = 0.05,
    group_size: GroupSize = 128,
    select: Select = "linear,!head,!router",
    repairs: Annotated[
        str, typer.Option(help="Also these on a chip: suited, or of redundancy, hpd, romer, halora by commas.")
    ] = "",
    chip: Chip = "reram-wan",
    tokens: Tokens = 3072,
    window: Window = None,
    device: Device = None,
    dtype: Dtype = None,
    backend: Backend = "local",
    workers: Workers = None,
) -> None:
    """How a language model survives few bits and noise, where it breaks first, and what protection buys."""
    from hardy.studies import Plan, survival
    from hardy.studies.repair_study import RECOVERED
    from hardy.studies.survival_report import AGREEMENT

    named = tuple(name.strip() for name in repairs.split(",") if name.strip())
    plan = Plan(
        bits=numbers(bits, int, "bits"),
        additive=numbers(additive, float, "additive"),
        proportional=numbers(proportional, float, "proportional"),
        n_seeds=seeds,
        group_size=group_size or None,
        break_bits=break_bits,
        break_noise=break_noise,
        keep=numbers(keep, float, "keep"),
        select=select,
    )
    with interruptible(out):
        report = survival(
            model, text=text, out=out, plan=plan, repairs=named, chip=chip, tokens=tokens, window=window,
            device=device, dtype=dtype, backend=backend, workers=workers,
        )  # fmt: skip
    shown(report, out, metrics=("perplexity", AGREEMENT, *((RECOVERED,) if named else ())))


@app.command()
def locate(
    model: Model = "tiny-llama",
    by: Annotated[str, typer.Option(help=LOCATORS)] = "rtn",
    text: Text = None,
    bits: Annotated[int | None, typer.Option(help="Bits per weight, 2 to 8; 2 by default.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="Noise strength, relative to channel absmax; 0.05 by default.")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Weights that share a scale, 128 by default; 0 for one scale per output channel."),
    ] = None,
    chip: Annotated[str | None, typer.Option(help="Of noise-sensitivity: a preset, .json or .csv.")] = None,
    measure: Annotated[str | None, typer.Option(help="Of noise-sensitivity: loss or divergence.")] = None,
    select: Select = "linear,!head,!router",
    unit: Annotated[
        str | None, typer.Option(help="What is ranked: projection, block, role, expert, head; as the locator can.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Chip instances, or random references for spectra; 3 by default.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many to print; 0 prints all.")] = 20,
    out: Annotated[
        str | None, typer.Option(help="Write the whole ranking to this JSON file.", callback=new_file)
    ] = None,
    tokens: Tokens = 3072,
    window: Window = None,
    device: Device = None,
    dtype: Dtype = None,
    backend: Backend = "local",
    workers: Workers = None,
) -> None:
    """Rank the parts of a language model: what breaks when only they do, or what they do to calibration text."""
    from hardy.files import write_json
    from hardy.studies import locate as run

    if seeds is not None:
        checks.integer("seeds", seeds, at_least=1, at_most=MOST_SEEDS)
    options = {
        "bits": bits, "strength": strength, "chip": chip, "measure": measure,
        "seeds": None if seeds is None else tuple(range(seeds)),
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    if group_size is not None:
        options["group_size"] = group_size or None
    with complete():
        ranking = run(
            model, by=by, text=text, select=select, unit=unit, tokens=tokens, window=window, device=device,
            dtype=dtype, backend=backend, workers=workers, **options,
        )  # fmt: skip
        if out is not None:
            write_json(out, ranking.to_dict())
        Console().print(ranking.table(top or None))
