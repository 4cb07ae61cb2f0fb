"""One call for all locators of the room, and their registration for `hardy.locate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from hardy.core.locators import Locator as Registered
from hardy.core.locators import register_locator
from hardy.core.ranking import Ranking
from hardy.errors import InputError, near_misses
from hardy.interp.attention import PrefixMatching, Sink
from hardy.interp.causal import Patching
from hardy.interp.corrections import GradDrop, QKFix
from hardy.interp.edge_search import PathPatching
from hardy.interp.gradient import AttributionPatching, Fisher, Gradient
from hardy.interp.lenses import Patchscope
from hardy.interp.locator import LOCATORS, Locator
from hardy.interp.magnitude import BlockInfluence, Magnitude, Massive
from hardy.interp.probing import Probing
from hardy.interp.task import Task
from hardy.interp.vocabulary import DirectLogitAttribution, LogitLens

__all__ = ["locate", "locator_of"]

_ALL = (
    Patching, AttributionPatching, QKFix, GradDrop, Gradient, Fisher, Magnitude, Massive, BlockInfluence,
    PrefixMatching, Sink, Probing, LogitLens, Patchscope, DirectLogitAttribution, PathPatching,
)  # fmt: skip


def locator_of(by: str, object: str | None = None, **options: Any) -> Locator:
    """The locator called `by` for one kind of object.

    Raises:
        InputError: there is none, it cannot score the kind, or has no such option.
    """
    if by not in LOCATORS:
        raise InputError(f"by must be one of {', '.join(LOCATORS)}, got {by!r}{near_misses(str(by), LOCATORS)}")
    kind = LOCATORS[by]
    fields = {field.name for field in dataclasses.fields(kind)}
    for name in options:
        if name not in fields:
            raise InputError(f"{by} has no option {name}; it takes {', '.join(sorted(fields))}")
    return kind(**({} if object is None else {"object": object}), **options)


def locate(model: nn.Module, task: Task, *, object: str | None = None, by: str = "patching", **options: Any) -> Ranking:
    """Rank the objects of one kind by their part in a task.

    Args:
        model: any decoder of transformers, quantized, packed or on a chip too.
        task: in the tokens of the model.
        object: "head" (the default of most), "embedding", "residual", "attention", "query", "key", "value", "ffn",
            "neuron", or "feature" of a sparse autoencoder that is attached.
        by: a name in `LOCATORS`: "patching", "attribution-patching", "qk-fix", "grad-drop", "gradient", "fisher",
            "magnitude", "massive", "block-influence", "prefix-matching", "sink", "probing", "logit-lens", "patchscope",
            "direct-logit-attribution", "path-patching".
        options: fields of the locator.

    Raises:
        InputError: any of these cannot be used.
    """
    return locator_of(by, object, **options).locate(model, task)


def _registered(kind: type[Locator]) -> Registered:
    def run(subject: Any, *, unit: str, task: Any = None) -> Ranking:
        if task is None:
            raise InputError(f"{kind.by} explains a behaviour: give task=, a task file or a hardy.interp.Task")
        given = Task.of(task, subject.tokenizer) if isinstance(task, str | Path) else task
        return locate(subject.model, given, object=unit, by=kind.by)

    run.__qualname__ = f"run by {kind.by}"
    default = next(str(field.default) for field in dataclasses.fields(kind) if field.name == "object")
    units = (default, *(name for name in kind.kinds if name != default))
    return Registered(name=kind.by, run=run, units=units, summary=kind.meaning)


for _kind in _ALL:
    register_locator(_registered(_kind))
