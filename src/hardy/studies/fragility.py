"""Which layer breaks first: what it costs to break one unit and leave all the others intact.

A ranking by few bits or by analog noise is measured on text; one by the rounding error needs the weights alone, and
shows how far that gets.
"""

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from hardy.core import selection
from hardy.core.locators import Locator, register_locator
from hardy.core.method import ALL_SELECTED, WeightMethod
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR, Selector, Site
from hardy.core.surgery import weight_of
from hardy.core.units import exactly, units
from hardy.errors import InputError
from hardy.hardware.noise import AdditiveNoise
from hardy.quant.round_to_nearest import RoundToNearest
from hardy.runs.conditions import Condition, Results
from hardy.runs.workers import Backend
from hardy.studies.measure import study_of, unmodified
from hardy.zoo.subject import Subject

UNITS = ("projection", "block", "role", "expert")
MANY = 100
"""Measurements above which it is said how many fewer whole blocks take."""

_log = logging.getLogger(__name__)


class FailedCells(RuntimeWarning):
    """Some cells failed, so that what came of them is incomplete; `hardy` exits with 3."""


def breaking(by: str, bits: int, strength: float, group_size: int | None, select: Selector) -> WeightMethod:
    """The method that breaks `select` for the locator `by`, "rtn" or "noise"."""
    if by == "noise":
        return AdditiveNoise(strength=strength, select=select)
    return RoundToNearest(bits=bits, group_size=group_size, select=select)


def describe(by: str, bits: int, strength: float) -> str:
    """What is done to the layers, in words: "2-bit rounding", "noise of 0.05 absmax"."""
    return f"noise of {strength:g} absmax" if by == "noise" else f"{bits}-bit rounding"


def conditions(
    members: Mapping[str, Sequence[Site]], method: WeightMethod, seeds: Iterable[int]
) -> tuple[Condition, ...]:
    """The intact model, and every unit broken alone, on the calibration text; noise once per chip instance."""
    seeds = tuple(seeds) if hasattr(method, "seed") else (0,)
    grid = [unmodified("calibration")]
    for name, sites in members.items():
        alone = dataclasses.replace(method, select=tuple(exactly(site) for site in sites))
        grid.append(Condition.of(name, {"part": "calibration", "method": alone.to_dict()}, seeds))
    return tuple(grid)


def check_rankable(model: nn.Module, members: Mapping[str, Sequence[Site]], method: WeightMethod, by: str) -> None:
    """Say before anything is measured that `method` can break no part of `model`: what it does is tried and undone.

    Raises:
        InputError: there are no parts, or it fails on all of them; the message says how on the first.
    """
    reasons = []
    for name, sites in members.items():
        try:
            dataclasses.replace(method, select=tuple(exactly(site) for site in sites)).apply(model).undo()
            return
        except InputError as error:
            reasons.append(f"{name}: {error}")
    raise InputError(f"nothing can be ranked by {by}: {reasons[0] if reasons else 'no part is selected'}")


def ranking(results: Results, grid: Sequence[Condition], by: str, unit: str, damage: str) -> Ranking:
    """Units by the mean increase of the loss over the intact model, the first of `grid`.

    Args:
        results: of a study that measured `grid`.
        grid: of `conditions`.
        by: the locator.
        unit: what is broken alone, in words: "this layer".
        damage: how, in words.

    A unit whose cells all failed is left out, with a warning.

    Raises:
        InputError: the intact model, or every unit, failed.
    """
    intact, *broken = grid
    results.needed(intact)
    rows = {each.name: each.row(results, lambda values: values["loss"], metric="loss") for each in grid}
    loss: Any = rows[intact.name]
    scores = {each.name: row.value - loss.value for each in broken if (row := rows[each.name]) is not None}
    if not scores:
        reason = (results.of(broken[0])[0].error or "").strip().splitlines()[-1:] if broken else ["there is none"]
        raise InputError(f"nothing can be ranked by {by}: no part was measured; {''.join(reason)}")
    if len(scores) < len(broken):
        lost = [each for each in broken if each.name not in scores]
        reason = (results.of(lost[0])[0].error or "").strip().splitlines()[-1]
        warnings.warn(
            f"{len(lost)} of {len(broken)} units are not in the ranking by {by}: their cells failed; "
            f"{lost[0].name}: {reason}",
            FailedCells,
            stacklevel=2,
        )
    return Ranking(
        scores=scores, meaning=f"increase of the loss when {unit} alone has {damage}", unit="nats/token", by=by
    )


def weight_error(model: nn.Module, members: Mapping[str, Sequence[Site]], method: WeightMethod) -> Ranking:
    """Units by the relative error that rounding does to their weights: no data, no forward pass."""
    scores = {}
    for name, sites in members.items():
        with dataclasses.replace(method, select=tuple(exactly(site) for site in sites)).apply(model) as change:
            scores[name] = change.report.value("relative_error", ALL_SELECTED)
    bits = getattr(method, "bits", None)
    return Ranking(
        scores=scores,
        meaning=f"relative Frobenius error of {bits}-bit rounding",
        unit="relative error",
        by="weight-error",
    )


def _by_cells(
    subject: Subject, by: str, method: WeightMethod, damage: str, *, unit: str, seeds: Sequence[int] = (0,), **run: Any
) -> Ranking:
    members = units(selection.select(subject.model, method.select), unit)
    if not seeds:
        raise InputError("seeds must hold at least one chip instance, got none")
    check_rankable(subject.model, members, method, by)
    grid = conditions(members, method, seeds)
    if unit == "projection" and (count := sum(len(each.cells) for each in grid)) > MANY:
        blocks = len(units(selection.select(subject.model, method.select), "block"))
        of_blocks = 1 + blocks * len(grid[-1].cells)
        _log.info("%d measurements, one layer after the other; by blocks (unit block) it is %d", count, of_blocks)
    largest = max(sum(weight_of(subject.model, site).numel() for site in sites) for sites in members.values())
    study = study_of(subject, "locate", out=None, weights=4 * largest / subject.size)
    results = study.results(grid, title=f"locate by {by}", **run)
    return ranking(results, grid, by, _WORDS[unit], damage)


def by_method(
    subject: Subject, *, method: WeightMethod, unit: str, seeds: Sequence[int] = (0, 1, 2), **run: Any
) -> Ranking:
    """Units by the increase of the loss when a method that edits weights is applied to each of them alone."""
    return _by_cells(subject, str(method), method, f"{method} on it", unit=unit, seeds=seeds, **run)


_WORDS = {"projection": "this layer", "block": "this block", "role": "this role", "expert": "this expert"}


def _by_rounding(
    subject: Subject, *, select: Selector = LINEAR, unit: str = "projection", bits: int = 2,
    group_size: int | None = 128, backend: Backend = "local", workers: int | None = None,
) -> Ranking:  # fmt: skip
    method = RoundToNearest(bits=bits, group_size=group_size, select=select)
    return _by_cells(subject, "rtn", method, describe("rtn", bits, 0), unit=unit, backend=backend, workers=workers)


def _by_noise(
    subject: Subject, *, select: Selector = LINEAR, unit: str = "projection", strength: float = 0.05,
    seeds: Sequence[int] = (0, 1, 2), backend: Backend = "local", workers: int | None = None,
) -> Ranking:  # fmt: skip
    method = AdditiveNoise(strength=strength, select=select)
    run: dict[str, Any] = {"backend": backend, "workers": workers}
    return _by_cells(subject, "noise", method, describe("noise", 0, strength), unit=unit, seeds=seeds, **run)


def _by_weight_error(
    subject: Subject, *, select: Selector = LINEAR, unit: str = "projection", bits: int = 2,
    group_size: int | None = 128,
) -> Ranking:  # fmt: skip
    method = RoundToNearest(bits=bits, group_size=group_size, select=select)
    return weight_error(subject.model, units(selection.select(subject.model, select), unit), method)


for _locator in (
    Locator(
        name="rtn", run=_by_rounding, units=UNITS, runs_cells=True,
        summary="increase of the loss when this part alone is rounded to few bits",
    ),
    Locator(
        name="noise", run=_by_noise, units=UNITS, runs_cells=True,
        summary="increase of the loss when this part alone has additive noise",
    ),
    Locator(
        name="weight-error", run=_by_weight_error, units=UNITS, summary="rounding error of the weights, without text"
    ),
):  # fmt: skip
    register_locator(_locator)
