"""A teacher: which examples are trained on, chosen anew every few epochs by what they still teach.

Source: GraNT (arXiv 2505.14170), INT (2405.10531), NINT (2511.15487) and AtteNT (2602.20461), which are one algorithm
with different scores, ratio schedules, intervals and selectors. Scores are of the examples with the ids that are
chosen, whatever order a loader shuffles them into; the code published with GraNT takes the places in a shuffled loader
for ids, so that what it trains on is a random subset.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.core.rng import generator
from hardy.core.teaching import Examples
from hardy.errors import InputError
from hardy.teach.examples import DatasetExamples, Read, read_batch
from hardy.teach.schedules import Growing, Interval, Ratio, Staircase
from hardy.teach.scores import SCORES, Score, kernel_norm, name_of
from hardy.teach.selectors import SELECTORS, Full, KernelGuided, Selector, checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """One choice.

    Attributes:
        time: the update at which it was made.
        count: examples that were chosen.
        seconds: that scoring and choosing took.
        contrast: mean score of the chosen over the mean of all; 1 where no scores were needed.
        overlap: share of the chosen ones that were also chosen the time before; NaN the first time.
    """

    time: int
    count: int
    seconds: float
    contrast: float
    overlap: float


class Teacher:
    """Chooses what is trained on. Give it to a `TeacherSampler`, and call `update` at the beginning of every epoch.

    Args:
        updates: how often `update` will be called in all: the epochs of the training (steps, where each is an update).
        selector: one of `hardy.teach.selectors`, or "soft" (the default), "hard", "batch", "proportional", "mix",
            "kernel-guided", "random", "full".
        score: one of `hardy.teach.scores`, or "gradient-norm" (the default), "loss", "kernel-norm".
        ratio: one of `hardy.teach.schedules`: how large a share is taught when.
        interval: one of `hardy.teach.schedules`: when it is chosen anew.
        seed: of all that is drawn.

    Attributes:
        ids: of the examples that are taught now, (chosen,), or None before the first choice.
        scores: that the last choice was made by, (examples,), or None: before it, without scores, after a resume.
        kernel: scores of NINT's kernel as they were last measured, if the selector asks for them.
        selections: what was chosen when, without the ids.

    Raises:
        InputError: a name is unknown, or a number out of range.
    """

    def __init__(
        self,
        updates: int,
        *,
        selector: Selector | str = "soft",
        score: Score | str = "gradient-norm",
        ratio: Ratio | None = None,
        interval: Interval | None = None,
        seed: int = 0,
    ) -> None:
        self.updates = checks.integer("updates", updates, at_least=1)
        self.selector: Selector = (
            SELECTORS[checks.one_of("selector", selector, SELECTORS)]() if isinstance(selector, str) else selector
        )
        self.score = SCORES[checks.one_of("score", score, SCORES)] if isinstance(score, str) else score
        self.ratio = Staircase() if ratio is None else ratio
        self.interval = Growing.within(self.updates) if interval is None else interval
        self.seed = checks.integer("seed", seed)
        self.time, self.due, self.size = 0, 0, None
        self.ids: torch.Tensor | None = None
        self.scores: torch.Tensor | None = None
        self.kernel: torch.Tensor | None = None
        self.selections: list[Selection] = []

    def update(
        self, model: nn.Module, loss: Any, dataset: Any, *, batch_size: int = 256, read: Read = read_batch
    ) -> bool:
        """Begin an epoch: choose anew if it is time.

        The model is used as it is, in evaluation and inference mode, and left in the mode it was in; no random numbers
        are drawn from the global generator.

        Args:
            model: what is trained.
            loss: what it is trained with: a known loss of torch, as a module or a function, or any function
                `loss(output, target)` that does not reduce over examples (`reduction="none"`).
            dataset: what the sampler samples, or a `DataLoader` of it, whose `collate_fn` and batch size are then used
                (and not its sampler).
            batch_size: of scoring, where no loader is given.
            read: what the output and the target of a batch are, see `hardy.teach.read_batch`.

        Returns:
            Whether examples were chosen anew.

        Raises:
            InputError: the dataset is not as long as it was, an example has no label, a score is NaN, or the loss is
                reduced.
        """
        before = len(self.selections)
        self.choose(DatasetExamples(model, loss, dataset, batch_size=batch_size, read=read))
        return len(self.selections) > before

    def choose(self, examples: Examples) -> torch.Tensor:
        """The ids to train on until the next call, (chosen,); the same as before unless it is time to choose anew.

        `update` comes to this for a dataset; call it with `Examples` of your own for anything else.

        Raises:
            InputError: there are not as many examples as before, or a score is NaN.
        """
        size = len(examples)
        if size == 0:
            raise InputError("there are no examples to teach")
        if self.size is not None and size != self.size:
            raise InputError(f"the teacher began with {self.size} examples; now there are {size}")
        self.size = size
        if self.ids is None or self.time >= self.due:
            self.ids = self._chosen(examples, size)
            self.due = self.interval.following(self.time, self.updates, self.due)
        self.time += 1
        return self.ids

    def plan(self, size: int) -> list[int]:
        """How many of `size` examples are taught at each update, by the schedule alone.

        Their sum over `updates * size` is the share of the samples that is seen, and with it of the time, up to what
        scoring costs.
        """
        counts: list[int] = []
        due = 0
        for moment in range(self.updates):
            if moment == 0 or moment >= due:
                counts.append(size if isinstance(self.selector, Full) else self._count(moment, size))
                due = self.interval.following(moment, self.updates, due)
            else:
                counts.append(counts[-1])
        return counts

    def _count(self, moment: int, size: int) -> int:
        share = checks.number(f"the ratio at {moment}", self.ratio(moment, self.updates), above=0, at_most=1)
        return max(1, round(share * size))

    def _chosen(self, examples: Examples, size: int) -> torch.Tensor:
        begun = time.perf_counter()
        count = self._count(self.time, size)
        scores = checked(self.score(examples), size) if self.selector.scored else torch.ones(size)
        self.scores = scores if self.selector.scored else None
        random = generator(self.seed, "selection", self.time)
        if isinstance(self.selector, KernelGuided):
            choices = len(self.selections)
            if self.selector.is_due(choices):
                self.kernel = checked(kernel_norm(examples), size)
            ids = self.selector.guided(scores, self.kernel, self.selector.share(choices), count, random)
        else:
            ids = self.selector(scores, count, random)
        mean = scores.double().mean().item()
        self.selections.append(
            Selection(
                time=self.time,
                count=len(ids),
                seconds=time.perf_counter() - begun,
                contrast=scores[ids].double().mean().item() / mean if mean > 0 else 1.0,
                overlap=float("nan") if self.ids is None else torch.isin(ids, self.ids).double().mean().item(),
            )
        )
        return ids

    @property
    def seconds(self) -> float:
        """That all choices took, scoring included."""
        return sum(selection.seconds for selection in self.selections)

    def __repr__(self) -> str:
        parts = (repr(self.selector), name_of(self.score), repr(self.ratio), repr(self.interval))
        return f"Teacher({self.updates}, {', '.join(parts)}, seed={self.seed})"

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: numbers, lists and one tensor, which `torch.load(weights_only=True)` takes."""
        return {
            "teacher": repr(self),
            "time": self.time,
            "due": self.due,
            "size": self.size,
            "ids": None if self.ids is None else self.ids.clone(),
            "kernel": None if self.kernel is None else self.kernel.clone(),
            "selections": [dataclasses.asdict(selection) for selection in self.selections],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, with the same choices to come.

        Raises:
            InputError: it is the state of a teacher with other settings, or no state at all.
        """
        if state.get("teacher") != repr(self):
            raise InputError(f"the state is of {state.get('teacher')}, not of {self!r}")
        try:
            self.selections = [Selection(**selection) for selection in state["selections"]]
            self.time, self.due, self.size = state["time"], state["due"], state["size"]
            self.ids, self.kernel = (None if state[name] is None else state[name].clone() for name in ("ids", "kernel"))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the state of the teacher is damaged: {error!r}") from None
