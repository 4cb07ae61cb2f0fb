"""Which examples of given scores are taught.

Source: GraNT (arXiv 2505.14170: `Hard`, its batches), AtteNT (2602.20461: `Soft`), NINT (2511.15487: mixtures). Each
selector gives exactly `count` different ids; the random ones draw from the generator that they are given.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Protocol

import torch

from hardy import checks
from hardy.errors import InputError


class Selector(Protocol):
    """Chooses among examples.

    Attributes:
        scored: whether it looks at scores: without, none are measured, and `scores` tells their number alone.
    """

    scored: ClassVar[bool]

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        """`count` ids, (count,), of `scores`, (examples,), which are finite and not negative."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hard:
    """The highest scores; of equal ones the first. The rule of GraNT's paper, for targets without noise."""

    scored: ClassVar[bool] = True

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        return scores.argsort(descending=True, stable=True)[:count]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soft:
    """Drawn without replacement with weights score^(1 / temperature): the `count` highest log(score) / temperature + g.

    g is Gumbel noise, -log(-log(u)) of a uniform u (Gumbel top-k, arXiv 1903.06059). A temperature towards 0 is `Hard`,
    a large one `Random`. Examples of score 0 come last, in random order.

    Raises:
        InputError: the temperature is not positive.
    """

    scored: ClassVar[bool] = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        checks.number("temperature", self.temperature, above=0)

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        uniform = torch.rand(len(scores), generator=random, dtype=torch.float64)
        gumbel = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(torch.float64).tiny)))
        keys = scores.double().log() / self.temperature + gumbel
        shuffled = torch.randperm(len(scores), generator=random)  # among those of score 0, whose keys are all -inf
        return shuffled[keys[shuffled].argsort(descending=True, stable=True)][:count]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfBatches:
    """What chooses among batches, cut from a fresh random order of all examples at each choice.

    Raises:
        InputError: the batch size is not positive.
    """

    scored: ClassVar[bool] = True
    size: int = 64

    def __post_init__(self) -> None:
        checks.integer("size", self.size, at_least=1)

    def batches(self, count: int, random: torch.Generator) -> tuple[torch.Tensor, ...]:
        """The places 0..count-1, in batches."""
        return torch.randperm(count, generator=random).split(self.size)


class Batch(OfBatches):
    """GraNT (B): whole batches of the highest mean score; of the last one only its highest, as many as are wanted."""

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        batches = self.batches(len(scores), random)
        means = torch.stack([scores[batch].double().mean() for batch in batches])
        ordered = [batches[place] for place in means.argsort(descending=True, stable=True).tolist()]
        highest = [batch[scores[batch].argsort(descending=True, stable=True)] for batch in ordered]
        return torch.cat(highest)[:count]


class Proportional(OfBatches):
    """GraNT (S): of each batch its highest scores, as large a share as of all."""

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        chosen, seen, given = [], 0, 0
        for batch in self.batches(len(scores), random):
            seen += len(batch)
            wanted = count * seen // len(scores) - given  # so that the parts add up to the whole
            given += wanted
            chosen.append(batch[scores[batch].argsort(descending=True, stable=True)[:wanted]])
        return torch.cat(chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random:
    """Any examples, all equally likely: the control of every other selector."""

    scored: ClassVar[bool] = False

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        return torch.randperm(len(scores), generator=random)[:count]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full:
    """All examples, whatever the ratio: ordinary training."""

    scored: ClassVar[bool] = False

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        return torch.arange(len(scores))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
    """A `share` by one selector, and the rest by another from what the first left.

    Raises:
        InputError: the share is not in [0, 1].
    """

    scored: ClassVar[bool] = True
    share: float = 0.5
    first: Selector = dataclasses.field(default_factory=Hard)
    rest: Selector = dataclasses.field(default_factory=Random)

    def __post_init__(self) -> None:
        checks.number("share", self.share, at_least=0, at_most=1)

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        chosen = self.first(scores, round(self.share * count), random)
        left = torch.ones(len(scores), dtype=torch.bool).index_fill_(0, chosen, False).nonzero().flatten()
        return torch.cat([chosen, left[self.rest(scores[left], count - len(chosen), random)]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelGuided:
    """NINT's budget: a share by a kernel's score, another at random, and the rest by the teacher's own score.

    The first is kernel * exp(-ceil(n / period)) after n choices, by `hardy.teach.scores.kernel_norm`, which is measured
    anew every `period` choices and, once the share is below `least`, never again. Both take the highest scores.

    Raises:
        InputError: a share is not in [0, 1], or both together are above 1.
    """

    scored: ClassVar[bool] = True
    kernel: float = 0.3
    random: float = 0.7
    period: int = 10
    least: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("kernel", "random", "least"):
            checks.number(name, getattr(self, name), at_least=0, at_most=1)
        checks.number("kernel + random", self.kernel + self.random, at_most=1 + 1e-9)
        checks.integer("period", self.period, at_least=1)

    def share(self, choices: int) -> float:
        """That is chosen by the kernel after so many choices."""
        share = self.kernel * math.exp(-math.ceil(choices / self.period))
        return share if share >= self.least else 0.0

    def is_due(self, choices: int) -> bool:
        """Whether the kernel is to be measured for the choice after so many."""
        return choices % self.period == 0 and self.share(choices) > 0

    def __call__(self, scores: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
        """Without a kernel: what it will be in the end."""
        return self.guided(scores, None, 0.0, count, random)

    def guided(
        self, scores: torch.Tensor, kernel: torch.Tensor | None, share: float, count: int, random: torch.Generator
    ) -> torch.Tensor:
        """`count` ids, `share` of them the highest of `kernel`, (examples,)."""
        first = torch.zeros(0, dtype=torch.long)
        if kernel is not None:
            first = Hard()(kernel, round(share * count), random)
        left = torch.ones(len(scores), dtype=torch.bool).index_fill_(0, first, False).nonzero().flatten()
        wanted = count - len(first)
        drawn = min(wanted, round(self.random * count))
        rest = Mix(share=1 - drawn / wanted if wanted else 0.0)(scores[left], wanted, random)
        return torch.cat([first, left[rest]])


SELECTORS: dict[str, type[Selector]] = {
    "soft": Soft,
    "hard": Hard,
    "batch": Batch,
    "proportional": Proportional,
    "mix": Mix,
    "kernel-guided": KernelGuided,
    "random": Random,
    "full": Full,
}


def checked(scores: torch.Tensor, examples: int) -> torch.Tensor:
    """`scores` on the CPU, detached.

    Raises:
        InputError: they are not one for each example, or one is NaN, infinite or negative; the message names it.
    """
    if scores.shape != (examples,):
        raise InputError(f"scores must be one for each of {examples} examples, got the shape {tuple(scores.shape)}")
    scores = scores.detach().cpu()
    wrong = (~(torch.isfinite(scores) & (scores >= 0))).nonzero().flatten()
    if len(wrong):
        raise InputError(
            f"scores must be finite and at least 0; {len(wrong)} of {examples} are not, the first is "
            f"{scores[wrong[0]].item()} of example {wrong[0].item()}"
        )
    return scores
