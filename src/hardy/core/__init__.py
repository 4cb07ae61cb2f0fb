"""The few shared ideas: select, surgery, ranking, method and change, artefact, rng.

What stands on its floor beside it is answered for here too: reports (`hardy.report`), studies (`hardy.runs`), and
activations (`hardy.hooks`, one floor up and therefore imported when it is first asked for).
"""

import importlib
from typing import Any

from hardy.core.artefact import history, save
from hardy.core.method import Chain, Change, Method, WeightMethod, chain, changes
from hardy.core.packing import PackedLayer
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

HOOKS = ("AbsMax", "Histogram", "RoutingCounts", "SecondMoment", "Statistic", "observe")

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
    "PackedLayer",
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
    "history",
    "register",
    "save",
    "select",
    "weight_of",
]


def __getattr__(name: str) -> Any:
    if name == "hooks" or name in HOOKS:
        hooks = importlib.import_module("hardy.hooks")
        return hooks if name == "hooks" else getattr(hooks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
