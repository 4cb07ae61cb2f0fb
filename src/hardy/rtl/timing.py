"""Critical path and power of a mapped design by OpenSTA, where it is installed: before layout, without wires."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hardy.errors import InputError
from hardy.rtl import synthesis, tools

PERIOD = 10.0
"""ns: the clock at which power is told."""
ACTIVITY = 0.2
"""Toggles of everything but the clock in a cycle; what OpenSTA derives from inputs grows in products without end."""

_SCRIPT = """read_liberty {liberty}
read_verilog {folder}/net.v
link_design {name}
create_clock -name clk -period {period} [get_ports clk]
set_input_delay 0 -clock clk [all_inputs]
set_output_delay 0 -clock clk [all_outputs]
set_power_activity -global -activity {activity}
puts "slack [worst_slack -max]"
report_power
exit
"""


def timed(source: str, name: str, liberty: str | Path, front: Sequence[str] = synthesis.ALL) -> dict[str, float]:
    """ "critical path" in ns and "power" in mW at 100 MHz of a design in RTLIL, in cells of a library.

    With `synthesis.LOGIC` they are those of the logic between memories, which answer in no time.

    Raises:
        MissingToolError: there is no OpenSTA.
        InputError: yosys or OpenSTA failed; with its message.
    """
    command = tools.needed("sta")
    path = tools.cell_library(str(liberty))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.v").write_text(synthesis.netlist(source, name, liberty, front), encoding="utf-8")
        script = _SCRIPT.format(liberty=path, folder=folder, name=name, period=PERIOD, activity=ACTIVITY)
        (Path(folder) / "run.tcl").write_text(script, encoding="utf-8")
        told = tools.run("OpenSTA", [*command, "-exit", f"{folder}/run.tcl"])
    slack = re.search(r"^slack (-?[\d.]+)", told, re.MULTILINE)
    power = re.search(r"^Total(?:\s+[\d.e+-]+){3}\s+([\d.e+-]+)", told, re.MULTILINE)
    if slack is None or power is None:
        raise InputError(f"OpenSTA told neither slack nor power: {told.strip()[-300:]}")
    return {"critical path": PERIOD - float(slack[1]), "power": 1000 * float(power[1])}
