"""Training that looks only at the examples that still teach: graphs, pixels and token sequences.

A `Teacher` is a score, a ratio schedule, an interval and a selector; a `TeacherSampler` hands what it chose to any
`DataLoader`.
"""

from typing import TYPE_CHECKING, Any

from hardy.teach import graphs, schedules, scores, selectors
from hardy.teach.examples import Answer, DatasetExamples, losses, read_batch
from hardy.teach.sampler import TeacherSampler
from hardy.teach.teacher import Selection, Teacher

if TYPE_CHECKING:
    from hardy.teach.language import TeacherCallback

__all__ = [
    "Answer",
    "DatasetExamples",
    "Selection",
    "Teacher",
    "TeacherCallback",
    "TeacherSampler",
    "graphs",
    "losses",
    "read_batch",
    "schedules",
    "scores",
    "selectors",
]


def __getattr__(name: str) -> Any:
    if name == "TeacherCallback":  # the Trainer takes seconds to import
        from hardy.teach.language import TeacherCallback

        return TeacherCallback
    raise AttributeError(f"module 'hardy.teach' has no attribute {name!r}")
