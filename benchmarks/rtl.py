"""Activation units in hardware: the quadratic wave against CORDIC, tables and interpolation.

Every unit is first simulated against its integer reference, at 8 bits its gates are proven equal to their description,
then yosys maps it to cells of sky130 (before layout), to transistors, and to LUTs, flip-flops and DSP blocks of an
UltraScale+ with and without DSP blocks (before placement); OpenSTA times it, and at 16 bits nextpnr routes it on an
ECP5. Four bits are before the point. The library is the folder `data/hw` of the shared data; what is not here is left
out. What is finished is kept, so that the same command goes on.

    python -m benchmarks run rtl [--widths 8,16,32] [--units NAME,...]
"""

from pathlib import Path

from benchmarks.harness import SHARED, NotMeasuredError, Result
from hardy.rtl import UNITS, compare, tools

PEERS = ("amaranth", "pyosys")
ROUTED = 16


def run(*, work: Path, widths: str = "16,32,8", units: str = ",".join(UNITS)) -> Result:
    if not tools.has_yosys():
        raise NotMeasuredError("yosys is missing: pip install 'hardy-nn[rtl]'")
    library = SHARED / "hw" / "sky130hd_tt.lib.gz"
    reports = [
        compare(
            [width],
            work / str(width),
            units=units.split(","),
            liberty=library if library.is_file() else None,
            devices=("ecp5-25k",) if width == ROUTED and tools.program("nextpnr-ecp5") else (),
        )
        for width in map(int, widths.split(","))
    ]
    found = [row for report in reports for row in report.rows]
    sentences = tuple(sentence for report in reports for sentence in report.summary)
    return Result(rows=found, settings=reports[0].settings, notes=sentences + reports[0].notes)
