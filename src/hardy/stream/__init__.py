"""Endless streams in bounded, truly packed memory."""

from hardy.stream import scorers
from hardy.stream.cache import CompressedCache
from hardy.stream.observing import observe
from hardy.stream.policy import Budget, KVPolicy, Protect
from hardy.stream.store import LayerStore

__all__ = ["Budget", "CompressedCache", "KVPolicy", "LayerStore", "Protect", "observe", "scorers"]
