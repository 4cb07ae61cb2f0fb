"""Magnitude locators: how large an activation is, how much it differs between two sets, what attention looks at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from hardy import checks, hooks
from hardy.core.ranking import Ranking
from hardy.errors import InputError
from hardy.interp.locator import Locator, per_unit, recorded
from hardy.interp.objects import Unit
from hardy.interp.task import Task

Statistic = Literal["mean", "rms", "max", "rate", "contrast", "cohen-d", "rate-contrast"]
STATISTICS: tuple[Statistic, ...] = ("mean", "rms", "max", "rate", "contrast", "cohen-d", "rate-contrast")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Magnitude(Locator):
    """The size of the activation, or how much clean and corrupt prompts differ in it.

    Args:
        statistic: "mean" of |activation|, "rms", "max", or "rate", the share of the tokens at which it is above 0; or
            "contrast", the difference of the mean activation between clean and corrupt prompts, "cohen-d", that in
            pooled standard deviations, as a norm over the unit's coordinates, and "rate-contrast", the absolute
            difference of the two rates. Rates are what the features of a sparse autoencoder are compared by.
    """

    statistic: Statistic = "mean"

    by = "magnitude"
    family = "magnitude"
    meaning = "size of the activation"
    unit = "activation"
    needs_corrupt = False

    def check(self) -> None:
        checks.one_of("statistic", self.statistic, STATISTICS)

    def fitting(self, task: Task) -> Task:
        if self.statistic.rpartition("-")[2] in ("contrast", "d") and task.corrupt is None:
            raise InputError(f"{self.statistic} compares clean and corrupt prompts; {task.name} has no corrupt ones")
        return task

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        units = self.units(model, task)
        points = list(dict.fromkeys(unit.point for unit in units))
        clean = recorded(model, points, task.inputs())[0]
        if self.statistic == "rate-contrast":
            corrupt = recorded(model, points, task.inputs("corrupt"))[0]
            a, b = (_means(units, {p: (x > 0).double() for p, x in side.items()}, task) for side in (clean, corrupt))
            return {name: abs(a[name] - b[name]) for name in a}
        if self.statistic in ("contrast", "cohen-d"):
            corrupt = recorded(model, points, task.inputs("corrupt"))[0]
            found = {}
            for unit in units:
                a, b = clean[unit.point][unit.place].double(), corrupt[unit.point][unit.place].double()
                difference = a.mean(0) - b.mean(0)
                if self.statistic == "cohen-d":
                    pooled = ((a.var(0, correction=0) + b.var(0, correction=0)) / 2).sqrt()
                    difference = difference / pooled.clamp_min(1e-9)
                found[str(unit)] = difference.square().mean().sqrt().item()
            return found
        values = {}
        for point, activation in clean.items():
            size = activation.double().abs()
            values[point] = size.square() if self.statistic == "rms" else size
            if self.statistic == "rate":
                values[point] = (activation > 0).double()
        if self.statistic == "max":
            if task.mask is not None:
                values = {point: _masked(value, task) for point, value in values.items()}
            return {str(u): values[u.point][u.place].max().item() for u in units}
        means = _means(units, values, task)
        return {name: mean**0.5 if self.statistic == "rms" else mean for name, mean in means.items()}


def _masked(values: torch.Tensor, task: Task) -> torch.Tensor:
    """(n, positions, ...) with zeros where there is padding."""
    real = task.mask
    return values if real is None else values * real.reshape(*real.shape, *[1] * (values.ndim - 2))


def _means(units: Sequence[Unit], values: Mapping[str, torch.Tensor], task: Task) -> dict[str, float]:
    """The mean of each unit's part over real tokens and its coordinates."""
    kept = {point: _masked(value, task) for point, value in values.items()}
    sums = per_unit(units, kept).sum(1).tolist()
    ones = {point: _masked(torch.ones_like(value), task) for point, value in values.items()}
    counts = [ones[unit.point][unit.place].sum().item() for unit in units]
    return {str(unit): total / max(1.0, count) for unit, total, count in zip(units, sums, counts, strict=True)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Massive(Locator):
    """How many times the median the largest coordinate is: massive activations (Sun et al. 2024), which are above 1000
    medians, and above 100, at very few tokens.
    """

    object: str = "residual"

    by = "massive"
    family = "magnitude"
    meaning = "largest coordinate over the median of all"
    unit = "medians"
    kinds = ("embedding", "residual", "attention", "ffn")
    why_not = "it compares the coordinates of one activation; a head or neuron has magnitude"
    needs_corrupt = False

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        units = self.units(model, task)
        points = list(dict.fromkeys(unit.point for unit in units))
        seen = {point: x.abs().double() for point, x in recorded(model, points, task.inputs())[0].items()}
        real = slice(None) if task.mask is None else task.mask.bool()
        medians = {point: x[real].median().clamp_min(1e-12) for point, x in seen.items()}
        seen = {point: _masked(x, task) for point, x in seen.items()}
        return {str(unit): (seen[unit.point][unit.place].max() / medians[unit.point]).item() for unit in units}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockInfluence(Locator):
    """1 - cosine of the stream before and after each block (Men et al. 2024): a block of low influence can be skipped.

    The units are streams, "blocks.3.resid_post"; `LayerSkip` takes the numbers of the lowest.
    """

    object: str = "residual"

    by = "block-influence"
    family = "magnitude"
    meaning = "1 - cosine of the stream before and after"
    unit = "1 - cosine"
    kinds = ("residual",)
    why_not = "it compares the stream before and after a block"
    needs_corrupt = False

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        return {f"{name}.resid_post": value for name, value in block_influence(model, task).scores.items()}


def block_influence(model: nn.Module, task: Task) -> Ranking:
    """1 - cosine between the residual stream before and after each block, mean over tokens (Men et al. 2024).

    A block of low influence can be skipped.
    """
    blocks = [p.removesuffix(".resid_pre") for p in hooks.points(model, "blocks.*.resid_pre")]
    names = [f"{block}.{side}" for block in blocks for side in ("resid_pre", "resid_post")]
    seen = recorded(model, names, task.inputs())[0]
    real = slice(None) if task.mask is None else task.mask.bool()
    scores = {}
    for block in blocks:
        before, after = (seen[f"{block}.{side}"].float() for side in ("resid_pre", "resid_post"))
        similarity = torch.nn.functional.cosine_similarity(before, after, dim=-1)
        scores[block] = 1 - similarity[real].mean().item()
    return Ranking(
        scores=scores, meaning="1 - cosine of the stream before and after", unit="1 - cosine", by="block-influence"
    )


def language_neurons(
    model: nn.Module, texts: Mapping[str, torch.Tensor], *, share: float = 0.01, least: float = 0.95
) -> tuple[Ranking, dict[str, str]]:
    """Language activation probability entropy (LAPE; Tang et al. 2024): neurons that fire for one language only.

    Args:
        model: any decoder with neurons.
        texts: language -> token ids (n, length).
        share: of all neurons that are taken, those of lowest entropy.
        least: a taken neuron fires more often, for some language, than this quantile of all rates.

    Returns:
        The ranking, by low entropy, of the neurons that fire often enough, and neuron -> its language for those taken.
    """
    checks.number("share", share, above=0, at_most=1)
    if len(texts) < 2:
        raise InputError(f"languages are compared; got {len(texts)}")
    rates: dict[str, dict[str, torch.Tensor]] = {}
    points = hooks.points(model, "blocks.*.mlp.post")
    for language, ids in texts.items():
        seen = recorded(model, points, {"input_ids": ids, "use_cache": False})[0]
        rates[language] = {point: (x > 0).double().mean((0, 1)).cpu() for point, x in seen.items()}
    p = torch.stack([torch.cat([rates[language][point] for point in points]) for language in texts])  # (k, neurons)
    q = p / p.sum(0).clamp_min(1e-12)
    entropy = -(q * q.clamp_min(1e-12).log()).sum(0)
    names = [f"{point}.{i}" for point in points for i in range(len(rates[next(iter(texts))][point]))]
    often = p.max(0).values > torch.quantile(p.flatten(), least)
    if not often.any():
        often = p.max(0).values >= torch.quantile(p.max(0).values, least)
    kept = often.nonzero().flatten().tolist()
    ranking = Ranking.from_array(
        -entropy[kept], [names[i] for i in kept], meaning="low entropy over languages", unit="-nats", by="lape"
    )
    count = max(1, min(len(kept), round(share * len(names))))
    languages = list(texts)
    chosen = {names[i]: languages[int(p[:, i].argmax())] for i in sorted(kept, key=lambda i: entropy[i].item())[:count]}
    return ranking, chosen
