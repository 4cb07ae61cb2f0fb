"""A unit in Amaranth's simulator: needs no tool but Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hardy.rtl.pipeline import Pipeline
from hardy.runs.progress import progress


def simulate(pipeline: Pipeline, codes: np.ndarray, *, show: bool = False) -> dict[str, np.ndarray]:
    """What comes out for `codes` (n,) at "x", one a cycle: (n,) int64 by output.

    The valid bit has to come `latency` cycles after its input and with every input, or it is an AssertionError.
    """
    found: Mapping[str, list[int]] = {name: [] for name in pipeline.outputs}

    async def drive(context: Any) -> None:
        with progress("simulate", len(codes), show=show) as bar:
            for cycle in range(len(codes) + pipeline.latency):
                inside = cycle < len(codes)
                context.set(pipeline.in_valid, int(inside))
                if inside:
                    context.set(pipeline.inputs["x"], int(codes[cycle]))
                valid = context.get(pipeline.out_valid)
                assert bool(valid) == (cycle >= pipeline.latency), f"valid is {valid} in cycle {cycle}"
                if valid:
                    for name, port in pipeline.outputs.items():
                        found[name].append(context.get(port))
                await context.tick()
                if cycle % 256 == 255:
                    bar.update(min(cycle, len(codes)))

    simulator = Simulator(pipeline)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return {name: np.array(values, dtype=np.int64) for name, values in found.items()}
