"""Whole pictures drawn by the accelerator's Verilog, for every activation: colours, every layer's codes, cycles.

A field of each activation is fitted to a photograph, turned into integers with Hadamard transforms before every layer,
written as Verilog, and run by verilator (or iverilog) with the testbench of `hardy rtl export`. It fails on one wrong
bit of a colour, of any code before or after an activation or between layers, or on one cycle more or less than planned.
"caught" is the same run with one bit of one code's record changed. ReLU is not there: its
fields encode their coordinates as waves, which the accelerator refuses.

    python -m benchmarks run rtl_verilog [--sizes 16,64] [--width 16] [--steps 100]
"""

import tempfile
import time
from pathlib import Path

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import NotMeasuredError, Result, Value, rows
from hardy.errors import InputError
from hardy.fields import Field, HadamardQuant, fit
from hardy.fields.activations import KINDS
from hardy.rtl import tools
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.picture_testbench import accelerator_files
from hardy.rtl.program import Program

PEERS = ("amaranth", "pyosys", "verilator")
NAME = "accelerator"


def run(*, sizes: str = "16,64", width: int = 16, steps: int = 100, lanes: int = 4) -> Result:
    if not tools.has_yosys() or tools.verilog_simulator() is None:
        raise NotMeasuredError("yosys or a simulator of Verilog is missing: pip install 'hardy-nn[rtl]'")
    photo, found = photographs(1)[0], []
    for kind in (name for name in KINDS if name != "relu"):
        for size in map(int, sizes.split(",")):
            signal = shrunk(photo, size)
            field = Field(2, 3, hidden_features=width, activation=kind)
            fit(field, signal, steps=steps)
            made = HadamardQuant(rotate="always").quantize(field, signal)
            for fwht in ("serial", "parallel"):
                core = Accelerator(Program([made.model], (size, size), lanes, fwht))
                begun = time.perf_counter()
                source = tools.verilog(tools.rtlil(core, NAME, core.ports))
                generated = time.perf_counter() - begun
                with tempfile.TemporaryDirectory() as folder:
                    for file, text in (accelerator_files(core, NAME) | {f"{NAME}.v": source}).items():
                        (Path(folder) / file).write_text(text, encoding="utf-8")
                    told = tools.run_testbench(Path(folder), [f"{NAME}.v", f"{NAME}_tb.v"], f"{NAME}_tb")
                    equal = int(told.partition("PASS ")[2].split()[0])
                    caught = _caught(Path(folder)) if size == min(map(int, sizes.split(","))) else None
                name = f"{kind}, {size} x {size}, {fwht}"
                found += rows(
                    name,
                    {"activation": kind, "size": size, "fwht": fwht},
                    pixels=Value(size * size),
                    pixels_equal=Value(equal),
                    cycles_of_a_pixel=Value(sum(core.cycles.values()), "cycles"),
                    psnr=Value(made.psnr(signal), "dB"),
                    time_to_generate=Value(generated, "s"),
                    caught=caught,
                )
                print(f"{name}: {equal} of {size * size} pixels, {sum(core.cycles.values())} cycles", flush=True)
    settings = {"width": width, "lanes": lanes, "simulator": tools.verilog_simulator(), "versions": tools.versions()}
    return Result(rows=found, settings=settings, seeds=(0,))


def _caught(folder: Path) -> float:
    """1 if the testbench fails with one bit of one pixel's codes changed."""
    lines = (folder / "codes.hex").read_text(encoding="ascii").split()
    lines[7] = f"{int(lines[7], 16) ^ 1:048x}"
    (folder / "codes.hex").write_text("\n".join(lines) + "\n", encoding="ascii")
    try:
        tools.run_testbench(folder, [f"{NAME}.v", f"{NAME}_tb.v"], f"{NAME}_tb")
    except InputError as error:
        return float("FAIL 1 wrong" in str(error) or "testbench failed" in str(error))
    return 0.0
