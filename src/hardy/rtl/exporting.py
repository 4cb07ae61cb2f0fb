"""A `.hardy` picture as hardware: Verilog, a testbench with the picture's pixels, and a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardy import checks
from hardy.errors import InputError
from hardy.fields.container import load_fields
from hardy.fields.integer_model import IntegerModel
from hardy.files import write_text
from hardy.report import Pictures, Report, Row
from hardy.rtl import tools
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.drawing_pixels import draw
from hardy.rtl.program import Program
from hardy.rtl.testbench import accelerator_files

NAME = "hardy_accelerator"
SIMULATED = 64


def accelerator(
    source: str | Path | IntegerModel,
    out: str | Path | None = None,
    *,
    grid: tuple[int, int] | None = None,
    lanes: int = 4,
    fwht: str = "serial",
) -> Report:
    """Make a field into hardware, and check it against the integer model.

    Args:
        source: a `.hardy` file with one picture, or the model in it.
        out: folder for the Verilog, testbench, vectors and report; None writes nothing.
        grid: height and width; by default the file's.
        lanes: multipliers side by side.
        fwht: "serial", with the lanes as adders; "none" refuses a field that needs the transform.

    Raises:
        InputError: the file is damaged or no picture, an accumulator could overflow, or a tool failed.
    """
    checks.one_of("fwht", fwht, ("serial", "none"))
    if isinstance(source, IntegerModel):
        model = source
    else:
        models, contents = load_fields(source)
        if len(models) != 1 or contents.kind not in ("image", "field"):
            raise InputError(f"{source} holds {len(models)} {contents.kind}(s); the accelerator draws one picture")
        if contents.sample_bits != 8:
            raise InputError(f"{source} has samples of {contents.sample_bits} bits; the accelerator gives 8")
        model = models[0]
        if grid is None and contents.grids:
            grid = (contents.grids[0][0], contents.grids[0][1])
    if grid is None:
        raise InputError("this field has no size of its own: give a grid, height and width")
    if fwht == "none" and any(step.rotated for step in model.requantizations):
        raise InputError("this field was quantized with Hadamard transforms, so fwht='none' would draw another picture")
    program = Program(model, grid, lanes)
    core = Accelerator(program)
    wanted = model.pixels(grid)
    spent = program.cycles(core.latencies)
    pixels = _some_pixels(grid)
    found, _, cycles = draw(core, pixels, show=True)
    expected = np.array([wanted[y, x] for x, y in pixels])
    assert np.array_equal(found, expected), "the simulated accelerator differs from the integer model"
    assert set(cycles) == {sum(spent.values())}, "the cycles differ from the plan"
    checked = [
        f"Amaranth's simulator drew the integer model's bits at {len(pixels)} pixels, "
        f"in {sum(spent.values())} cycles each, as planned."
    ]
    if out is not None and tools.has_yosys():
        folder = Path(out)
        files = accelerator_files(NAME, grid, wanted)
        files[f"{NAME}.v"] = tools.verilog(tools.rtlil(core, NAME, core.ports))
        for file, text in files.items():
            write_text(folder / file, text)
        if tools.verilog_simulator():
            tools.run_testbench(folder, [f"{NAME}.v", f"{NAME}_tb.v"], f"{NAME}_tb")
            checked.append(f"{tools.verilog_simulator()} drew all {grid[0] * grid[1]} pixels of the Verilog alike.")
    total = sum(spent.values())
    report = Report(
        title=f"A field of {model.bits} bits as hardware, {grid[0]} x {grid[1]}, {lanes} lanes",
        summary=(f"{total} cycles a pixel.", *checked),
        rows=(
            Row(metric="cycles of a pixel", condition="all", value=total, unit="cycles"),
            *(Row(metric="cycles of a pixel", condition=k, value=v, unit="cycles") for k, v in spent.items()),
            Row(metric="memory", condition="weights and rows", value=program.memory_bits(), unit="bits"),
            Row(metric="width", condition="accumulator", value=program.sum_bits, unit="bits"),
            Row(metric="width", condition="pre-activation", value=program.x_bits, unit="bits"),
        ),
        figures=_pictures(wanted, pixels, found),
        settings={"grid": list(grid), "lanes": lanes, "fwht": fwht, "versions": tools.versions()},
        notes=tuple(tools.missing()),
    )
    if out is not None:
        report.save(out)
    return report


def _pictures(wanted: np.ndarray, pixels: list[tuple[int, int]], found: np.ndarray) -> tuple[Pictures, ...]:
    if wanted.shape[-1] != 3:
        return ()
    drawn = np.zeros_like(wanted)
    for (x, y), colour in zip(pixels, found, strict=True):
        drawn[y, x] = colour
    return (
        Pictures.of(
            "The picture",
            "The integer model's, and the pixels that were simulated of the hardware; the others are black.",
            ["picture"],
            ["integer model", "hardware"],
            [[wanted / 255, drawn / 255]],
        ),
    )


def _some_pixels(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """All pixels of a small grid, else corners and random ones; the last pixel of the picture is the last."""
    height, width = grid
    if height * width <= SIMULATED:
        return [(x, y) for y in range(height) for x in range(width)]
    rng = np.random.default_rng(0)
    random = [(int(rng.integers(width)), int(rng.integers(height))) for _ in range(SIMULATED - 4)]
    return [(0, 0), (width - 1, 0), (0, height - 1), *random, (width - 1, height - 1)]
