"""Area and cells of a design by yosys: standard cells of a library, or transistors without one; LUTs of an FPGA.

And whether gates still compute what was described.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hardy.errors import InputError
from hardy.rtl import tools

_FLIP_FLOP = 24
"""Transistors of a D flip-flop with static transmission gates and a buffered clock."""
ALL = ("synth -flatten",)
"""A design mapped to gates, tables and other memories included."""
LOGIC = ("synth -flatten -run begin:fine", "opt -fast -full", "opt -undriven -fine", "techmap", "opt -fast")
"""A design mapped to gates but for its memories, which stay what they are."""
_LIGHT = " -script +strash;dc2;strash;&get,-n;&nf;&put"
"""abc without its searches for equal signals, which take minutes in the wide products of LOGIC and save 1 % of it."""
_TRANSISTORS = {"$_NOT_": 2, "$_NAND_": 4, "$_NOR_": 4}


def _effort(front: Sequence[str]) -> str:
    return _LIGHT if front == LOGIC else ""


def standard_cells(source: str, name: str, liberty: str | Path, front: Sequence[str] = ALL) -> dict[str, float]:
    """Area in the library's unit (µm² as a rule), before layout, and how many cells; `front` is ALL or LOGIC."""
    path = tools.cell_library(str(liberty))
    found = tools.cells(
        source,
        name,
        [*front, f"dfflibmap -liberty {path}", f"abc -liberty {path}{_effort(front)}", "opt_clean"],
        f"stat -json -liberty {path}",
    )
    return {"area": float(found["area"]), "cells": float(found["num_cells"])}


def netlist(source: str, name: str, liberty: str | Path, front: Sequence[str] = ALL) -> str:
    """Verilog of the design in cells of a library, every connection a name or a bit; `front` is ALL or LOGIC.

    What LOGIC leaves of memories becomes ports: what they give comes in, and what they take goes out.
    """
    path = tools.cell_library(str(liberty))
    return tools.written(
        source,
        name,
        [
            *front, f"dfflibmap -liberty {path}", f"abc -liberty {path}{_effort(front)}",
            "expose -evert t:$mem*", "delete s:0",  # of a port of no bits
            "setundef -zero", "splitnets -ports", "opt_clean -purge",
        ],
        "write_verilog -noattr -noexpr",
    )  # fmt: skip


def equivalent(source: str, name: str, latency: int, *, gates_of: str | None = None, seconds: int = 60) -> bool:
    """Prove by SAT that gates and flip-flops compute what was described, for all inputs; False if time ran out.

    With `gates_of`, another design with the same ports and latency, that its gates compute the same.

    The gates are NAND, NOR and NOT as `transistors` counts them. Outputs of a pipeline depend on the last `latency`
    inputs alone, so that as many cycles after any state, and one more, are all that there is to prove.

    Raises:
        InputError: an input was found for which they differ.
    """
    gates = ["synth -flatten", "dfflegalize -cell $_DFF_P_ x", "abc -g cmos2"]
    told = tools.compared(
        (source, source if gates_of is None else gates_of),
        name,
        (["proc", "flatten", "memory_map", "opt_clean"], [*gates, "opt_clean"]),
        [
            "miter -equiv -flatten -make_outputs gold gate miter",
            f"sat -prove trigger 0 -seq {latency + 1} -prove-skip {latency} -set-def-inputs -timeout {seconds} miter",
        ],
    )
    if "no model found: SUCCESS" in told:
        return True
    if "model found: FAIL" in told:
        raise InputError(f"the gates of {name} differ from what was described")
    return False


def transistors(source: str, name: str, front: Sequence[str] = ALL) -> dict[str, float]:
    """CMOS transistors of NAND, NOR and NOT gates and flip-flops: an area without a library; `front` is ALL or LOGIC.

    Flip-flops are counted with 24 each; `stat -tech cmos` leaves them out.
    """
    found = tools.cells(
        source,
        name,
        [*front, "dfflegalize -cell $_DFF_P_ x", f"abc -g cmos2{_effort(front)}", "opt_clean"],
    )["num_cells_by_type"]
    flip_flops = found.get("$_DFF_P_", 0)
    odd = {kind for kind in found if not kind.startswith("$mem")} - {*_TRANSISTORS, "$_DFF_P_"}
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
