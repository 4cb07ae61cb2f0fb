"""Jobs that cross rooms."""

from hardy.studies.chip_study import simulate
from hardy.studies.circuit_study import circuit_survival
from hardy.studies.locating import locate
from hardy.studies.placement_study import place
from hardy.studies.reasoning_study import reasoning
from hardy.studies.repair_study import repair, repairs
from hardy.studies.steering_study import steering_survival
from hardy.studies.survival_study import Plan, survival

__all__ = [
    "Plan", "circuit_survival", "locate", "place", "reasoning", "repair", "repairs", "simulate", "steering_survival",
    "survival",
]  # fmt: skip
