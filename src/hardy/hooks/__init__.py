"""One engine that watches and changes activations by name, and the streaming statistics that stand on it."""

from hardy.hooks.engine import Hooks, arguments, patch, points, record, run, watch
from hardy.hooks.point import Point, named
from hardy.hooks.statistics import AbsMax, Histogram, RoutingCounts, SecondMoment, Statistic, observe

__all__ = [
    "AbsMax",
    "Histogram",
    "Hooks",
    "Point",
    "RoutingCounts",
    "SecondMoment",
    "Statistic",
    "arguments",
    "named",
    "observe",
    "patch",
    "points",
    "record",
    "run",
    "watch",
]
