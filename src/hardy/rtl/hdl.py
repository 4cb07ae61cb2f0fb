"""amaranth's language as far as this room speaks it, untyped: its annotations do not say what its operators give."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class Value(Any): ...

    class Signal(Value): ...

    class Const(Value): ...

    class Module(Any): ...

    class Memory(Any): ...

    Array: Any
    Cat: Any
    Mux: Any
else:
    from amaranth import Array, Cat, Const, Module, Mux, Signal, Value
    from amaranth.lib.memory import Memory

__all__ = ["Array", "Cat", "Const", "Memory", "Module", "Mux", "Signal", "Value"]
