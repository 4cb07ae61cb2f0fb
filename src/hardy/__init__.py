"""hardy finds what matters in a neural network and makes it hold.

Locate what breaks first (a `Ranking`), steer the model there (a `Method` gives a `Change`), improve it so that it
holds: on few bits, on noisy analog hardware, on endless streams, on small chips.

Rooms are imported when they are used: `hardy.zoo`, `hardy.quant`, `hardy.analog`, `hardy.fields`,
`hardy.hardware`, `hardy.evaluate`, `hardy.studies`, `hardy.core`.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardy import analog, core, evaluate, fields, hardware, ops, quant, studies, zoo
    from hardy.core.artefact import save
    from hardy.opening import load

__version__ = "0.1.0"

# By default, threads that have finished their part spin until the others have. Where something else wants the cores,
# they spin in place of the threads that they wait for. OpenMP reads this once, when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "__version__",
    "analog",
    "core",
    "evaluate",
    "fields",
    "hardware",
    "load",
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
        return getattr(importlib.import_module("hardy.opening" if name == "load" else "hardy.core.artefact"), name)
    raise AttributeError(f"module 'hardy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
