"""Models on disk: what `hardy.save` writes and `hardy.load` reads, packed layers included."""

from hardy.artefacts.artefact import history, save
from hardy.artefacts.packing import PackedLayer

__all__ = ["PackedLayer", "history", "save"]
