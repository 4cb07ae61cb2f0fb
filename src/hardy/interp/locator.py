"""What all locators of this room share: their settings, the activations they compare, and the ranking they give."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from hardy import checks, hooks
from hardy.core.ranking import Ranking
from hardy.errors import InputError
from hardy.interp.objects import KINDS, Kind, Unit, kind_named, points_of, units_of
from hardy.interp.task import Task, last_logits

LOCATORS: dict[str, type[Locator]] = {}
"""The locators by their names, as in `--by`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Locator(abc.ABC):
    """Scores the objects of one kind by their part in a task.

    Args:
        object: a kind of `hardy.interp.KINDS`: "embedding", "residual", "attention", "head", "query", "key", "value",
            "ffn", "neuron" or "feature".
        per_position: whether each position is an object of its own; by default for "embedding" and "residual".
        batch: examples that the model is run on at once.
    """

    object: str = "head"
    per_position: bool | None = None
    batch: int = 32

    by: ClassVar[str]
    family: ClassVar[str]
    """Of the survey's six: magnitude, causal, gradient, probing, vocabulary, circuit."""
    meaning: ClassVar[str]
    unit: ClassVar[str] = "share of the effect"
    kinds: ClassVar[tuple[str, ...]] = tuple(KINDS)
    """Kinds of objects that it can score; `why_not` says why not others."""
    why_not: ClassVar[str] = ""
    needs_corrupt: ClassVar[bool] = True
    magnitude_ranks: ClassVar[bool] = False
    """Whether large negative scores matter as much as positive ones."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "by" in vars(cls):
            LOCATORS[cls.by] = cls

    def __post_init__(self) -> None:
        kind = kind_named(self.object)
        if kind.name not in self.kinds:
            raise InputError(f"{self.by} cannot score object {kind.name}: {self.why_not}")
        object.__setattr__(self, "object", kind.name)
        if self.per_position is not None:
            checks.boolean("per_position", self.per_position)
        checks.integer("batch", self.batch, at_least=1)
        self.check()

    def check(self) -> None:  # noqa: B027 - most have nothing to check
        """Raise `InputError` for a field out of range."""

    @property
    def kind(self) -> Kind:
        """What is scored."""
        return KINDS[self.object]

    @property
    def separates_positions(self) -> bool:
        """Whether each position is an object of its own."""
        return self.kind.per_position if self.per_position is None else self.per_position

    @abc.abstractmethod
    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        """The signed score of every unit, by name, in the order of the model."""

    def locate(self, model: nn.Module, task: Task) -> Ranking:
        """The ranking of the units: a higher score always matters more.

        Raises:
            InputError: the model has no such object, the task does not fit, or an activation is not finite.
        """
        effects = self.effects(model, self.fitting(task))
        for name, value in effects.items():
            if not torch.isfinite(torch.tensor(value)):
                raise InputError(f"{self.by}: the score of {name} is {value}: the model's activations are not finite")
        scores = {name: abs(value) for name, value in effects.items()} if self.magnitude_ranks else effects
        return Ranking(scores=scores, meaning=self.meaning, unit=self.unit, by=self.by)

    def fitting(self, task: Task) -> Task:
        """`task`, which must have what this locator reads."""
        if self.needs_corrupt and task.corrupt is None:
            raise InputError(f"{self.by} compares clean and corrupt prompts; {task.name} has no corrupt ones")
        return task

    def units(self, model: nn.Module, task: Task, seen: Mapping[str, torch.Tensor] | None = None) -> list[Unit]:
        """What is scored, in the order of the model; `seen` are its activations, where they are at hand."""
        sizes: dict[str, int] = {}
        if seen is not None:
            sizes = {point: activation.shape[2] for point, activation in seen.items()}
        elif self.kind.indexed:
            one = {"input_ids": task.clean[:1, -1:], "use_cache": False}  # how many there are does not depend on a text
            with torch.no_grad(), hooks.record(model, points_of(model, self.kind), stop=True) as seen:
                hooks.run(model, one)
            sizes = {point: activation.shape[2] for point, activation in seen.items()}
        return units_of(model, self.kind, sizes, task.length, self.separates_positions)


def recorded(model: nn.Module, points: Sequence[str], inputs: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Activations at `points`, detached, and the logits at the last position, (n, vocabulary)."""
    with torch.no_grad(), hooks.record(model, list(points)) as seen:
        logits = last_logits(model, inputs)
    for point, activation in seen.items():
        if not torch.isfinite(activation.sum()):
            raise InputError(f"{point} holds NaN or infinity: the model or the input is broken")
    return {point: activation.detach() for point, activation in seen.items()}, logits


def with_gradients(
    model: nn.Module, points: Sequence[str], inputs: Any, task: Task, embedding: torch.Tensor | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Activations at `points`, the gradient of the sum of the task's scores with respect to each, and the scores (n,).

    Args:
        model: any decoder; its parameters' gradients are left alone.
        points: activations.
        inputs: of the model.
        task: measured.
        embedding: takes the place of the token embeddings; None for the model's own.
    """

    def rooted(x: torch.Tensor) -> torch.Tensor:
        return (x if embedding is None else embedding).detach().requires_grad_()

    with torch.enable_grad(), hooks.patch(model, {"embed": rooted}), hooks.record(model, list(points)) as seen:
        score = task.score(last_logits(model, inputs))
        gradients = torch.autograd.grad(score.sum(), list(seen.values()), allow_unused=True)
    found = {
        point: torch.zeros_like(activation) if gradient is None else gradient
        for (point, activation), gradient in zip(seen.items(), gradients, strict=True)
    }
    return {point: activation.detach() for point, activation in seen.items()}, found, score.detach()


def per_unit(units: Sequence[Unit], values: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum over all but the examples of each unit's part of `values`, (units, n).

    Args:
        units: any.
        values: point -> (n, positions, ...).
    """
    summed: dict[tuple[str, bool], torch.Tensor] = {}
    found = []
    for unit in units:
        value = values[unit.point]
        key = (unit.point, unit.index is not None)
        if key not in summed:  # (n, positions) or (n, positions, units)
            summed[key] = (
                value.flatten(3).sum(-1)
                if unit.index is not None and value.ndim > 3
                else (value if unit.index is not None else value.flatten(2).sum(-1))
            )
        part = summed[key]
        part = part if unit.index is None else part[..., unit.index]
        found.append(part.sum(1) if unit.position is None else part[:, unit.position])
    return torch.stack(found)


@contextlib.contextmanager
def starting_at(model: nn.Module, block: int | None, stream: torch.Tensor | None) -> Iterator[None]:
    """Run the model from a block on, whose input is `stream`; the blocks before it give back what they are given.

    Exact wherever a block reads nothing of earlier ones but the residual stream, which holds for plain decoders.
    """
    if block is None or stream is None or block == 0:
        yield
        return
    modules = [model.get_submodule(name) for name in _block_names(model)[:block]]
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(_skipped(module))
        stack.enter_context(hooks.patch(model, {f"blocks.{block}.resid_pre": lambda x: stream}))
        yield


@contextlib.contextmanager
def _skipped(module: Any) -> Iterator[None]:
    before = vars(module).get("forward")

    def skip(stream: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return stream

    module.forward = skip
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _block_names(model: nn.Module) -> list[str]:
    from hardy.hooks.blocks import blocks_of

    return [block.name for block in blocks_of(model)]
