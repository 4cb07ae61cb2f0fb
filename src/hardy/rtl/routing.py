"""A design placed and routed on an FPGA by nextpnr: how fast its model says the clock can be, and the cells in use."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

from hardy.rtl import tools

_TARGET = 100
"""MHz that nextpnr tries for; what it misses is no error here."""


@dataclasses.dataclass(frozen=True)
class Device:
    """A part: nextpnr's family and options, its pins, and names of cells by what they are."""

    name: str
    family: str
    options: tuple[str, ...]
    pins: int
    cells: tuple[tuple[str, str], ...]


_ICE = (("luts", "ICESTORM_LC"), ("dsps", "ICESTORM_DSP"), ("memories", "ICESTORM_RAM"))
_ECP = (("luts", "TRELLIS_COMB"), ("flip-flops", "TRELLIS_FF"), ("dsps", "MULT18X18D"), ("memories", "DP16KD"))
DEVICES = {
    "up5k": Device("iCE40 UP5K", "ice40", ("--up5k", "--package", "sg48"), 39, _ICE),
    "hx8k": Device("iCE40 HX8K", "ice40", ("--hx8k", "--package", "ct256"), 206, _ICE),
    "ecp5-25k": Device("ECP5 25k", "ecp5", ("--25k", "--package", "CABGA381"), 197, _ECP),
    "ecp5-85k": Device("ECP5 85k", "ecp5", ("--85k", "--package", "CABGA756"), 365, _ECP),
}


def routed(source: str, name: str, device: Device, *, seed: int = 1) -> dict[str, float]:
    """Cells in use and "fmax" in MHz of a design in RTLIL; no fmax where no register follows another.

    Raises:
        MissingToolError: there is no nextpnr for this family.
        InputError: yosys or nextpnr failed, or the design does not fit; with its message.
    """
    command = tools.needed(f"nextpnr-{device.family}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "in.il").write_text(source, encoding="utf-8")
        dsp = " -dsp" if device.name == "iCE40 UP5K" else ""
        script = f"synth_{device.family}{dsp} -top {name} -json {folder}/net.json"
        tools.yosys([f"read_rtlil {folder}/in.il", "setattr -unset init w:*", script])
        constraints = "--pcf-allow-unconstrained" if device.family == "ice40" else "--lpf-allow-unconstrained"
        tools.run(
            f"nextpnr-{device.family}",
            [*command, *device.options, "--json", "net.json", constraints, "--timing-allow-fail", "--quiet",
             "--freq", str(_TARGET), "--seed", str(seed), "--report", "report.json"],
            place,
        )  # fmt: skip
        report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    used = {what: float(report["utilization"].get(cell, {"used": 0})["used"]) for what, cell in device.cells}
    clocks = [clock["achieved"] for clock in report["fmax"].values()]
    return ({"fmax": min(clocks)} if clocks else {}) | used
