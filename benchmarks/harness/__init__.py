"""What every benchmark shares: results in one form, timing in turns, subjects, and tables made from data."""

from benchmarks.harness.catalogue import FOLDER, NotMeasuredError
from benchmarks.harness.models import SHARED, TEXTS, real_models, text_of
from benchmarks.harness.result import Result, Value, mean_of, median_of, rows
from benchmarks.harness.timing import FOR_A_MOMENT, SPINNING, in_own_process, in_turns, peak_memory, timed

__all__ = [
    "FOLDER",
    "FOR_A_MOMENT",
    "SHARED",
    "SPINNING",
    "TEXTS",
    "NotMeasuredError",
    "Result",
    "Value",
    "in_own_process",
    "in_turns",
    "mean_of",
    "median_of",
    "peak_memory",
    "real_models",
    "rows",
    "text_of",
    "timed",
]
