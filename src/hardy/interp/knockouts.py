"""The controls of a located ranking: does knocking out its top hurt more than as many objects at random?"""

from __future__ import annotations

import dataclasses

from torch import nn

from hardy.core.ranking import Agreement, Ranking
from hardy.errors import InputError
from hardy.interp.causal import Mode, knocked_out
from hardy.interp.locator import Locator
from hardy.interp.task import Task, scores
from hardy.runs.progress import silenced


@dataclasses.dataclass(frozen=True)
class Controls:
    """What a ranking is worth, beside chance.

    Attributes:
        k: objects that are knocked out, those at the top and as many at random.
        clean, corrupt: mean score of the task, nothing knocked out.
        top: mean score with the top `k` knocked out.
        random: the same with `k` at random, one for each seed.
        shuffled: the same with the top `k` of a ranking made with the answers of other examples; None where it could
            not be made.
        agreement: of the ranking with the shuffled one.
        why_not: the reason where there is no shuffled one or no agreement.
    """

    k: int
    clean: float
    corrupt: float | None
    top: float
    random: tuple[float, ...]
    shuffled: float | None
    agreement: Agreement | None
    why_not: str

    def lost(self, score: float) -> float:
        """The share of the effect that is lost at a score: of clean - corrupt, or of the clean score alone."""
        whole = self.clean - (0.0 if self.corrupt is None else self.corrupt)
        return (self.clean - score) / whole


def controls(
    locator: Locator, ranking: Ranking, model: nn.Module, task: Task, *, k: int | None = None, seeds: int = 3
) -> Controls:
    """Knock out the top of a ranking, and what it is compared with.

    Args:
        locator: made the ranking; it is run once more on the task with shuffled answers.
        ranking, model, task: of it.
        k: objects; a tenth of all by default, 20 at most.
        seeds: of random choices.
    """
    count = k or max(1, min(20, len(ranking) // 10))
    mode: Mode = "noise" if task.corrupt is not None else "mean"
    with silenced():
        clean = scores(model, task).mean().item()
        corrupt = None if task.corrupt is None else scores(model, task, "corrupt").mean().item()
        top = knocked_out(model, task, ranking.top(count), mode=mode)
        drawn = tuple(knocked_out(model, task, ranking.sample(count, seed), mode=mode) for seed in range(seeds))
        shuffled, agreement, why_not = None, None, "one example has no other's answers"
        if len(task) > 1:
            try:
                other = locator.locate(model, task.shuffled(0))
                shuffled = knocked_out(model, task, other.top(count), mode=mode)
                agreement = ranking.agreement(other)
            except InputError as error:  # no effect is left to share out, or all units score the same
                why_not = str(error)
    return Controls(count, clean, corrupt, top, drawn, shuffled, agreement, why_not)


def overlap(first: Ranking, second: Ranking, k: int) -> float:
    """Share of the top `k` that two rankings have in common."""
    return len(set(first.top(k)) & set(second.top(k))) / k
