"""The accelerator in Amaranth's simulator: what it draws, and in how many cycles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hardy.rtl.accelerator_core import Accelerator
from hardy.runs.progress import progress


def draw(
    core: Accelerator, pixels: Sequence[tuple[int, int]], *, stalls: bool = False, show: bool = False
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Colours (n, channels) uint8 of the pixels (x, y), `tlast` (n,), and the cycles each took.

    Args:
        core: which.
        pixels: indices.
        stalls: let the receiver be late, and the sender pause.
        show: a progress bar.
    """
    colours, lasts, cycles = [], [], []
    channels = len(core.m_data) // 8

    async def drive(context: Any) -> None:
        with progress("simulate pixels", len(pixels), show=show) as bar:
            for number, (x, y) in enumerate(pixels):
                for _ in range(number % 3 if stalls else 0):
                    await context.tick()
                context.set(core.s_data, x | y << 16)
                context.set(core.s_valid, 1)
                assert context.get(core.s_ready)
                await context.tick()
                context.set(core.s_valid, 0)
                taken = 1
                context.set(core.m_ready, 0)
                while not context.get(core.m_valid):
                    await context.tick()
                    taken += 1
                    assert taken < 1_000_000, "the accelerator does not answer"
                for _ in range(number % 4 if stalls else 0):
                    await context.tick()
                data = context.get(core.m_data)
                colours.append([data >> (8 * n) & 255 for n in range(channels)])
                lasts.append(bool(context.get(core.m_last)))
                context.set(core.m_ready, 1)
                await context.tick()
                context.set(core.m_ready, 0)
                cycles.append(taken + 1)
                bar.advance()

    simulator = Simulator(core)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return np.array(colours, dtype=np.uint8), np.array(lasts), cycles
