"""hardy finds what matters in a neural network and makes it hold.

Locate what breaks first (a `Ranking`), steer the model there (a `Method` gives a `Change`), improve it so that it
holds: on few bits, on noisy analog hardware, on endless streams, on small chips.

Rooms are imported when they are used: `hardy.zoo`, `hardy.quant`, `hardy.analog`, `hardy.fields`,
`hardy.hardware`, `hardy.evaluate`, `hardy.studies`, `hardy.core`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardy import analog, core, evaluate, fields, hardware, ops, quant, studies, zoo
    from hardy.core.artefact import load, save
    from hardy.studies import locate
    from hardy.zoo import Subject

__version__ = "0.1.0"
__all__ = [
    "Subject",
    "__version__",
    "analog",
    "core",
    "evaluate",
    "fields",
    "hardware",
    "load",
    "locate",
    "ops",
    "quant",
    "save",
    "studies",
    "zoo",
]

_ROOMS = {"analog", "core", "evaluate", "fields", "hardware", "ops", "quant", "studies", "zoo"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"hardy.{name}")
    if name in {"load", "save"}:
        return getattr(importlib.import_module("hardy.core.artefact"), name)
    if name in {"Subject", "locate"}:
        return getattr(importlib.import_module("hardy.zoo" if name == "Subject" else "hardy.studies"), name)
    raise AttributeError(f"module 'hardy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
