"""Area and cells of a design by yosys: standard cells of a library, or transistors without one; LUTs of an FPGA."""

from __future__ import annotations

import re
from pathlib import Path

from hardy.rtl import tools

_FLIP_FLOP = 24
"""Transistors of a D flip-flop with static transmission gates and a buffered clock."""
_TRANSISTORS = {"$_NOT_": 2, "$_NAND_": 4, "$_NOR_": 4}


def standard_cells(source: str, name: str, liberty: str | Path) -> dict[str, float]:
    """Area in the library's unit (µm² as a rule), before layout, and how many cells."""
    path = tools.cell_library(str(liberty))
    found = tools.cells(
        source,
        name,
        ["synth -flatten", f"dfflibmap -liberty {path}", f"abc -liberty {path}", "opt_clean"],
        f"stat -json -liberty {path}",
    )
    return {"area": float(found["area"]), "cells": float(found["num_cells"])}


def transistors(source: str, name: str) -> dict[str, float]:
    """CMOS transistors of NAND, NOR and NOT gates and flip-flops: an area without a library.

    Flip-flops are counted with 24 each; `stat -tech cmos` leaves them out.
    """
    found = tools.cells(
        source,
        name,
        ["synth -flatten", "dfflegalize -cell $_DFF_P_ x", "abc -g cmos2", "opt_clean"],
    )["num_cells_by_type"]
    flip_flops = found.get("$_DFF_P_", 0)
    odd = set(found) - set(_TRANSISTORS) - {"$_DFF_P_"}
    assert not odd, f"cells that have no count of transistors: {sorted(odd)}"
    gates = sum(count * _TRANSISTORS[kind] for kind, count in found.items() if kind in _TRANSISTORS)
    return {"transistors": float(gates + _FLIP_FLOP * flip_flops), "flip_flops": float(flip_flops)}


def fpga_cells(source: str, name: str, *, dsp: bool = True) -> dict[str, float]:
    """LUTs, flip-flops and DSP blocks of an UltraScale+, before placement; yosys' counts, not the vendor's."""
    found = tools.cells(
        source,
        name,
        [f"synth_xilinx -family xcup -flatten -noiopad -noclkbuf{'' if dsp else ' -nodsp'}"],
    )["num_cells_by_type"]
    counts = {"luts": 0.0, "flip_flops": 0.0, "dsps": 0.0, "memories": 0.0}
    for kind, count in found.items():
        if re.fullmatch(r"LUT\d|SRL\w+|INV", kind):
            counts["luts"] += count
        elif re.fullmatch(r"FD\w+", kind):
            counts["flip_flops"] += count
        elif kind.startswith("DSP"):
            counts["dsps"] += count
        elif kind.startswith("RAM"):
            counts["memories"] += count
    return counts
