"""Pipelines from pure stage functions: registers, the valid bit, side signals and retiming come from here.

Source: the unified N-stage pipeline of QuadINR (arXiv 2508.14374). A stage reads named values and returns new ones; a
rank of registers follows each stage, or each group of stages when there are to be fewer ranks. A value that a later
stage reads is carried along, one that no stage reads any more is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from amaranth import Elaboratable, Shape

from hardy import checks
from hardy.rtl.hdl import Memory, Module, Signal, Value

Values: TypeAlias = Mapping[str, Value]
Stage: TypeAlias = Callable[[Module, Values], Mapping[str, Value]]
"""Combinational: what it makes of the values that reach it. The module is for tables, see `lookup`."""


class Pipeline(Elaboratable):
    """One result per cycle, `latency` cycles after its input.

    Args:
        stages: at least one.
        inputs, outputs: names and shapes of the ports.
        ranks: ranks of registers, which is the latency; by default one per stage. With fewer, neighbours are merged.

    Attributes:
        inputs, outputs: the signals of the ports by name.
        in_valid, out_valid: whether the values at the ports count; only these two are reset.

    Raises:
        InputError: `ranks` is not from 1 to the number of stages.
    """

    _MustUse__silence = True  # one that is made only to be asked its latency is no mistake

    def __init__(
        self,
        stages: Sequence[Stage],
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
        ranks: int | None = None,
    ) -> None:
        self.groups = grouped(stages, len(stages) if ranks is None else ranks)
        self.inputs = {name: Signal(shape, name=name) for name, shape in inputs.items()}
        self.outputs = {name: Signal(shape, name=name) for name, shape in outputs.items()}
        self.in_valid, self.out_valid = Signal(name="in_valid"), Signal(name="out_valid")

    @property
    def latency(self) -> int:
        """Cycles from an input to its output."""
        return len(self.groups)

    @property
    def ports(self) -> list[Signal]:
        """All signals that cross the border, but for clock and reset."""
        return [self.in_valid, *self.inputs.values(), self.out_valid, *self.outputs.values()]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values: Values = dict(self.inputs)
        valid = self.in_valid
        ranks: list[tuple[set[str], set[str], dict[str, Value], dict[str, Signal]]] = []
        for number, group in enumerate(self.groups, 1):
            seen = _Seen(values)
            for stage in group:
                seen.update(_wired(m, stage(m, seen)))
            registers = {
                name: Signal(value.shape(), name=f"{name}_{number}", reset_less=True) for name, value in seen.items()
            }
            ranks.append((seen.read, seen.made, dict(seen), registers))
            after = Signal(name=f"valid_{number}")
            m.d.sync += after.eq(valid)
            values, valid = registers, after
        live = set(self.outputs)
        for read, made, sources, registers in reversed(ranks):
            m.d.sync += [registers[name].eq(sources[name]) for name in sorted(live)]
            live = (live - made) | read
        m.d.comb += [self.out_valid.eq(valid), *(port.eq(values[name]) for name, port in self.outputs.items())]
        return m


def _wired(m: Module, values: Values) -> dict[str, Value]:
    """Values as signals, so that what several later stages of a group use is there once."""
    wires = {name: Signal(value.shape(), name=name) for name, value in values.items()}
    m.d.comb += [wires[name].eq(value) for name, value in values.items()]
    return dict(wires)


class _Seen(dict[str, Value]):
    """Values of a group of stages, and which of those that came in were read."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        super().__init__(values)
        self.read: set[str] = set()
        self.made: set[str] = set()

    def __getitem__(self, name: str) -> Value:
        if name not in self.made:
            self.read.add(name)
        return super().__getitem__(name)

    def update(self, made: Mapping[str, Value]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().update(made)
        self.made |= set(made)


def grouped(stages: Sequence[Stage], ranks: int) -> list[list[Stage]]:
    """`stages` in `ranks` groups of neighbours, as even as can be, the longer ones last."""
    checks.integer("ranks", ranks, at_least=1, at_most=len(stages))
    ends = [len(stages) * i // ranks for i in range(ranks + 1)]
    return [list(stages[a:b]) for a, b in itertools.pairwise(ends)]


def lookup(m: Module, table: Sequence[int], shape: Shape, index: Value) -> Value:
    """`table[index]` of shape `shape`, combinational; beyond the table's end anything."""
    memory = Memory(shape=shape, depth=len(table), init=[int(value) for value in table])
    port = memory.read_port(domain="comb")
    m.submodules += memory
    m.d.comb += port.addr.eq(index)
    return port.data
