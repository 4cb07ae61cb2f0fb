"""A field as hardware at several precisions: what a Hadamard transform costs, and what it saves beside wide arithmetic.

Sine fields of photographs, 64 x 64 and 48 wide, on one accelerator plan with `lanes` lanes. At 8 and 16 bits the
accelerator is built: Amaranth's simulator draws some pixels with every layer's codes equal to the integer model's, and
yosys counts its LUTs, flip-flops, DSP blocks and memories for an UltraScale+. At 32 bits and in binary32 only the
multiply-accumulate unit is; cycles are those of the same plan, and the PSNR is the float field's. Energy of a pixel is
the model's: products, additions of the transform and activations, without memories and control. Area is sky130's.

    python -m benchmarks run rtl_fields [--photos 4] [--size 64] [--width 48] [--steps 300] [--lanes 4]
"""

from typing import Any

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import SHARED, NotMeasuredError, Result, Value, mean_of, rows
from hardy.fields import Field, HadamardQuant, IntegerField, Schedule, fit_many
from hardy.rtl import macs, synthesis, timing, tools
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.exporting import check_pixels, energies
from hardy.rtl.measuring import FEMTOJOULES
from hardy.rtl.program import Program

PEERS = ("amaranth", "pyosys")
BUILT: dict[str, dict[str, Any]] = {
    "W8A8, no transform": {"rotate": "never"},
    "W8A8, transform on the lanes": {"rotate": "always", "fwht": "serial"},
    "W8A8, transform in parallel": {"rotate": "always", "fwht": "parallel"},
    "W16A16 fixed point": {"rotate": "never", "weight_bits": 16, "activation_bits": 16},
}


def mac_figures(mac: macs.Mac | macs.FloatMac) -> dict[str, Any]:
    """Of one multiply-accumulate unit by every tool that is here."""
    source, library = tools.rtlil(mac, "mac", mac.ports), SHARED / "hw" / "sky130hd_tt.lib.gz"
    transistors = synthesis.transistors(source, "mac")["transistors"]
    cells = synthesis.fpga_cells(source, "mac")
    found = {
        "transistors of a MAC": Value(transistors),
        "LUTs of a MAC": Value(cells["luts"]),
        "DSP blocks of a MAC": Value(cells["dsps"]),
        "energy of a MAC": Value(transistors * FEMTOJOULES, "fJ"),
    }
    if library.is_file():
        found["area of a MAC"] = Value(synthesis.standard_cells(source, "mac", library)["area"], "µm²")
        if tools.program("sta"):
            timed = timing.timed(source, "mac", library)
            found["critical path of a MAC"] = Value(timed["critical path"], "ns")
            found["power of a MAC at 100 MHz"] = Value(timed["power"], "mW")
    return found


def run(*, photos: int = 4, size: int = 64, width: int = 48, steps: int = 300, lanes: int = 4) -> Result:
    if not tools.has_yosys():
        raise NotMeasuredError("yosys is missing: pip install 'hardy-nn[rtl]'")
    signals = [shrunk(file, size) for file in photographs(photos)]
    fields = [Field(2, 3, hidden_features=width, activation="sine") for _ in signals]
    fit_many(fields, signals, schedule=Schedule(steps=steps))
    exact = mean_of([field.psnr(signal) for field, signal in zip(fields, signals, strict=True)], "dB")
    found, plan = [], None
    for name, options in BUILT.items():
        fwht = options.get("fwht", "serial")
        method = HadamardQuant(**{key: value for key, value in options.items() if key != "fwht"})
        made: list[IntegerField] = [method.quantize(f, s) for f, s in zip(fields, signals, strict=True)]
        psnr = mean_of([field.psnr(signal) for field, signal in zip(made, signals, strict=True)], "dB")
        core = Accelerator(Program([made[0].model], (size, size), lanes, fwht))
        check_pixels(core)
        plan = core.program
        source = tools.rtlil(core, "accelerator", core.ports)
        cells, spent = synthesis.fpga_cells(source, "accelerator"), core.cycles
        logic = synthesis.transistors(source, "accelerator", synthesis.LOGIC)["transistors"]
        energy = energies(core)
        figures = mac_figures(macs.Mac(plan.weight_bits, plan.few_bits, plan.sum_bits)) | {
            "psnr": psnr,
            "cycles of a pixel": Value(sum(spent.values()), "cycles"),
            "cycles of the transform": Value(spent["transform"], "cycles"),
            "energy of a pixel": Value(energy["a pixel"], "fJ"),
            "energy of the transform": Value(energy.get("additions", 0.0), "fJ"),
            "memory": Value(sum(core.contents.bits().values()), "bits"),
            "transistors without memories": Value(logic),
            **{what: Value(cells[key]) for what, key in (
                ("LUTs", "luts"), ("flip-flops", "flip_flops"), ("DSP blocks", "dsps"), ("block memories", "memories"),
            )},
        }  # fmt: skip
        found += rows(name, **figures)
        print(f"{name}: {psnr.value:.2f} dB, {sum(spent.values())} cycles, {cells}", flush=True)
    assert plan is not None
    products = plan.work()["products"]
    for name, mac in (("32-bit fixed point", macs.Mac(32, 32, 72)), ("binary32", macs.FloatMac())):
        figures = mac_figures(mac)
        energy = products * figures["energy of a MAC"].value
        found += rows(name, **figures, psnr=exact)
        found += rows(name, **{"energy of a pixel": Value(energy, "fJ"), "products of a pixel": Value(products)})
        print(f"{name}: {exact.value:.2f} dB, {energy:.0f} fJ", flush=True)
    return Result(rows=found, settings={"lanes": lanes, "width": width, "versions": tools.versions()}, seeds=(0,))
