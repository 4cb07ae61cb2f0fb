"""What a design costs by every tool that is here: cells, area, time and power; and what these figures are not."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from amaranth import Elaboratable

from hardy import checks
from hardy.report import Row
from hardy.rtl import routing, synthesis, timing, tools
from hardy.rtl.hdl import Signal

FEMTOJOULES = 0.5 * 0.2 * 0.2 * 0.9**2
"""Of a transistor per cycle: half of 0.2 toggles a cycle, 0.2 fF, 0.9 V squared."""
_UNITS = {
    "area": "library units", "latency": "cycles", "error": "LSB", "energy (model)": "fJ", "energy (OpenSTA)": "fJ",
    "critical path": "ns", "power": "mW", "generation": "s", "synthesis": "s", "time to generate": "s", "fmax": "MHz",
}  # fmt: skip


def unit_of(metric: str) -> str:
    """Of a metric, which may name a device: "fmax, ECP5 25k"."""
    return _UNITS.get(metric.partition(",")[0], "")


def check_tools(liberty: str | Path | None, devices: Sequence[str]) -> None:
    """Say early what would be missing late.

    Raises:
        InputError: there is no such device, its nextpnr is missing, or the library cannot be read.
    """
    for name in devices:
        family = routing.DEVICES[checks.one_of("device", name, routing.DEVICES)].family
        tools.needed(f"nextpnr-{family}")
    if liberty is not None and tools.has_yosys():
        tools.cell_library(str(liberty))


def measured(
    design: Elaboratable,
    name: str,
    ports: Sequence[Signal],
    *,
    liberty: str | Path | None = None,
    devices: Sequence[str] = (),
    front: Sequence[str] = synthesis.ALL,
) -> dict[str, float]:
    """Counts and figures by metric; without yosys only the seconds that it took to describe the design.

    Args:
        design: with the top module `name` and its `ports`.
        liberty: cell library for the area.
        devices: of `hardy.rtl.routing.DEVICES` that it is routed for.
        front: `synthesis.ALL`, or `synthesis.LOGIC` for gates without memories.
    """
    begun = time.perf_counter()
    source = tools.rtlil(design, name, ports)
    found = {"generation": time.perf_counter() - begun}
    if not tools.has_yosys():
        return found
    begun = time.perf_counter()
    found["transistors"] = synthesis.transistors(source, name, front)["transistors"]
    found["energy (model)"] = found["transistors"] * FEMTOJOULES
    if liberty is not None:
        found |= synthesis.standard_cells(source, name, liberty, front)
    with_blocks = synthesis.fpga_cells(source, name)
    for metric, cells in (("luts", "luts"), ("dsps", "dsps"), ("flip-flops", "flip_flops"), ("memories", "memories")):
        found[metric] = with_blocks[cells]
    found["luts without DSP blocks"] = found["luts"]
    if found["dsps"]:
        found["luts without DSP blocks"] = synthesis.fpga_cells(source, name, dsp=False)["luts"]
    for key in devices:
        device = routing.DEVICES[key]
        if sum(len(port) for port in ports) + 2 <= device.pins:
            for metric, value in routing.routed(source, name, device).items():
                found[f"{metric}, {device.name}"] = value
    return found | {"synthesis": time.perf_counter() - begun}


def timed(
    design: Elaboratable,
    name: str,
    ports: Sequence[Signal],
    liberty: str | Path | None,
    front: Sequence[str] = synthesis.ALL,
) -> dict[str, float]:
    """Critical path, power and energy by metric, where there are yosys, OpenSTA and a library."""
    if liberty is None or not tools.has_yosys() or tools.program("sta") is None:
        return {}
    found = timing.timed(tools.rtlil(design, name, ports), name, liberty, front)
    return found | {"energy (OpenSTA)": 1000 * found["power"] * timing.PERIOD}  # mW times ns is pJ


def rows(condition: str, found: Mapping[str, float], baseline: str | None = None, **details: float | str) -> list[Row]:
    """A row for each figure."""
    return [
        Row(metric=metric, condition=condition, value=value, unit=unit_of(metric), baseline=baseline, details=details)
        for metric, value in found.items()
    ]


def claims(found: Mapping[str, float]) -> tuple[str, ...]:
    """What the figures are and are not."""
    if "transistors" not in found:
        return ()
    told = [
        "LUTs, flip-flops, DSP blocks and memories without a device are yosys' counts for an UltraScale+ before "
        "placement, not the vendor's.",
        "Area is of mapped cells before layout; transistors are of NAND, NOR and NOT gates and 24 per flip-flop.",
        "Energy (model) is 0.2 toggles of 0.2 fF at 0.9 V per transistor and cycle. It ranks; it is no measurement.",
    ]
    if "power" in found:
        told.append(
            "Critical path and power are OpenSTA's for cells without wires, at 100 MHz and 0.2 toggles of everything "
            "but the clock a cycle; memories answer in no time. Energy (OpenSTA) is that power times a cycle."
        )
    if any(metric.startswith("fmax") for metric in found):
        told.append("fmax is nextpnr's model after routing, with one seed; a device with too few pins is left out.")
    return tuple(told)
