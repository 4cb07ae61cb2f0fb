"""Endless streams in bounded, truly packed memory: of text and of frames, by the same policies."""

from hardy.stream import scorers
from hardy.stream.accounting import memory
from hardy.stream.cache import CompressedCache
from hardy.stream.evaluation import evaluate
from hardy.stream.observing import observe
from hardy.stream.policy import Budget, KVPolicy, Protect
from hardy.stream.session import FrameGeometry, StreamSession
from hardy.stream.store import LayerStore

__all__ = [
    "Budget",
    "CompressedCache",
    "FrameGeometry",
    "KVPolicy",
    "LayerStore",
    "Protect",
    "StreamSession",
    "evaluate",
    "memory",
    "observe",
    "scorers",
]
