"""The few shared ideas: select, surgery, ranking, method and change, rng.

What stands beside it is answered for here too: reports (`hardy.report`), studies (`hardy.runs`), and, one floor up and
therefore imported when they are first asked for, activations (`hardy.hooks`) and models on disk (`hardy.artefacts`).
"""

import importlib
from typing import Any

from hardy.core.method import Chain, Change, Method, WeightMethod, chain, changes
from hardy.core.ranking import Agreement, Ranking
from hardy.core.registry import register
from hardy.core.rng import derive, generator
from hardy.core.selection import LINEAR, Selector, Site, all_sites, select
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.report import Report, Row
from hardy.report.figures import Bars, HeatMap, Lines, Series
from hardy.report.pictures import Pictures
from hardy.runs import Cell, Result, Study

ABOVE = {
    "hardy.artefacts": ("PackedLayer", "history", "save"),
    "hardy.hooks": ("AbsMax", "Histogram", "RoutingCounts", "SecondMoment", "Statistic", "hooks", "observe"),
}

__all__ = [
    "LINEAR",
    "Agreement",
    "Bars",
    "Cell",
    "Chain",
    "Change",
    "Edits",
    "HeatMap",
    "InputError",
    "Lines",
    "Method",
    "Pictures",
    "Ranking",
    "Report",
    "Result",
    "Row",
    "Selector",
    "Series",
    "Site",
    "Study",
    "WeightMethod",
    "all_sites",
    "chain",
    "changes",
    "derive",
    "generator",
    "register",
    "select",
    "weight_of",
]


def __getattr__(name: str) -> Any:
    for home, names in ABOVE.items():
        if name in names:
            module = importlib.import_module(home)
            return module if home.endswith(f".{name}") else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
