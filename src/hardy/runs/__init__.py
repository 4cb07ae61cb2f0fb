"""Long work: grids of cells on all cores or a cluster, checkpoints to go on from, and progress that logs can show."""

from hardy.runs.conditions import Cell, Condition, Result, Results
from hardy.runs.study import Study

__all__ = ["Cell", "Condition", "Result", "Results", "Study"]
