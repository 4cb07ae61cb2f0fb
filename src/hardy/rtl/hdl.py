"""amaranth's language as far as this room speaks it, untyped: its annotations do not say what its operators give."""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    Array: TypeAlias = Any
    Cat: TypeAlias = Any
    Const: TypeAlias = Any
    Memory: TypeAlias = Any
    Module: TypeAlias = Any
    Mux: TypeAlias = Any
    Signal: TypeAlias = Any
    Value: TypeAlias = Any
else:
    from amaranth import Array, Cat, Const, Module, Mux, Signal, Value
    from amaranth.lib.memory import Memory

__all__ = ["Array", "Cat", "Const", "Memory", "Module", "Mux", "Signal", "Value"]
