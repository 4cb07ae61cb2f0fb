"""A `.hardy` picture or album as hardware: Verilog, a testbench with every pixel and code, and a page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hardy.errors import InputError
from hardy.fields.container import load_fields
from hardy.fields.integer_model import IntegerModel, grid_numerators, parts
from hardy.files import write_text
from hardy.report import Pictures, Report, Row
from hardy.rtl import synthesis, tools
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.drawing_pixels import draw
from hardy.rtl.macs import Mac
from hardy.rtl.measuring import FEMTOJOULES, check_tools, claims, measured, rows, timed
from hardy.rtl.picture_testbench import accelerator_files, taps
from hardy.rtl.pipeline import Pipeline
from hardy.rtl.program import Program
from hardy.runs.progress import progress

NAME = "hardy_accelerator"
SIMULATED = 64
"""Pixels in Amaranth's simulator."""
CYCLES = 50_000_000
"""That the Verilog is simulated for, about; of longer pictures every n-th pixel is drawn."""


def accelerator(
    source: str | Path | IntegerModel | Sequence[IntegerModel],
    out: str | Path | None = None,
    *,
    grid: tuple[int, int] | None = None,
    lanes: int = 4,
    fwht: str = "serial",
    order: str = "any",
    liberty: str | Path | None = None,
    devices: Sequence[str] = (),
) -> Report:
    """Make a field into hardware, check it against the integer model, and measure it.

    Some pixels are drawn in Amaranth's simulator, all of them, where a simulator of Verilog is, by the testbench that
    is written: colours, the codes of every layer, and the cycles have to be those of the integer model and the plan.

    Args:
        source: a `.hardy` file with a picture or an album, or the models in it.
        out: folder for the Verilog, testbench, vectors and report; None writes nothing.
        grid: height and width; by default the file's.
        lanes: multipliers side by side; a width that they do not divide is padded.
        fwht: of Hadamard transforms, "serial", with the lanes as adders; "parallel", a layer at once; "none" refuses a
            field that needs them.
        order: of pixels: "any"; or "raster", line by line, for which the first layer adds instead of multiplying.
        liberty: cell library for the area of everything but memories.
        devices: of `hardy.rtl.routing.DEVICES` that it is routed for.

    Raises:
        InputError: the file is damaged or no picture, an accumulator could overflow, or a tool is missing or failed.
    """
    check_tools(liberty, devices)
    models, grid = _read(source, grid)
    program = Program(models, grid, lanes, fwht, order)
    begun = time.perf_counter()
    core = Accelerator(program)
    spent, found = core.cycles, dict[str, float]()
    total = sum(spent.values())
    checked = [check_pixels(core)]
    shown: dict[int, np.ndarray] = {}
    with progress("accelerator", 3) as bar:
        if out is not None:
            for file, text in accelerator_files(core, NAME).items():
                write_text(Path(out) / file, text)
        if out is not None and tools.has_verilog():
            write_text(Path(out) / f"{NAME}.v", tools.verilog(tools.rtlil(core, NAME, core.ports)))
            found["time to generate"] = time.perf_counter() - begun
        bar.advance()
        if out is not None and tools.has_verilog() and tools.verilog_simulator():
            stride = -(-grid[0] * grid[1] * len(models) * total // CYCLES)
            files = [f"{NAME}.v", f"{NAME}_tb.v"]
            tools.run_testbench(Path(out), files, f"{NAME}_tb", arguments=(f"+stride={stride}",))
            shown = _drawn(Path(out) / "drawn.hex", core)
            checked.append(
                f"{tools.verilog_simulator()} drew {sum(map(len, shown.values()))} of "
                f"{grid[0] * grid[1] * len(models)} pixels of the Verilog alike, with every layer's codes and the "
                "cycles as planned."
            )
        bar.advance()
        found |= measured(core, NAME, core.ports, liberty=liberty, devices=devices, front=synthesis.LOGIC)
        found |= timed(core, NAME, core.ports, liberty, synthesis.LOGIC)
        cycle = found.pop("energy (OpenSTA)", None)
        spent_on = [] if cycle is None else rows("a pixel, logic alone", {"energy (OpenSTA)": cycle * total})
        bar.advance()
    report = Report(
        title=f"{_named(models)} of {models[0].bits} bits as hardware, {grid[0]} x {grid[1]}, {lanes} lanes",
        summary=(f"{total} cycles a pixel, and from one pixel to the next.", *checked),
        rows=(
            Row(metric="cycles of a pixel", condition="all", value=total, unit="cycles"),
            *(Row(metric="cycles of a pixel", condition=k, value=v, unit="cycles") for k, v in spent.items()),
            *(Row(metric="memory", condition=k, value=v, unit="bits") for k, v in core.contents.bits().items() if v),
            *(Row(metric="width", condition=k, value=v, unit="bits") for k, v in _widths(program).items()),
            *(Row(metric="work of a pixel", condition=k, value=v) for k, v in program.work().items()),
            *(Row(metric="energy (model)", condition=k, value=v, unit="fJ") for k, v in energies(core).items()),
            *spent_on,
            *rows("accelerator", {k: v for k, v in found.items() if k != "energy (model)"}),
        ),
        figures=tuple(_pictures(core, shown)),
        settings={
            "grid": list(grid), "lanes": lanes, "fwht": fwht, "order": order, "pictures": len(models),
            "devices": list(devices), "liberty": None if liberty is None else Path(liberty).name,
            "versions": tools.versions(),
        },
        notes=(*tools.missing(), *claims(found), *_notes(core)),
    )  # fmt: skip
    if out is not None:
        report.save(out)
    return report


def energies(core: Accelerator) -> dict[str, float]:
    """fJ of a product, of an addition of a transform, of an activation, and of all of them in a pixel.

    By the model of `claims`, each unit at work for a cycle; memories and control are not in it. Empty without yosys.
    """
    if not tools.has_yosys():
        return {}
    plan, work = core.program, core.program.work()

    def of(design: Mac) -> float:
        return synthesis.transistors(tools.rtlil(design, "part", design.ports), "part")["transistors"] * FEMTOJOULES

    mac = Mac(plan.weight_bits, plan.few_bits, plan.sum_bits)
    units = core.units.values()
    each = {
        "a product": of(mac),
        "an activation": sum(_logic(unit) for unit in units) / len(units) * FEMTOJOULES,
    }
    made = {
        "products": work["products"] * each["a product"],
        "activations": work["activations"] * each["an activation"],
    }
    if plan.rotated:
        adder = Mac(2, plan.y_bits, plan.turned_bits)
        each["an addition"] = of(adder)
        made["additions"] = work["additions"] * each["an addition"]
    return each | made | {"a pixel": sum(made.values())}


def _logic(unit: Pipeline) -> float:
    """Transistors of an activation without its tables."""
    return synthesis.transistors(tools.rtlil(unit, "part", unit.ports), "part", synthesis.LOGIC)["transistors"]


def _read(
    source: str | Path | IntegerModel | Sequence[IntegerModel], grid: tuple[int, int] | None
) -> tuple[list[IntegerModel], tuple[int, int]]:
    if isinstance(source, IntegerModel):
        models = [source]
    elif isinstance(source, str | Path):
        found, contents = load_fields(source)
        models = [model for model in found if isinstance(model, IntegerModel)]
        if len(models) < len(found):
            raise InputError(
                f"{source} holds a picture as latents; the accelerator draws networks of coordinates: hardy field "
                "encode --field coordinates"
            )
        if contents.kind not in ("image", "field"):
            raise InputError(f"{source} holds {len(models)} {contents.kind}(s); the accelerator draws pictures")
        if contents.sample_bits != 8:
            raise InputError(f"{source} has samples of {contents.sample_bits} bits; the accelerator gives 8")
        sizes = set(contents.grids)
        if grid is None and len(sizes) > 1:
            shown = ", ".join(f"{size[0]} x {size[1]}" for size in sorted(sizes))
            raise InputError(f"{source} holds pictures of several sizes ({shown}): give one grid for all of them")
        if grid is None and sizes:
            grid = contents.grids[0][0], contents.grids[0][1]
    else:
        models = list(source)
    if not models:
        raise InputError("there is no field")
    if grid is None:
        raise InputError("this field has no size of its own: give a grid, height and width")
    return models, grid


def check_pixels(core: Accelerator) -> str:
    """Check some pixels of the first and the last picture in Amaranth's simulator; what was checked."""
    plan = core.program
    pixels = _first_pixels(plan.grid) if plan.order == "raster" else _some_pixels(plan.grid)
    places = [y * plan.grid[1] + x for x, y in pixels]
    for picture in sorted({0, len(plan.models) - 1}):
        drawn = draw(core, pixels, picture=picture if plan.is_album else None, show=True)
        wanted = plan.models[picture].pixels(plan.grid).reshape(-1, core.channels)[places]
        assert np.array_equal(drawn.colours, wanted), "the simulated accelerator differs from the integer model"
        for name, codes in taps(plan, picture, grid_numerators(plan.grid)[places]).items():
            assert np.array_equal(drawn.taps[name], codes), f"codes {name} differ from the integer model"
        assert set(drawn.cycles) == {sum(core.cycles.values())}, "the cycles differ from the plan"
    return (
        f"Amaranth's simulator gave the integer model's colours and every layer's codes at {len(pixels)} pixels"
        f"{' of the first and the last picture' if plan.is_album else ''}, in the cycles that were planned."
    )


def _drawn(path: Path, core: Accelerator) -> dict[int, np.ndarray]:
    """By picture what the Verilog drew: (n, 1 + channels), the pixel's number first."""
    pixels, found = core.program.grid[0] * core.program.grid[1], dict[int, list[list[int]]]()
    for line in path.read_text(encoding="ascii").splitlines():
        place, word = line.split()
        picture, pixel = divmod(int(place), pixels)
        data = int(word, 16)
        found.setdefault(picture, []).append([pixel, *(data >> (8 * n) & 255 for n in range(core.channels))])
    return {picture: np.array(lines) for picture, lines in found.items()}


def _pictures(core: Accelerator, shown: Mapping[int, np.ndarray]) -> list[Pictures]:
    plan = core.program
    if core.channels != 3 or not shown:
        return []
    table = []
    for picture, lines in shown.items():
        wanted = plan.models[picture].pixels(plan.grid)
        drawn = np.zeros_like(wanted).reshape(-1, 3)
        drawn[lines[:, 0]] = lines[:, 1:]
        table.append([wanted / 255, drawn.reshape(wanted.shape) / 255])
    whole = all(len(lines) == plan.grid[0] * plan.grid[1] for lines in shown.values())
    return [
        Pictures.of(
            "What the hardware draws",
            "The integer model's picture, and the one that the Verilog drew in simulation."
            + ("" if whole else " Pixels that were not simulated are black."),
            [f"picture {picture + 1}" for picture in shown],
            ["integer model", "Verilog"],
            table,
        )
    ]


def _widths(program: Program) -> dict[str, int]:
    found = {
        "weight": program.weight_bits, "code": program.few_bits, "accumulator": program.sum_bits,
        "pre-activation": program.x_bits, "activation": program.y_bits,
    }  # fmt: skip
    return found | ({"transformed activation": program.turned_bits} if program.rotated else {})


def _named(models: Sequence[IntegerModel]) -> str:
    return "A field" if len(models) == 1 else f"An album of {len(models)} fields, the first"


def _notes(core: Accelerator) -> list[str]:
    plan, told = core.program, []
    if any(width % plan.lanes for width in plan.widths[1:]):
        told.append(f"{plan.lanes} lanes do not divide every width: the last round of a layer is padded.")
    if plan.is_album:
        shared = [str(number) for number, same in enumerate(plan.shared) if same and number]
        own = sum(bits for name, bits in core.contents.bits().items() if name not in ("trunk", "signs"))
        told.append(
            f"Of the album the weights of layers {', '.join(shared) or 'none'} are shared and read-only; "
            f"{len(core.load)} words with {own} bits are written before each picture."
        )
    if any(parts(unit) == 2 for unit in plan.units):
        told.append("Real and imaginary parts of a wavelet are computed by turns.")
    told.append("Area and transistors of the accelerator are without its memories, whose bits have rows of their own.")
    return told


def _first_pixels(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """In the order of a raster, the beginnings of the first lines."""
    height, width = grid
    each = min(width, max(8, SIMULATED // height))
    return [(x, y) for y in range(height) for x in range(each)][:SIMULATED]


def _some_pixels(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """All pixels of a small grid, else corners and random ones; the last pixel of the picture is the last."""
    height, width = grid
    if height * width <= SIMULATED:
        return [(x, y) for y in range(height) for x in range(width)]
    rng = np.random.default_rng(0)
    random = [(int(rng.integers(width)), int(rng.integers(height))) for _ in range(SIMULATED - 4)]
    return [(0, 0), (width - 1, 0), (0, height - 1), *random, (width - 1, height - 1)]
