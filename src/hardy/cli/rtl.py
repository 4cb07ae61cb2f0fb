"""`hardy rtl`: activation units and whole fields as Verilog, checked bit by bit and measured."""

from pathlib import Path
from typing import Annotated

import typer

from hardy.cli.interrupts import interruptible
from hardy.cli.options import new_folder, numbers, shown
from hardy.errors import InputError

app = typer.Typer(help="Verilog of activation units and fields, verified and measured.", no_args_is_help=True)

Liberty = Annotated[Path | None, typer.Option(help="Cell library (.lib or .lib.gz) for the area.")]
Devices = Annotated[str, typer.Option(help="FPGAs to route for, by commas: up5k, hx8k, ecp5-25k, ecp5-85k.")]


def widths_of(text: str) -> tuple[int, ...]:
    """ "8..32" as 8, 12, ... 32; "16,32" as they stand."""
    try:
        if ".." in text:
            low, high = (int(part) for part in text.split(".."))
            widths = tuple(range(low, high + 1, 4))
        else:
            widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths:
        raise InputError(f"--widths takes 8..32 (steps of 4) or 8,16,32, got {text!r}")
    return widths


def names_of(text: str) -> tuple[str, ...]:
    """ "a, b" as ("a", "b")."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@app.command()
def unit(
    name: Annotated[str, typer.Argument(help="quad, sine-table, sine-interpolated, cordic-radians, gauss, relu ...")],
    out: Annotated[
        Path, typer.Argument(help="Folder of the Verilog, the testbench and the report.", callback=new_folder)
    ],
    bits: Annotated[int, typer.Option(help="Of input and output, 4 to 32.")] = 16,
    fraction: Annotated[int, typer.Option(help="Bits behind the point; a quarter period is 2^fraction codes.")] = 12,
    squarer: Annotated[str, typer.Option(help="Of quad: folded, or generic for DSP blocks.")] = "folded",
    stages: Annotated[int | None, typer.Option(help="Ranks of registers; by default one per stage.")] = None,
    liberty: Liberty = None,
    devices: Devices = "",
) -> None:
    """One activation unit with a self-checking testbench."""
    from hardy.rtl import unit as run

    with interruptible(out):
        report = run(
            name,
            out,
            bits=bits,
            fraction=fraction,
            squarer=squarer,
            ranks=stages,
            liberty=liberty,
            devices=names_of(devices),
        )
    shown(report, out)


@app.command()
def compare(
    widths: Annotated[str, typer.Option(help="Bits: 8..32 in steps of 4, or 16,32; four are before the point.")] = (
        "8..32"
    ),
    units: Annotated[str, typer.Option(help="Which, by commas; all by default.")] = "",
    out: Annotated[
        Path, typer.Option(help="Folder of the report; the same command resumes.", callback=new_folder)
    ] = Path("hardy-rtl"),
    liberty: Liberty = None,
    devices: Devices = "",
) -> None:
    """All units side by side over widths: area, LUTs, cycles, energy, error."""
    from hardy.rtl import UNITS
    from hardy.rtl import compare as run

    with interruptible(out):
        report = run(
            widths_of(widths), out, units=names_of(units) or tuple(UNITS), liberty=liberty, devices=names_of(devices)
        )
    shown(report, out)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="File of a picture or an album that hardy field wrote.")],
    out: Annotated[
        Path, typer.Argument(help="Folder of the Verilog, the testbench and the report.", callback=new_folder)
    ],
    lanes: Annotated[int, typer.Option(help="Multipliers side by side.")] = 4,
    fwht: Annotated[str, typer.Option(help="serial, on the lanes; parallel, a layer at once; none refuses it.")] = (
        "serial"
    ),
    order: Annotated[str, typer.Option(help="Of pixels: any; raster, for which the first layer adds up.")] = "any",
    grid: Annotated[str, typer.Option(help="Height and width, such as 16,16; by default the file's.")] = "",
    liberty: Liberty = None,
    devices: Devices = "",
) -> None:
    """The accelerator of a picture or an album: pixel indices in, colours out."""
    from hardy.rtl import accelerator as run

    size = numbers(grid, int, "grid")
    if size and len(size) != 2:
        raise InputError(f"--grid takes height and width, got {grid!r}")
    with interruptible(out):
        report = run(
            source,
            out,
            grid=(size[0], size[1]) if size else None,
            lanes=lanes,
            fwht=fwht,
            order=order,
            liberty=liberty,
            devices=names_of(devices),
        )
    shown(report, out)
