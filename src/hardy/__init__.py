"""hardy finds what matters in a neural network and makes it hold.

Locate what breaks first (a `Ranking`), steer the model there (a `Method` gives a `Change`), improve it so that it
holds: on few bits, on noisy analog hardware, on endless streams, on small chips.

Every room is an attribute that is imported when it is first used (`hardy.quant`, `hardy.splat`, ...), and so are the
names that everyone needs (`hardy.Method`, `hardy.load`, ...): `import hardy` itself takes no time.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardy import (
        analog,
        artefacts,
        core,
        evaluate,
        fields,
        hardware,
        hooks,
        interp,
        ops,
        quant,
        report,
        rtl,
        runs,
        splat,
        stream,
        studies,
        teach,
        zoo,
    )
    from hardy.artefacts import save
    from hardy.core import Method, Ranking, select
    from hardy.errors import InputError
    from hardy.opening import load
    from hardy.report import Report
    from hardy.studies import locate
    from hardy.zoo import Subject

__version__ = "0.1.0"

# By default, threads that have finished their part spin until the others have. Where something else wants the cores,
# they spin in place of the threads that they wait for; asleep at once, they are late for the next part where nothing
# does. A moment of spinning is both: 2000 turns of libgomp's are some 50 us. OpenMP reads this once, with torch.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__all__ = [
    "InputError",
    "Method",
    "Ranking",
    "Report",
    "Subject",
    "__version__",
    "analog",
    "artefacts",
    "core",
    "evaluate",
    "fields",
    "hardware",
    "hooks",
    "interp",
    "load",
    "locate",
    "ops",
    "quant",
    "report",
    "rtl",
    "runs",
    "save",
    "select",
    "splat",
    "stream",
    "studies",
    "teach",
    "zoo",
]

_HOMES = {
    "InputError": "hardy.errors",
    "Method": "hardy.core",
    "Ranking": "hardy.core",
    "Report": "hardy.report",
    "Subject": "hardy.zoo",
    "load": "hardy.opening",
    "locate": "hardy.studies",
    "save": "hardy.artefacts",
    "select": "hardy.core",
}


if not TYPE_CHECKING:  # which knows all names, and so can tell a wrong one

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        elif name in __all__:
            value = importlib.import_module(f"hardy.{name}")
        else:
            raise AttributeError(f"module 'hardy' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
