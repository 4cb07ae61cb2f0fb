"""Jobs that cross rooms."""

from hardy.studies.fragility import locate
from hardy.studies.simulate import simulate
from hardy.studies.survival import Plan, survival

__all__ = ["Plan", "locate", "simulate", "survival"]
