"""Endless streams in bounded, truly packed memory."""

from hardy.stream.store import LayerStore

__all__ = ["LayerStore"]
