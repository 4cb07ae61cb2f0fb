"""Whole pictures drawn by the accelerator's Verilog, for every activation: colours, every layer's codes, cycles.

A field of each activation is fitted to a photograph, turned into integers with Hadamard transforms before every layer,
written as Verilog, and run with the testbench of `hardy rtl export`, the small pictures by iverilog and the large ones
by verilator where both are. It fails on one wrong bit of a colour, of any code before or after an
activation or between layers, or on one cycle more or less than planned. "bits caught" are those of as many runs of the
large picture in which it failed, each with one bit of the recorded colours or codes changed.

    python -m benchmarks run rtl_verilog [--small 16] [--large 64] [--width 12] [--steps 100] [--lanes 4]
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import NotMeasuredError, Result, Value, rows
from hardy.errors import InputError
from hardy.fields import Field, HadamardQuant, IntegerField, Signal, fit
from hardy.fields.activations import KINDS
from hardy.rtl import tools
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.picture_testbench import accelerator_files
from hardy.rtl.program import Program

PEERS = ("amaranth", "pyosys", "verilator")
NAME = "accelerator"
FLIPS = 8


def fitted(kind: str, signal: Signal, width: int, steps: int) -> IntegerField:
    """A field of this activation in integers."""
    field = Field(2, 3, hidden_features=width, activation=kind)
    fit(field, signal, steps=steps)
    return HadamardQuant(rotate="always").quantize(field, signal)


def caught(run: Callable[[Sequence[str]], str], folder: Path) -> int:
    """Of so many runs with one bit of colours or codes changed, those that fail."""
    rng, failed = np.random.default_rng(0), 0
    for flip in range(FLIPS):
        file = folder / ("golden.hex", "codes.hex")[flip % 2]
        kept = file.read_text(encoding="ascii")
        lines = kept.split()
        line, bit = int(rng.integers(len(lines))), int(rng.integers(4 * len(lines[0])))
        lines[line] = f"{int(lines[line], 16) ^ (1 << bit):0{len(lines[line])}x}"
        file.write_text("\n".join(lines) + "\n", encoding="ascii")
        try:
            run([])
        except InputError as error:
            failed += "FAIL 1 wrong" in str(error)
        file.write_text(kept, encoding="ascii")
    return failed


def run(*, small: int = 16, large: int = 64, width: int = 12, steps: int = 100, lanes: int = 4) -> Result:
    if not tools.has_yosys() or tools.verilog_simulator() is None:
        raise NotMeasuredError("yosys or a simulator of Verilog is missing: pip install 'hardy-nn[rtl]'")
    photo, found, (*_, quick) = photographs(1)[0], [], tools.verilog_simulators()
    plans = [(kind, small, transform, "any") for kind in KINDS for transform in ("serial", "parallel")]
    plans += [("sine", small, "serial", "raster"), *((kind, large, "serial", "any") for kind in KINDS)]
    signals = {size: shrunk(photo, size) for size in (small, large)}
    fields = {(kind, size): fitted(kind, signals[size], width, steps) for kind, size in {plan[:2] for plan in plans}}
    for kind, size, transform, order in plans:
        made = fields[kind, size]
        core = Accelerator(Program([made.model], (size, size), lanes, transform, order))
        begun = time.perf_counter()
        source = tools.verilog(tools.rtlil(core, NAME, core.ports))
        generated = time.perf_counter() - begun
        with tempfile.TemporaryDirectory() as folder:
            for file, text in (accelerator_files(core, NAME) | {f"{NAME}.v": source}).items():
                (Path(folder) / file).write_text(text, encoding="utf-8")
            begun = time.perf_counter()
            files, simulator = [f"{NAME}.v", f"{NAME}_tb.v"], quick if size == small else tools.verilog_simulator()
            with tools.testbench(Path(folder), files, f"{NAME}_tb", simulator) as testbench:
                compiled = time.perf_counter() - begun
                begun = time.perf_counter()
                equal = int(testbench([]).partition("PASS ")[2].split()[0])
                drawn = time.perf_counter() - begun
                stopped = caught(testbench, Path(folder)) if size == large else None
        name = f"{kind}, {size} x {size}, {transform}" + (", first layer counts up" if order == "raster" else "")
        found += rows(
            name,
            {"activation": kind, "size": size, "fwht": transform, "order": order, "simulator": simulator},
            pixels=Value(size * size),
            pixels_equal=Value(equal),
            cycles_of_a_pixel=Value(sum(core.cycles.values()), "cycles"),
            bits_caught=None if stopped is None else Value(stopped, n=FLIPS),
            psnr=Value(made.psnr(signals[size]), "dB"),
            time_to_generate=Value(generated, "s"),
            time_to_compile=Value(compiled, "s"),
            time_to_draw=Value(drawn, "s"),
        )
        print(f"{name}: {equal} of {size * size} pixels, {stopped} of {FLIPS} bits, {compiled:.0f} s", flush=True)
    settings = {"width": width, "lanes": lanes, "versions": tools.versions()}
    return Result(rows=found, settings=settings, seeds=(0,))
