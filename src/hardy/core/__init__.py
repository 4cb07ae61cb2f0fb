"""The few shared ideas: select, surgery, observe, ranking, method and change, report, study, artefact, rng."""

from hardy.core import hooks
from hardy.core.artefact import history, save
from hardy.core.method import Chain, Change, Method, WeightMethod, chain, changes
from hardy.core.packing import PackedLayer
from hardy.core.ranking import Agreement, Ranking
from hardy.core.registry import register
from hardy.core.rng import derive, generator
from hardy.core.selection import LINEAR, Selector, Site, all_sites, select
from hardy.core.statistics import AbsMax, Histogram, RoutingCounts, SecondMoment, Statistic, observe
from hardy.core.study import Cell, Result, Study
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.report import Report, Row
from hardy.report.figures import Bars, HeatMap, Lines, Series
from hardy.report.pictures import Pictures

__all__ = [
    "LINEAR",
    "AbsMax",
    "Agreement",
    "Bars",
    "Cell",
    "Chain",
    "Change",
    "Edits",
    "HeatMap",
    "Histogram",
    "InputError",
    "Lines",
    "Method",
    "PackedLayer",
    "Pictures",
    "Ranking",
    "Report",
    "Result",
    "RoutingCounts",
    "Row",
    "SecondMoment",
    "Selector",
    "Series",
    "Site",
    "Statistic",
    "Study",
    "WeightMethod",
    "all_sites",
    "chain",
    "changes",
    "derive",
    "generator",
    "history",
    "hooks",
    "observe",
    "register",
    "save",
    "select",
    "weight_of",
]
