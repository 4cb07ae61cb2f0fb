"""The Hadamard transform of a whole layer at once: as many registers as values, and an adder for each.

Source: DHQ (arXiv 2508.13478) for what it is for; Pease (1968) for butterflies whose wiring is the same in every step.
"""

from __future__ import annotations

from amaranth import Elaboratable, Shape

from hardy.ops.hadamard import factors, paley
from hardy.rtl.hdl import Module, Signal, Value


class ParallelTransform(Elaboratable):
    """Values go in one by one, are transformed in `steps` cycles, and come out one by one, real and imaginary by turns.

    Args:
        width: of the layer.
        parts: that are transformed apart.
        shape: of a transformed value, which every value on the way fits.

    Attributes:
        push, value: takes a value in.
        go: a cycle of butterflies; the first of `steps` multiplies by the Paley matrix where the width has one.
        paley: whether this cycle is that one.
        pop, first: `first` is the value that comes out, and `pop` moves on to the next.
    """

    _MustUse__silence = True

    def __init__(self, width: int, parts: int, shape: Shape) -> None:
        self.width, self.parts, self.shape = width, parts, shape
        self.blocks, self.doublings, self.base = factors(width // parts)
        self.blocks *= parts
        self.push, self.go, self.paley, self.pop = (Signal(name=name) for name in ("push", "go", "paley", "pop"))
        self.value, self.first = Signal(shape, name="value"), Signal(shape, name="first")

    @property
    def steps(self) -> int:
        """Cycles of `go`."""
        return self.doublings + (self.base > 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = [Signal(self.shape, name=f"held_{n}", reset_less=True) for n in range(self.width)]
        m.d.comb += self.first.eq(held[0])
        with m.If(self.push | self.pop):
            m.d.sync += [one.eq(after) for one, after in zip(held, [*held[1:], self.value], strict=True)]
        with m.If(self.go):
            m.d.sync += [one.eq(value) for one, value in zip(held, self._doubled(held), strict=True)]
            if self.base > 1:
                with m.If(self.paley):
                    m.d.sync += [one.eq(value) for one, value in zip(held, self._based(held), strict=True)]
        return m

    def _places(self) -> list[int]:
        """Where each value of a layer is held: those of several parts by turns."""
        each = self.width // self.parts
        return [n % each * self.parts + n // each for n in range(self.width)]

    def _doubled(self, held: list[Signal]) -> list[Value]:
        """One butterfly: a (first half) and b (second half) of a block become a + b, a - b, a' + b' ..."""
        length, places = self.width // self.blocks, self._places()
        half = length // self.base // 2
        made: list[Value] = list(held)
        for block in range(self.blocks):
            for pair in range(half):
                for place in range(self.base):
                    at = block * length + place
                    a, b = (held[places[at + n * self.base]] for n in (pair, pair + half))
                    made[places[at + 2 * pair * self.base]] = a + b
                    made[places[at + (2 * pair + 1) * self.base]] = a - b
        return made

    def _based(self, held: list[Signal]) -> list[Value]:
        matrix, places, made = paley(self.base).tolist(), self._places(), list[Value](held)
        for begin in range(0, self.width, self.base):
            block = [held[places[n]] for n in range(begin, begin + self.base)]
            for n, row in enumerate(matrix):
                terms = [value if sign > 0 else -value for sign, value in zip(row, block, strict=True)]
                made[places[begin + n]] = Value.cast(sum(terms[1:], terms[0]))
        return made
