"""Which layer matters, told from how it treats calibration text: its outputs' spectrum, or the loss without it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from hardy.core import selection
from hardy.core.ranking import Ranking
from hardy.core.selection import Selector
from hardy.errors import InputError
from hardy.quant import effective_rank, energy_gain, layer_importance, perplexity_drop
from hardy.quant.units import Unit
from hardy.studies.measure import load_dense, settings_for, windows_of

DIAGNOSTICS = ("effective-rank", "energy-gain", "perplexity-drop", "lieq-v1")
"""By the effective rank or the top energy of outputs against random weights, by the loss without a block, by all."""

BLOCKS_ONLY = ("perplexity-drop", "lieq-v1")


def diagnose(
    model: str,
    by: str,
    *,
    text: str | None,
    select: Selector,
    unit: Unit,
    seeds: Sequence[int],
    tokens: int,
    window: int | None,
) -> Ranking:
    """The ranking of `model` by one of `DIAGNOSTICS`; arguments as those of `hardy.studies.locate`.

    Raises:
        InputError: an argument cannot be used, or `unit` is "site" for a locator that takes out whole blocks.
    """
    if unit != "block" and by in BLOCKS_ONLY:
        raise InputError(f"{by} ranks whole blocks: unit must be block, got {unit!r}")
    loaded, _ = load_dense(model)
    selection.select(loaded, select)  # nothing long begins for a selection that matches nothing
    batches = [ids[None] for ids in windows_of(settings_for(model, text, tokens, window), "calibration")]
    locators: dict[str, Callable[[PreTrainedModel, list[torch.Tensor]], Any]] = {
        "effective-rank": lambda m, b: effective_rank(m, b, select=select, unit=unit, seeds=seeds),
        "energy-gain": lambda m, b: energy_gain(m, b, select=select, unit=unit, seeds=seeds),
        "perplexity-drop": lambda m, b: perplexity_drop(m, b, select=select),
        "lieq-v1": lambda m, b: layer_importance(m, b, select=select, seeds=seeds),
    }
    return locators[by](loaded, batches)
