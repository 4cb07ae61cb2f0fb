"""One activation unit in a folder: Verilog, a self-checking testbench with vectors, and a page of what it costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hardy.files import write_text
from hardy.report import Lines, Report, Row, Series
from hardy.rtl import synthesis, tools
from hardy.rtl.simulation import simulate
from hardy.rtl.testbench import unit_files
from hardy.rtl.unit_design import Format, Unit
from hardy.rtl.units import design
from hardy.runs.progress import progress

SIMULATED, TESTED = 2000, 20000
FEMTOJOULES = 0.5 * 0.2 * 0.2 * 0.9**2
"""Of a transistor per result: half of 0.2 toggles a cycle, 0.2 fF, 0.9 V squared."""
UNITS_OF = {
    "area": "library units", "cells": "", "transistors": "", "luts": "", "luts without DSP blocks": "", "dsps": "",
    "flip-flops": "", "latency": "cycles", "error": "LSB", "energy (model)": "fJ", "synthesis": "s",
}  # fmt: skip


def unit(
    name: str,
    out: str | Path | None = None,
    *,
    bits: int = 16,
    fraction: int = 12,
    squarer: str = "folded",
    ranks: int | None = None,
    liberty: str | Path | None = None,
) -> Report:
    """Make an activation unit, check it, and measure it.

    The unit is simulated against its integer reference here, and its Verilog, where yosys and a simulator are, against
    the testbench that is written beside it.

    Args:
        name: of `hardy.rtl.UNITS`, or "quad".
        out: folder for NAME.v, NAME_tb.v, test_NAME.py, stimuli.hex, golden.hex and the report; None writes nothing.
        bits, fraction: of the fixed-point format; a quarter of a period is 2^fraction codes.
        squarer: of quad: "folded", or "generic" for DSP blocks.
        ranks: ranks of registers, which is the latency; by default one per stage.
        liberty: cell library for the area, .lib or .lib.gz; transistors are counted without one.

    Raises:
        InputError: the format cannot hold a period, there is no such unit, or a tool failed.
    """
    made = design(name, Format(bits, fraction), squarer)
    module = made.name.replace("-", "_")
    pipeline = made.pipeline(ranks)
    notes = tools.missing()
    with progress(made.name, 4) as bar:
        codes = made.format.codes(SIMULATED)
        check(made, codes, ranks)
        checked = [f"Amaranth's simulator gave the reference's bits for {len(codes)} codes."]
        bar.advance()
        source = tools.rtlil(pipeline, module, pipeline.ports)
        files = unit_files(made, module, made.format.codes(TESTED), pipeline.latency)
        if tools.has_yosys():
            files[f"{module}.v"] = tools.verilog(source)
        if out is not None:
            for file, text in files.items():
                write_text(Path(out) / file, text)
        bar.advance()
        if out is not None and tools.has_yosys() and tools.verilog_simulator():
            told = tools.run_testbench(Path(out), [f"{module}.v", f"{module}_tb.v"], f"{module}_tb")
            count = told.partition("PASS ")[2].split()[0]
            checked.append(f"{tools.verilog_simulator()} passed the testbench on the Verilog: {count} vectors.")
        bar.advance()
        found = measured(made, ranks, liberty)
        bar.advance()
    report = Report(
        title=f"{made.name}, {bits} bits with {fraction} behind the point",
        summary=(
            f"{pipeline.latency} cycles, one result a cycle; at most {found['error']:.2f} units of the last place "
            "from the exact function.",
            *checked,
        ),
        rows=tuple(rows(made.name, found)),
        figures=(_curve(made),),
        settings={"unit": made.name, "bits": bits, "fraction": fraction, "versions": tools.versions()},
        notes=(*notes, *claims(found)),
    )
    if out is not None:
        report.save(out)
    return report


def check(made: Unit, codes: np.ndarray, ranks: int | None = None) -> None:
    """Simulate the unit; a bit that differs from the reference is an AssertionError."""
    got, wanted = simulate(made.pipeline(ranks), codes), made.reference(codes)
    for port in made.outputs:
        wrong = np.flatnonzero(got[port] != wanted[port])
        assert not len(wrong), (
            f"{made.name}: {port} at {codes[wrong[0]]} is {got[port][wrong[0]]}, not {wanted[port][wrong[0]]}"
        )


def measured(made: Unit, ranks: int | None, liberty: str | Path | None) -> dict[str, float]:
    """Latency, error, and what the tools that are here count."""
    pipeline = made.pipeline(ranks)
    found = {"latency": float(pipeline.latency), "error": made.error(made.format.codes(1 << 16))}
    if not tools.has_yosys():
        return found
    module, begun = made.name.replace("-", "_"), time.perf_counter()
    source = tools.rtlil(pipeline, module, pipeline.ports)
    found["transistors"] = synthesis.transistors(source, module)["transistors"]
    found["energy (model)"] = found["transistors"] * FEMTOJOULES
    if liberty is not None:
        found |= synthesis.standard_cells(source, module, liberty)
    with_blocks = synthesis.fpga_cells(source, module)
    found |= {"luts": with_blocks["luts"], "dsps": with_blocks["dsps"], "flip-flops": with_blocks["flip_flops"]}
    found["luts without DSP blocks"] = found["luts"]
    if found["dsps"]:
        found["luts without DSP blocks"] = synthesis.fpga_cells(source, module, dsp=False)["luts"]
    return found | {"synthesis": time.perf_counter() - begun}


def rows(condition: str, found: Mapping[str, float], baseline: str | None = None, **details: float) -> list[Row]:
    """A row for each figure."""
    return [
        Row(metric=metric, condition=condition, value=value, unit=UNITS_OF[metric], baseline=baseline, details=details)
        for metric, value in found.items()
    ]


def claims(found: Mapping[str, float]) -> tuple[str, ...]:
    """What the figures are and are not."""
    if "transistors" not in found:
        return ()
    return (
        "LUTs, flip-flops and DSP blocks are yosys' counts for an UltraScale+ before placement, not the vendor's.",
        "Area is of mapped cells before layout; transistors are of NAND, NOR and NOT gates and 24 per flip-flop.",
        "Energy is a model: 0.2 toggles of 0.2 fF at 0.9 V per transistor and result. It ranks; it is no measurement.",
    )


def _curve(made: Unit) -> Lines:
    one = made.format.one
    end = min(4 * one, (1 << (made.format.bits - 1)) - 1)
    x = np.unique(np.linspace(-end, end, 400).astype(np.int64))
    got, wanted = made.reference(x), made.exact(x / one)
    places = tuple((x / one).tolist())
    return Lines(
        title="What the unit computes",
        caption="Integers of the unit over the exact function.",
        x_label="x",
        y_label="value",
        series=tuple(
            series
            for port in made.outputs
            for series in (
                Series(label=port, x=places, y=tuple((got[port] / one).tolist())),
                Series(label=f"{port}, exact", x=places, y=tuple(wanted[port].tolist()), style="dashed"),
            )
        ),
    )
