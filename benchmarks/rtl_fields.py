"""A field as hardware at several precisions: what few bits save, and what a Hadamard transform costs.

Sine fields of photographs, 64 x 64 and 32 wide, on one accelerator plan with `lanes` lanes. At 8 and 16 bits the
accelerator is built: Amaranth's simulator draws some pixels with every layer's codes equal to the integer model's, and
yosys counts its LUTs, flip-flops, DSP blocks and memories for an UltraScale+, and sky130's area without memories. At 32
bits and in binary32 the same plan has wider lanes: its cycles are the same, area and energy are those of the lanes, and
the PSNR is the float field's. What is "of the transform" is what there is more of than in the accelerator of 8 bits
without one. Energy of a pixel is the model's: products, additions of the transform and activations, without memories
and control; of the products it is also OpenSTA's power, where that is, times a cycle of 10 ns. What is finished is
kept, so that the same command goes on.

    python -m benchmarks run rtl_fields [--photos 4] [--size 64] [--width 32] [--steps 300] [--lanes 4]
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import SHARED, NotMeasuredError, Result, Value, mean_of, rows
from hardy.fields import Field, HadamardQuant, IntegerField, Schedule, fit_many
from hardy.files import read_json, write_json
from hardy.rtl import macs, synthesis, timing, tools
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.exporting import check_pixels, energies
from hardy.rtl.measuring import FEMTOJOULES
from hardy.rtl.program import Program

PEERS = ("amaranth", "pyosys")
LIBRARY = SHARED / "hw" / "sky130hd_tt.lib.gz"
PLAIN = "W8A8, no transform"
BUILT: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    PLAIN: ({"rotate": "never"}, {}),
    "W8A8, transform on the lanes": ({"rotate": "always"}, {"transform": "serial"}),
    "W8A8, transform in parallel": ({"rotate": "always"}, {"transform": "parallel"}),
    "W8A8, first layer counts up": ({"rotate": "never"}, {"order": "raster"}),
    "W16A16 fixed point": ({"rotate": "never", "weight_bits": 16, "activation_bits": 16}, {}),
}
CELLS = {"LUTs": "luts", "flip-flops": "flip_flops", "DSP blocks": "dsps", "block memories": "memories"}
Figures = dict[str, Any]


def of_lanes(mac: macs.Mac | macs.FloatMac, lanes: int, cycles: int, products: int) -> Figures:
    """Of `lanes` multiply-accumulate units by every tool that is here, and of a pixel's products on them."""
    source = tools.rtlil(mac, "mac", mac.ports)
    transistors = synthesis.transistors(source, "mac")["transistors"]
    cells = synthesis.fpga_cells(source, "mac")
    found = {
        "transistors of the lanes": Value(lanes * transistors),
        "LUTs of the lanes": Value(lanes * cells["luts"]),
        "DSP blocks of the lanes": Value(lanes * cells["dsps"]),
        "cycles of a pixel": Value(cycles, "cycles"),
        "energy of the products": Value(products * transistors * FEMTOJOULES / 1000, "pJ"),
    }
    if LIBRARY.is_file():
        found["area of the lanes"] = Value(lanes * synthesis.standard_cells(source, "mac", LIBRARY)["area"], "µm²")
        if tools.program("sta"):
            timed = timing.timed(source, "mac", LIBRARY)
            spent = products * timed["power"] * timing.PERIOD  # mW times ns is pJ
            found["critical path of a lane"] = Value(timed["critical path"], "ns")
            found["time of a pixel at that clock"] = Value(cycles * timed["critical path"] / 1000, "µs")
            found["energy of the products (OpenSTA)"] = Value(spent, "pJ")
    return found


def of_all(core: Accelerator) -> Figures:
    """Of an accelerator that draws as it has to: cells, memory, energy, and without memories area or transistors."""
    check_pixels(core)
    source = tools.rtlil(core, "accelerator", core.ports)
    cells, energy = synthesis.fpga_cells(source, "accelerator"), energies(core)
    if LIBRARY.is_file():
        area = Value(synthesis.standard_cells(source, "accelerator", LIBRARY, synthesis.LOGIC)["area"], "µm²")
    else:
        area = Value(synthesis.transistors(source, "accelerator", synthesis.LOGIC)["transistors"], "transistors")
    return {
        "area without memories": area,
        "memory": Value(sum(core.contents.bits().values()), "bits"),
        **{what: Value(cells[key]) for what, key in CELLS.items()},
        "energy of a pixel": Value(energy["a pixel"] / 1000, "pJ"),
        "energy of the transform": Value(energy.get("additions", 0.0) / 1000, "pJ"),
        "cycles of the transform": Value(core.cycles["transform"], "cycles"),
    }


def kept(file: Path, make: Callable[[], Figures]) -> Figures:
    """What `make` gives, which goes into `file`; what an earlier run left there is taken from it."""
    if not file.is_file():
        write_json(file, {what: dataclasses.asdict(value) for what, value in make().items()})
    return {what: Value(**value) for what, value in read_json(file).items()}


def run(*, work: Path, photos: int = 4, size: int = 64, width: int = 32, steps: int = 300, lanes: int = 4) -> Result:
    if not tools.has_yosys():
        raise NotMeasuredError("yosys is missing: pip install 'hardy-nn[rtl]'")
    signals = [shrunk(file, size) for file in photographs(photos)]
    fields = [Field(2, 3, hidden_features=width, activation="sine") for _ in signals]
    fit_many(fields, signals, schedule=Schedule(steps=steps))
    exact = mean_of([field.psnr(signal) for field, signal in zip(fields, signals, strict=True)], "dB")
    found, plain = [], Figures()
    cycles = products = 0
    for number, (name, (precision, plan)) in enumerate(BUILT.items()):
        method = HadamardQuant(**precision)
        made: list[IntegerField] = [method.quantize(f, s) for f, s in zip(fields, signals, strict=True)]
        psnr = mean_of([field.psnr(signal) for field, signal in zip(made, signals, strict=True)], "dB")
        core = Accelerator(Program([made[0].model], (size, size), lanes, **plan))
        program, cycles = core.program, sum(core.cycles.values())
        products = program.work()["products"]
        mac = macs.Mac(program.weight_bits, program.few_bits, program.sum_bits)
        figures = kept(work / f"{number}.json", partial(of_all, core)) | kept(
            work / f"{number}-lanes.json", partial(of_lanes, mac, lanes, cycles, products)
        )
        if name == PLAIN:
            plain = figures
        if program.rotated:
            for what in ("area without memories", "memory", "LUTs", "DSP blocks"):
                more = figures[what].value - plain[what].value
                figures[f"{what.partition(' without')[0]} of the transform"] = Value(more, figures[what].unit)
        found += rows(name, psnr=psnr, **figures)
        print(f"{name}: {psnr.value:.2f} dB, {cycles} cycles, {figures['area without memories'].value:.0f}", flush=True)
    for name, mac in (("32-bit fixed point", macs.Mac(32, 32, 72)), ("binary32", macs.FloatMac())):
        # The cycles are those of 16 bits, which has no transform.
        figures = kept(work / f"{name}.json", partial(of_lanes, mac, lanes, cycles, products))
        found += rows(name, psnr=exact, **figures)
        print(f"{name}: {exact.value:.2f} dB, {figures['transistors of the lanes'].value:.0f}", flush=True)
    settings = {"lanes": lanes, "width": width, "products": products, "versions": tools.versions()}
    return Result(rows=found, settings=settings, seeds=(0,))
