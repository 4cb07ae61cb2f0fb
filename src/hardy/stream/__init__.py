"""Endless streams in bounded, truly packed memory: a cache for language models, its policies, and what they cost."""

from hardy.stream import scorers
from hardy.stream.accounting import memory
from hardy.stream.cache import CompressedCache
from hardy.stream.evaluation import evaluate
from hardy.stream.observing import observe
from hardy.stream.policy import Budget, KVPolicy, Protect
from hardy.stream.store import LayerStore

__all__ = [
    "Budget",
    "CompressedCache",
    "KVPolicy",
    "LayerStore",
    "Protect",
    "evaluate",
    "memory",
    "observe",
    "scorers",
]
