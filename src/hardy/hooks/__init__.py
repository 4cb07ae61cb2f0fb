"""One engine that watches and changes activations by name, and the streaming statistics that stand on it."""

from hardy.hooks.engine import Hooks, arguments, patch, points, record, run, watch
from hardy.hooks.statistics import AbsMax, Histogram, RoutingCounts, SecondMoment, Statistic, observe

__all__ = [
    "AbsMax",
    "Histogram",
    "Hooks",
    "RoutingCounts",
    "SecondMoment",
    "Statistic",
    "arguments",
    "observe",
    "patch",
    "points",
    "record",
    "run",
    "watch",
]
