"""Activation units in hardware: the quadratic wave against CORDIC, tables and interpolation.

Every unit is first simulated against its integer reference, then synthesized by yosys: cells of sky130 (before layout),
transistors, and LUTs, flip-flops and DSP blocks of an UltraScale+ with and without DSP blocks (before placement).
Four bits are before the point. The library is the folder `data/hw` of the shared data; without it there are
transistors only.

    python -m benchmarks run rtl [--widths 16,32] [--units NAME,...]
"""

from benchmarks.harness import SHARED, NotMeasuredError, Result
from hardy.rtl import UNITS, compare, tools

PEERS = ("amaranth", "pyosys")


def run(*, widths: str = "16,32", units: str = ",".join(UNITS)) -> Result:
    if not tools.has_yosys():
        raise NotMeasuredError("yosys is missing: pip install 'hardy-nn[rtl]'")
    library = SHARED / "data" / "hw" / "sky130hd_tt.lib.gz"
    report = compare(
        [int(width) for width in widths.split(",")],
        units=units.split(","),
        liberty=library if library.is_file() else None,
    )
    return Result(rows=report.rows, settings=report.settings, notes=report.notes, report=report)
