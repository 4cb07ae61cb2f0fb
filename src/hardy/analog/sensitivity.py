"""Which part of a language model noise hurts: the loss when only that part is noisy.

Source: the scan that HPD (arXiv 2508.11935) begins with. Where we differ: the increase of the loss in nats per token
is the measure, averaged over chip instances, because perplexity lets one part drown all others.
"""

import dataclasses
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.functional import kl_div

from hardy import checks
from hardy.core import selection
from hardy.core.method import Method
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR, Selector, Site
from hardy.errors import InputError
from hardy.evaluate import mean_loss
from hardy.hooks import run

Unit = Literal["projection", "block", "role"]
Measure = Literal["loss", "divergence"]


def noise_sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    noise: Method,
    select: Selector = LINEAR,
    unit: Unit = "projection",
    measure: Measure = "loss",
    seeds: Sequence[int] = (0, 1, 2),
) -> Ranking:
    """Rank parts of a language model by what noise in each of them alone does to its predictions.

    Args:
        model: a causal language model in evaluation mode.
        batches: token ids (batch, tokens), or mappings with `input_ids`. Gone through once for each part and seed;
            use calibration text.
        noise: `Deploy` or a noise of `hardy.hardware`; its `seed`, `select` and `layers` are set here.
        select: the parts, as in `hardy.core.selection.select`.
        unit: "projection" ranks every matrix (under its name), "block" the numbered blocks ("model.layers.3.*"),
            "role" what matrices do, over all layers ("ssm.out"). `select` understands all of these names.
        measure: "loss" for the increase of the cross-entropy, "divergence" for the Kullback-Leibler divergence from
            the predictions of the model without noise; both in nats per token.
        seeds: chip instances to average over.

    Raises:
        InputError: an unknown unit or measure, no seeds, a noise that has no seed, or nothing to rank.
    """
    for name, value, kind in (("unit", unit, Unit), ("measure", measure, Measure)):
        checks.one_of(name, value, get_args(kind))
    if not seeds:
        raise InputError("seeds must hold at least one chip instance, got none")
    fields = {field.name for field in dataclasses.fields(noise)} if isinstance(noise, Method) else set()
    if not {"seed", "select", "layers"} <= fields:
        raise InputError(f"noise must be Deploy or a noise of hardy.hardware, got {noise!r}")
    batches = list(batches)
    parts: dict[str, list[Site]] = {}
    for site in selection.select(model, select):
        if (name := _part(site, unit)) is not None:
            parts.setdefault(name, []).append(site)
    if not parts:
        raise InputError(f"{type(model).__name__} has no {unit} among {select!r}")
    measured = _Measure(model, batches, measure)
    scores = {}
    for name, sites in parts.items():
        chosen = tuple(f"re:{re.escape(site.name)}" for site in sites)
        values = []
        for seed in seeds:
            changed: Any = dataclasses.replace(noise, seed=seed, select=chosen, layers=None)  # pyright: ignore[reportCallIssue]
            with changed.apply(model, batches):
                values.append(measured())
        scores[name] = statistics.fmean(values)
    said = "increase of the loss" if measure == "loss" else "divergence of the predictions"
    return Ranking(
        scores=scores,
        meaning=f"{said} when only this {unit} is noisy, over {len(seeds)} chip instances",
        unit="nats/token",
        by="noise-sensitivity",
    )


def _part(site: Site, unit: Unit) -> str | None:
    if unit == "projection":
        return site.name
    if unit == "role":
        return site.role
    path = site.module.split(".")
    number = next((place for place, part in enumerate(path) if part.isdigit()), None)
    return None if number is None else ".".join(path[: number + 1]) + ".*"


class _Measure:
    """The measure of a noisy model, against what the model was when this was made."""

    def __init__(self, model: nn.Module, batches: list[Any], measure: Measure) -> None:
        self.model, self.batches, self.measure = model, batches, measure
        if measure == "loss":
            with torch.inference_mode():
                self.intact = mean_loss(model, batches).item()
        else:
            self.references = [self._log_probabilities(batch) for batch in batches]

    @torch.inference_mode()
    def __call__(self) -> float:
        if self.measure == "loss":
            return mean_loss(self.model, self.batches).item() - self.intact
        total, tokens = 0.0, 0
        for batch, reference in zip(self.batches, self.references, strict=True):
            noisy = self._log_probabilities(batch)
            total += kl_div(noisy, reference, log_target=True, reduction="sum").item()
            tokens += reference[..., 0].numel()
        return total / tokens

    @torch.inference_mode()
    def _log_probabilities(self, batch: Any) -> torch.Tensor:
        return run(self.model, batch).logits.float().log_softmax(-1)
