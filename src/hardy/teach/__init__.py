"""Training that looks only at the examples that still teach: graphs, pixels and token sequences.

A `Teacher` is a score, a ratio schedule, an interval and a selector; a `TeacherSampler` hands what it chose to any
`DataLoader`.
"""

from hardy.teach import graphs, schedules, scores, selectors
from hardy.teach.examples import Answer, DatasetExamples, losses, read_batch
from hardy.teach.sampler import TeacherSampler
from hardy.teach.teacher import Selection, Teacher

__all__ = [
    "Answer",
    "DatasetExamples",
    "Selection",
    "Teacher",
    "TeacherSampler",
    "graphs",
    "losses",
    "read_batch",
    "schedules",
    "scores",
    "selectors",
]
