"""Memories of the accelerator as block RAMs have them: what is read in a cycle was addressed in the one before."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Shape, unsigned

from hardy.rtl.hdl import Memory, Module, Mux, Signal, Value


class Tape:
    """Words that are read in order, `data` the one at the head; it moves on with `advance`, and back with `rewind`.

    Args:
        m: where it goes.
        words: unsigned.
        bits: of a word.
        writable: whether it has a port to write.
    """

    def __init__(self, m: Module, words: Sequence[int], bits: int, name: str, *, writable: bool = False) -> None:
        depth = max(len(words), 1)
        memory = Memory(shape=unsigned(bits), depth=depth, init=list(words))
        port = memory.read_port()
        self.writes = memory.write_port() if writable else None
        self.advance, self.rewind = Signal(name=f"{name}_advance"), Signal(name=f"{name}_rewind")
        head = Signal(range(depth + 1), name=f"{name}_head")
        after = Signal(range(depth + 1), name=f"{name}_after")
        m.d.comb += [after.eq(Mux(self.rewind, 0, head + self.advance)), port.addr.eq(after)]
        m.d.sync += head.eq(after)
        self.data: Value = port.data
        m.submodules[name] = memory


class Buffer:
    """Activations; `data` is the value at the address `next` of the cycle before.

    Args:
        m: where it goes.
        shape: of a value.
        depth: of the widest layer.
        shortest: of the narrowest; a single value is written in the cycle in which it is asked for.
    """

    def __init__(self, m: Module, shape: Shape, depth: int, shortest: int, name: str) -> None:
        memory = Memory(shape=shape, depth=depth, init=[])
        self._write = memory.write_port()
        port = memory.read_port(transparent_for=(self._write,) if shortest == 1 else ())
        self.next: Value = port.addr
        self.data: Value = port.data
        m.submodules[name] = memory

    def write(self, m: Module, where: Value, what: Value, when: Value) -> None:
        """Store `what` in this state."""
        m.d.comb += [self._write.addr.eq(where), self._write.data.eq(what), self._write.en.eq(when)]


def packed(fields: Sequence[tuple[int, int]]) -> int:
    """A word of fields (value, bits), the first lowest, in two's complement."""
    word, at = 0, 0
    for value, bits in fields:
        word |= (int(value) & ((1 << bits) - 1)) << at
        at += bits
    return word


def taken(word: Value, shapes: Sequence[Shape]) -> list[Value]:
    """The fields of a word that `packed` made."""
    made, at = [], 0
    for shape in shapes:
        field = word[at : at + shape.width]
        made.append(field.as_signed() if shape.signed else field)
        at += shape.width
    return made
