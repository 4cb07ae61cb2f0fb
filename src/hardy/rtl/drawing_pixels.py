"""The accelerator in Amaranth's simulator: what it draws, every code on the way, and in how many cycles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hardy.rtl.accelerator_core import Accelerator
from hardy.runs.progress import progress

_LONGEST = 10_000_000


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What came of some pixels.

    Attributes:
        colours: (n, channels) uint8.
        last: (n,) bool, `tlast`.
        cycles: of each pixel.
        taps: the codes (n, codes) int64 at "x", "y" and "few", in the order in which they were computed.
    """

    colours: np.ndarray
    last: np.ndarray
    cycles: list[int]
    taps: dict[str, np.ndarray]


def draw(
    core: Accelerator,
    pixels: Sequence[tuple[int, int]],
    *,
    picture: int | None = None,
    stalls: bool = False,
    show: bool = False,
) -> Drawn:
    """Draw the pixels (x, y).

    Args:
        core: which.
        pixels: indices.
        picture: of an album, loaded first; by default the one that is there at reset.
        stalls: let the receiver be late, and the sender pause.
        show: a progress bar.
    """
    colours, lasts, cycles = [], [], []
    seen: dict[str, list[list[int]]] = {name: [] for name in core.taps}

    async def drive(context: Any) -> None:
        if picture is not None:
            for words, _ in core.contents.of(picture).values():
                for word in words:
                    context.set(core.p_data, word)
                    context.set(core.p_valid, 1)
                    assert context.get(core.p_ready)
                    await context.tick()
            context.set(core.p_valid, 0)
        with progress("simulate pixels", len(pixels), show=show) as bar:
            for number, (x, y) in enumerate(pixels):
                for _ in range(number % 3 if stalls else 0):
                    await context.tick()
                context.set(core.s_data, x | y << 16)
                context.set(core.s_valid, 1)
                assert context.get(core.s_ready)
                for codes in seen.values():
                    codes.append([])
                await context.tick()
                context.set(core.s_valid, 0)
                taken = 1
                while not context.get(core.m_valid):
                    for name, (valid, code) in core.taps.items():
                        if context.get(valid):
                            seen[name][-1].append(context.get(code))
                    await context.tick()
                    taken += 1
                    assert taken < _LONGEST, "the accelerator does not answer"
                for _ in range(number % 4 if stalls else 0):
                    await context.tick()
                data = context.get(core.m_data)
                colours.append([data >> (8 * n) & 255 for n in range(core.channels)])
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
    taps = {name: np.array(codes, dtype=np.int64) for name, codes in seen.items()}
    return Drawn(np.array(colours, dtype=np.uint8), np.array(lasts), cycles, taps)
