"""One cell of a study on a language model: apply a method, measure the loss on windows of text, take it back."""

import copy
import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from hardy.analog.layers import clipping, stored_weights
from hardy.artefacts.packing import packed_layers
from hardy.core.method import ALL_SELECTED, Method, from_dict
from hardy.evaluate.language import token_losses
from hardy.mapping import return_freed_memory, to_file
from hardy.quant import unpack
from hardy.report import Report, Row
from hardy.runs.conditions import Condition, Results
from hardy.runs.study import Study
from hardy.zoo.subject import Source, Subject

_log = logging.getLogger(__name__)
Module = TypeVar("Module", bound=nn.Module)

INTACT = "unmodified"
"""Name of the condition in which nothing is done to the model."""


_IN_FILE = 100 << 20
"""Bytes of a model from which on a study keeps it in a file, so that what methods replace is in memory once."""


def dense(source: Source, **options: Any) -> Subject:
    """The subject of `source`, as `Subject.of` makes it, with dense weights: a study has to work on them.

    A model of packed layers is left alone; what comes back is another one, whose other weights are the same tensors.
    Its notes say so.
    """
    subject = Subject.of(source, **options)
    if isinstance(source, str | Path) and subject.size > _IN_FILE:
        return_freed_memory()
        to_file(subject.model)
    packed = len(packed_layers(subject.model))
    if not packed:
        return subject
    model: Any = unpack(copy_sharing_weights(subject.model))
    note = f"{packed} packed layers of {subject.name} were unpacked: dense weights of the same values were measured."
    _log.info(note)
    return dataclasses.replace(subject, model=model, notes=(*subject.notes, note))


def copy_sharing_weights(model: Module) -> Module:
    """Another model of the same parameters and buffers, the very same tensors: modules may be replaced in it."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def measure(subject: Subject, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Mean cross-entropy per token ("loss", nats) under the method that `arguments` describes.

    Args:
        subject: of dense weights.
        arguments: "part" of the text, and "method" (a `Method.to_dict`) or None for the unmodified model. A method
            that takes data is given the windows of the calibration text.
        seed: takes the place of the method's `seed`, if it has one.

    Returns:
        "loss", and what the method reports on all selected weights ("bits_per_weight", "relative_error").
    """
    model, windows = subject.model, subject.windows[arguments["part"]]
    if arguments["method"] is None:
        return {"loss": loss_on(model, windows)}
    record = arguments["method"]
    if "seed" in record["fields"]:
        record = {**record, "fields": {**record["fields"], "seed": seed}}
    with from_dict(record).apply(model, subject.batches("calibration"), stored=False) as change:
        facts = {row.metric: row.value for row in change.report.select(condition=ALL_SELECTED)}
        return {"loss": loss_on(model, windows), **facts, **_of_layers(model, change.report)}


def _of_layers(model: PreTrainedModel, report: Report) -> dict[str, float]:
    """If the model is on a chip: shares of conversions beyond the range, and the error of what each matrix holds."""
    if not any(True for _ in stored_weights(model)):
        return {}
    rows = [*clipping(model).rows, *(row for row in report.select("relative_error") if row.condition != ALL_SELECTED)]
    return {row.metric if row.condition == ALL_SELECTED else f"{row.metric} {row.condition}": row.value for row in rows}


def study_of(
    subject: Subject, name: str, *, out: str | Path | None, run: Any = measure, given: Any = None, weights: float = 1.0,
    **settings: Any,
) -> Study:  # fmt: skip
    """A study of `subject` whose cells `run` measures.

    Args:
        subject: its settings and `settings` identify the study.
        name: what kind of study it is.
        out: its folder, or None.
        run: as `Study.run`.
        given: what `run` is given, if that is not the subject alone.
        weights: memory that a cell takes for edited weights, in sizes of the model.
    """
    return Study(
        name=name,
        run=run,
        settings=subject.settings() | settings,
        subject=subject if given is None else given,
        out=None if out is None else Path(out),
        memory=int(weights * subject.size) + subject.activations,
        workers=None if subject.device.type == "cpu" else 1,  # a GPU is one
    )


def unmodified(part: str = "evaluation") -> Condition:
    """The unmodified model on a part of the text: what everything is judged against."""
    return Condition.of(INTACT, {"part": part, "method": None})


def condition(
    name: str, method: Method, seeds: Iterable[int] = (0,), *, baseline: str = INTACT, **details: float
) -> Condition:
    """The model under `method` on the evaluation text, once for each seed."""
    arguments = {"part": "evaluation", "method": method.to_dict()}
    return Condition.of(name, arguments, seeds, baseline=baseline, details=details)


def perplexity_row(condition: Condition, results: Results) -> Row | None:
    """The perplexity under a condition, with the means of what the method reports; None if all cells failed.

    It is that of the mean loss over chip instances, and its spread what the standard deviation of the loss makes of it:
    on a noisy chip perplexities have so heavy a tail that their own mean is that of the worst instance.
    """
    row = condition.row(results, lambda values: values["loss"], metric="perplexity", facts=None)
    if row is None:
        return None
    value = perplexity_of(row.value)
    spread = None if row.spread is None or math.isinf(value) else value * row.spread
    return dataclasses.replace(row, value=value, spread=spread)


def loss_row(condition: Condition, results: Results) -> Row | None:
    """The loss under a condition, mean and standard deviation over chip instances."""
    row = condition.row(results, lambda values: values["loss"], metric="loss")
    return None if row is None else dataclasses.replace(row, unit="nats/token")


def perplexity_of(loss: float) -> float:
    """exp of a loss in nats; infinite beyond the range of float64."""
    return math.exp(loss) if loss < 700 else math.inf


def loss_on(model: PreTrainedModel, windows: list[torch.Tensor]) -> float:
    """Mean cross-entropy in nats per token, over all tokens of all windows but the first of each."""
    losses = torch.cat([token_losses(model, ids, window=len(ids)) for ids in windows])
    return losses.double().mean().item()
