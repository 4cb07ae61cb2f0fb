"""What each repair does to a model on a chip, the control that spends as much at random, and what it costs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from hardy.analog import (
    Deploy,
    ExpertReplacement,
    HybridProjection,
    RandomReplacement,
    Redundancy,
    RouterCalibration,
)
from hardy.analog.experts import blocks
from hardy.analog.hybrid_projection import MEASURED
from hardy.core import selection
from hardy.core.method import ALL_SELECTED, Method, chain
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR
from hardy.hardware.chip import Chip
from hardy.hardware.cost import model_cost
from hardy.report import Row
from hardy.studies.adapters import whole_layers
from hardy.zoo.subject import Subject

_log = logging.getLogger(__name__)

Repair = Literal["hpd", "romer", "redundancy", "halora"]
NOISY = "on the chip"
CONTROL = "spent at random"
WITHOUT_NOISE = "adapters trained without noise"


def bases_of(subject: Subject, chip: Chip, select: str, layers: str | None) -> dict[str, str]:
    """The layers whose error on this chip a split makes smaller, and by which basis: decided once for all instances."""
    _log.info("%s: which layers gain by which rotation", subject.name)
    method = HybridProjection(select=select, layers=layers, basis=MEASURED, noise=Deploy(chip=chip))
    with method.apply(subject.model, subject.batches("calibration")) as change:
        found = change.report.select("digital_macs")
        return {row.condition: str(row.details["basis"]) for row in found if row.condition != ALL_SELECTED}


def _all_alike(sites: Sequence[selection.Site]) -> dict[str, str]:
    """Where nothing was measured: all of them, by one basis."""
    return {site.name: "hadamard" for site in sites}


def _projections(bases: Mapping[str, str]) -> list[Method]:
    """The splits of these layers, each by its basis."""
    found: list[Method] = []
    for basis in sorted(set(bases.values())):
        names = tuple(name for name, own in bases.items() if own == basis)
        found.append(HybridProjection(select=names, basis=basis))  # pyright: ignore[reportArgumentType]
    return found


def methods_of(
    model: Any, by: Repair, chip: Chip, select: str | None, layers: str | None, copies: int,
    bases: Mapping[str, str] | None = None,
) -> dict[str, Callable[[int], Method]]:  # fmt: skip
    """The conditions, each a method for a chip instance; what the chip cannot take is refused here."""

    def deploy(seed: int) -> Deploy:
        return Deploy(chip=chip, seed=seed)

    deploy(0).check_model(model)
    if by == "halora":
        return {NOISY: deploy, by: deploy, WITHOUT_NOISE: deploy}
    if by == "romer":
        blocks(model)  # refused before anything long begins

        def romer(seed: int) -> Method:
            noise = deploy(seed)
            steps = (ExpertReplacement(noise=noise, seeds=(seed,)), RouterCalibration(noise=noise, seeds=(seed,)))
            return chain(*steps, noise)

        return {
            NOISY: deploy,
            by: romer,
            CONTROL: lambda seed: chain(RandomReplacement(count=1, seed=seed), deploy(seed)),
        }
    assert select is not None
    sites = selection.select(model, select, layers=layers)
    names = {site.name for site in sites}
    same = [site for site in selection.select(model, select) if site.name not in names]
    if len(same) < len(sites):  # the control is spent on layers of other kinds
        plain = [site for site in selection.select(model, LINEAR) if site.rows is None and site.name not in names]
        same = [site for site in plain if type(model.get_submodule(site.module)) is nn.Linear]
    bases = _all_alike(sites) if bases is None else bases

    def repaired(layers: Sequence[str], seed: int) -> Method:
        if by == "redundancy":
            return chain(Redundancy(copies=copies, select=tuple(layers), layers=None), deploy(seed))
        return chain(*_projections(dict(zip(layers, bases.values(), strict=True))), deploy(seed))

    found: dict[str, Callable[[int], Method]] = {NOISY: deploy, by: lambda seed: repaired([*bases], seed)}
    if bases and len(same) >= len(sites):
        others = Ranking(scores={site.name: 0.0 for site in same}, meaning="", unit="", by="chance")
        found[CONTROL] = lambda seed: repaired(others.sample(len(bases), seed), seed)
    return found


def costs_of(
    model: Any, by: Repair, chip: Chip, select: str | None, layers: str | None, copies: int, rank: int,
    bases: Mapping[str, str] | None = None,
) -> list[Row]:  # fmt: skip
    """What the repair adds: arrays, digital operations per token, and bits of digital memory.

    It is applied for that once, so what it cannot take is refused before anything is measured.
    """
    macs = additions = bits = arrays = 0.0
    rows: list[Row] = []
    counted = dataclasses.replace(chip, adc_bits=8)  # arrays do not depend on it
    if by == "romer":
        experts = sum(block.count for block in blocks(model))
        macs, bits = experts, 16 * 2 * experts  # a scale and a shift to each logit
    elif by == "halora":
        shapes = [model.get_submodule(name).weight.shape for name in whole_layers(model, select, layers)]
        macs = sum(rank * (shape[0] + shape[1]) for shape in shapes)
        bits = 16 * macs
    else:
        assert select is not None
        before = model_cost(model, counted).value("arrays", ALL_SELECTED)
        steps: list[Method] = [Redundancy(copies=copies, select=select, layers=layers)]
        if by == "hpd":
            sites = selection.select(model, select, layers=layers)
            bases = _all_alike(sites) if bases is None else bases
            steps = _projections(bases)
            rows.append(Row(metric="split_layers", condition=by, value=len(bases), details={"of": len(sites)}))
        if steps:
            with chain(*steps).apply(model) as change:
                arrays = model_cost(model, counted).value("arrays", ALL_SELECTED) - before
                names = ("digital_macs", "digital_additions", "sram_bits")
                macs, additions, bits = (
                    sum(row.value for row in change.report.select(name, ALL_SELECTED)) for name in names
                )
    return [
        *rows,
        Row(metric="extra_arrays", condition=by, value=arrays),
        Row(metric="digital_macs", condition=by, value=macs, unit="per token"),
        Row(metric="digital_additions", condition=by, value=additions, unit="per token"),
        Row(metric="sram_bits", condition=by, value=bits, unit="bit"),
    ]
