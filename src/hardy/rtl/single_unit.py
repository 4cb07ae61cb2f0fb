"""One activation unit in a folder: Verilog, a self-checking testbench with vectors, and a page of what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardy.files import write_text
from hardy.report import Lines, Report, Series
from hardy.rtl import synthesis, tools
from hardy.rtl.measuring import check_tools, claims, measured, rows, timed
from hardy.rtl.simulation import simulate
from hardy.rtl.testbench import unit_files
from hardy.rtl.unit_design import Format, Unit
from hardy.rtl.units import design
from hardy.runs.progress import progress

SIMULATED, TESTED, PROVING = 2000, 20000, 60


def unit(
    name: str,
    out: str | Path | None = None,
    *,
    bits: int = 16,
    fraction: int = 12,
    squarer: str = "folded",
    ranks: int | None = None,
    liberty: str | Path | None = None,
    devices: Sequence[str] = (),
) -> Report:
    """Make an activation unit, check it, and measure it.

    The unit is simulated against its integer reference here, and its Verilog, where yosys and a simulator are, against
    the testbench that is written beside it; and its gates are proven to compute what was described, within a minute.

    Args:
        name: of `hardy.rtl.UNITS`, or "quad".
        out: folder for NAME.v, NAME_tb.v, test_NAME.py, stimuli.hex, golden.hex and the report; None writes nothing.
        bits, fraction: of the fixed-point format; a quarter of a period is 2^fraction codes.
        squarer: of quad: "folded", or "generic" for DSP blocks.
        ranks: ranks of registers, which is the latency; by default one per stage.
        liberty: cell library for the area, .lib or .lib.gz; transistors are counted without one.
        devices: of `hardy.rtl.routing.DEVICES` that it is routed for.

    Raises:
        InputError: the format cannot hold a period, there is no such unit or device, or a tool is missing or failed.
    """
    check_tools(liberty, devices)
    made = design(name, Format(bits, fraction), squarer)
    module = made.name.replace("-", "_")
    pipeline = made.pipeline(ranks)
    notes = tools.missing()
    with progress(made.name, 5) as bar:
        codes = made.format.codes(SIMULATED)
        check(made, codes, ranks)
        checked = [f"Amaranth's simulator gave the reference's bits for {len(codes)} codes."]
        bar.advance()
        source = tools.rtlil(pipeline, module, pipeline.ports)
        files = unit_files(made, module, made.format.codes(TESTED), pipeline.latency)
        if tools.has_verilog():
            files[f"{module}.v"] = tools.verilog(source)
        if out is not None:
            for file, text in files.items():
                write_text(Path(out) / file, text)
        bar.advance()
        if out is not None and tools.has_verilog() and tools.verilog_simulator():
            told = tools.run_testbench(Path(out), [f"{module}.v", f"{module}_tb.v"], f"{module}_tb")
            count = told.partition("PASS ")[2].split()[0]
            checked.append(f"{tools.verilog_simulator()} passed the testbench on the Verilog: {count} vectors.")
        bar.advance()
        if tools.has_yosys():
            proven = synthesis.equivalent(source, module, pipeline.latency, seconds=PROVING)
            checked.append(
                "Its gates are proven equal to its description for all inputs."
                if proven
                else f"Its gates were not proven equal to its description within {PROVING} s, nor found to differ."
            )
        bar.advance()
        found = {"latency": float(pipeline.latency), "error": made.error(made.format.codes(1 << 16))}
        found |= measured(pipeline, module, pipeline.ports, liberty=liberty, devices=devices)
        found |= timed(pipeline, module, pipeline.ports, liberty)
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
        settings={
            "unit": made.name,
            "bits": bits,
            "fraction": fraction,
            "liberty": None if liberty is None else Path(liberty).name,
            "devices": list(devices),
            "versions": tools.versions(),
        },
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
