"""Which layer breaks first: what it costs to break one layer and leave all the others intact.

A ranking of layers by few bits or by analog noise is measured on text; one by the rounding error needs the weights
alone, and shows how far that gets. Further locators, which break nothing, are in `hardy.studies.diagnostics`.
"""

import dataclasses
from collections.abc import Sequence

from torch import nn

from hardy.core import selection
from hardy.core.method import WeightMethod
from hardy.core.ranking import Ranking
from hardy.core.selection import Selector, Site
from hardy.core.study import Backend, Cell, Result, Study
from hardy.errors import InputError, near_misses
from hardy.hardware.noise import AdditiveNoise
from hardy.quant.round_to_nearest import RoundToNearest
from hardy.quant.units import Unit
from hardy.studies.diagnostics import DIAGNOSTICS, diagnose
from hardy.studies.measure import INTACT, load_dense, measure, settings_for

LOCATORS = ("rtn", "noise", "weight-error", *DIAGNOSTICS)
"""By perplexity at few bits, by perplexity under noise, by the rounding error of the weights, and by what is told
from calibration text."""


def breaking(
    by: str | WeightMethod, bits: int, strength: float, group_size: int | None, select: Selector
) -> WeightMethod:
    """The method that breaks `select` for the locator `by`."""
    if isinstance(by, WeightMethod):
        return dataclasses.replace(by, select=select)
    if by == "noise":
        return AdditiveNoise(strength=strength, select=select)
    return RoundToNearest(bits=bits, group_size=group_size, select=select)


def describe(by: str | WeightMethod, bits: int, strength: float) -> str:
    """What is done to the layers, in words: "2-bit rounding", "noise of 0.05 absmax"."""
    if isinstance(by, WeightMethod):
        return f"{by} on it"
    return f"noise of {strength:g} absmax" if by == "noise" else f"{bits}-bit rounding"


def cells(
    sites: Sequence[Site],
    by: str | WeightMethod,
    *,
    bits: int,
    strength: float,
    group_size: int | None,
    seeds: Sequence[int],
) -> list[Cell]:
    """The intact model, and every site broken alone, on the calibration text; noise once per chip instance."""
    grid = [Cell(condition=INTACT, arguments={"part": "calibration", "method": None})]
    for site in sites:
        method = breaking(by, bits, strength, group_size, site.name)
        for seed in seeds if hasattr(method, "seed") else [0]:
            arguments = {"part": "calibration", "method": method.to_dict()}
            grid.append(Cell(condition=site.name, arguments=arguments, seed=seed))
    return grid


def ranking(results: Sequence[Result], by: str | WeightMethod, *, bits: int, strength: float) -> Ranking:
    """Sites by the mean increase of the loss over the intact model. Failed cells are left out.

    Raises:
        InputError: the intact model, or every site, failed.
    """
    intact = next((r.values["loss"] for r in results if r.cell.condition == INTACT and r.values), None)
    if intact is None:
        error = next((r.error for r in results if r.cell.condition == INTACT), "it was not measured")
        raise InputError(f"the unmodified model could not be measured: {error}")
    losses: dict[str, list[float]] = {}
    for result in results:
        if result.values and result.cell.condition != INTACT:
            losses.setdefault(result.cell.condition, []).append(result.values["loss"])
    return Ranking(
        scores={name: sum(values) / len(values) - intact for name, values in losses.items()},
        meaning=f"increase of the loss when this layer alone has {describe(by, bits, strength)}",
        unit="nats/token",
        by=str(by),
    )


def weight_error(model: nn.Module, sites: Sequence[Site], *, bits: int, group_size: int | None) -> Ranking:
    """Sites by their relative rounding error: no data, no forward pass."""
    method = RoundToNearest(bits=bits, group_size=group_size, select=tuple(site.name for site in sites))
    with method.apply(model) as change:
        errors = {row.condition: row.value for row in change.report.select(metric="relative_error")}
    return Ranking(
        scores={site.name: errors[site.name] for site in sites},
        meaning=f"relative Frobenius error of {bits}-bit rounding",
        unit="relative error",
        by="weight-error",
    )


def locate(
    model: str = "tiny-llama",
    *,
    by: str | WeightMethod = "rtn",
    text: str | None = None,
    bits: int = 2,
    strength: float = 0.05,
    group_size: int | None = 128,
    select: Selector = "linear,!head,!router",
    unit: Unit = "block",
    seeds: int = 3,
    tokens: int = 3072,
    window: int | None = None,
    backend: Backend = "local",
    workers: int | None = None,
) -> Ranking:
    """Rank the layers of a language model by how much breaks when only they do.

    Args:
        model: a zoo name, a Hugging Face folder or a hub id.
        by: "rtn" (loss at `bits`), "noise" (loss under additive noise of `strength`, relative to each output
            channel's absmax, mean over chip instances), "weight-error" (rounding error, no text needed);
            "effective-rank", "energy-gain", "perplexity-drop" or "lieq-v1": see `hardy.quant.effective_rank`,
            `energy_gain`, `perplexity_drop` and `layer_importance`. Or any method that edits weights: the loss when it
            is applied to one layer alone, mean over `seeds` if it has a seed.
        text: UTF-8 file; its first half is used. By default held-out standard-library modules.
        bits, strength, group_size: how the layer is broken.
        select: which layers, as in `hardy.core.selection.select`.
        unit: what the last four rank: whole blocks, or for the spectral two also every "site"; the first three rank
            sites.
        seeds: chip instances for "noise", random references for the spectral locators.
        tokens, window: how much text, and how much of it the model sees at once.
        backend, workers: where the cells run, as in `Study.results`.

    Raises:
        InputError: any of these cannot be used.
    """
    if not isinstance(by, WeightMethod) and by not in LOCATORS:
        raise InputError(f"unknown locator {by!r}{near_misses(by, LOCATORS)}; there are: {', '.join(LOCATORS)}")
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    if isinstance(by, str) and by in DIAGNOSTICS:
        return diagnose(
            model, by, text=text, select=select, unit=unit, seeds=range(seeds), tokens=tokens, window=window
        )
    breaking(by, bits, strength, group_size, select)  # its fields are checked before anything long begins
    loaded, _ = load_dense(model)
    sites = selection.select(loaded, select)
    if by == "weight-error":
        return weight_error(loaded, sites, bits=bits, group_size=group_size)
    study = Study(name="locate", run=measure, settings=settings_for(model, text, tokens, window))
    grid = cells(sites, by, bits=bits, strength=strength, group_size=group_size, seeds=range(seeds))
    results = study.results(grid, backend=backend, workers=workers, title=f"locate by {by}")
    return ranking(results, by, bits=bits, strength=strength)
