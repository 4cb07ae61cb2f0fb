"""One call for all locators: which part of a language model matters, or breaks first."""

import dataclasses
import functools
from typing import Any

# Rooms register their locators where they are imported.
import hardy.analog.locators
import hardy.interp.locating
import hardy.quant.locators  # noqa: F401
from hardy.core import selection
from hardy.core.locators import Locator, locator_named
from hardy.core.method import WeightMethod
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR, Selector
from hardy.runs.workers import Backend
from hardy.studies.fragility import UNITS, by_method
from hardy.studies.measure import dense
from hardy.zoo.subject import Source


def locate(
    model: Source = "tiny-llama",
    *,
    by: str | WeightMethod = "rtn",
    unit: str | None = None,
    select: Selector = LINEAR,
    text: str | None = None,
    tokens: int | None = None,
    window: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    backend: Backend = "local",
    workers: int | None = None,
    **options: Any,
) -> Ranking:
    """Rank the parts of a language model by one of the registered locators.

    Args:
        model: a subject, or what `hardy.zoo.Subject.of` takes: a name, folder, file or hub id, or (model, tokenizer).
        by: a locator of `hardy.core.locators.locators()`. "rtn" (loss at `bits`, in groups of `group_size`), "noise"
            (loss under additive noise of `strength`, relative to each output channel's absmax, mean over the chip
            instances `seeds`), "weight-error" (rounding error, no text needed); "effective-rank", "energy-gain",
            "perplexity-drop", "lieq-v1": see the functions of these names in `hardy.quant`, the last of which is
            `layer_importance`; "noise-sensitivity" (on a `chip`, by `measure` "loss" or "divergence"): see
            `hardy.analog.noise_sensitivity`. Other packages may bring more. Or any method that edits weights: the loss
            when it is applied to one unit alone, mean over `seeds` if it has a seed.
        unit: what is ranked: "projection", "block", "role", "expert" or "head"; by default the locator's first.
        select: which weights, as in `hardy.core.selection.select`.
        text: UTF-8 file; its first half is used. By default held-out standard-library modules.
        tokens, window, device, dtype: as in `hardy.zoo.Subject.of`.
        backend, workers: where cells run, for locators that measure cells, as in `Study.results`.
        options: the locator's own.

    Raises:
        InputError: any of these cannot be used.
    """
    if isinstance(by, WeightMethod):
        run = functools.partial(by_method, method=dataclasses.replace(by, select=select))
        locator = Locator(name=str(by), run=run, units=UNITS, runs_cells=True, summary="")
    else:
        locator = locator_named(by)
    locator.checked(unit, options)
    subject = dense(model, text=text, tokens=tokens, window=window, device=device, dtype=dtype)
    selection.select(subject.model, select)  # nothing long begins for a selection that matches nothing
    return locator(subject, select=select, unit=unit, backend=backend, workers=workers, **options)
