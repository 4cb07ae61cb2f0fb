"""Jobs that cross rooms."""

from hardy.studies.fragility import locate
from hardy.studies.reasoning import reasoning
from hardy.studies.repair import repair, repairs
from hardy.studies.simulate import simulate
from hardy.studies.survival import Plan, survival

__all__ = ["Plan", "locate", "reasoning", "repair", "repairs", "simulate", "survival"]
