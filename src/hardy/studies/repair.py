"""A repair of a noisy model without training: how much perplexity it gives back, and what it costs in hardware.

Controls: the unmodified model, the chip without the repair, and the same repair spent at random (another layer, random
experts). A repair that looks at data looks at the calibration text; perplexity is measured on the evaluation text.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from hardy.analog import Deploy, ExpertReplacement, HybridProjection, RandomReplacement, Redundancy, RouterCalibration
from hardy.analog.experts import blocks
from hardy.core.method import ALL_SELECTED, Method, chain
from hardy.core.ranking import Ranking
from hardy.core.report import Report, Row
from hardy.core.select import LINEAR, select
from hardy.core.study import Backend, Cell, Result, Study
from hardy.errors import InputError, near_misses
from hardy.hardware.chip import Chip
from hardy.hardware.cost import model_cost
from hardy.studies.measure import INTACT, measure, perplexity_of, settings_for
from hardy.zoo import load

Repair = Literal["hpd", "romer", "redundancy"]
NOISY = "on the chip"
CONTROL = "spent at random"
_DEFAULTS = {"hpd": ("ssm.out", "last"), "romer": ("", None), "redundancy": (LINEAR, "0")}


def repair(
    model: str,
    *,
    by: Repair,
    chip: str | Chip = "reram-wan",
    seeds: int = 10,
    where: str | None = None,
    layers: str | None = None,
    copies: int = 2,
    text: str | None = None,
    out: str | Path | None = None,
    tokens: int = 3072,
    window: int | None = None,
    backend: Backend = "local",
    workers: int | None = None,
) -> Report:
    """Perplexity recovered against extra hardware.

    Args:
        model: a zoo name, a Hugging Face folder or a hub id.
        by: "hpd", "romer" (every chip instance is repaired for itself; arrays without converters and read noise, as
            the products of experts are the model's own) or "redundancy".
        chip: a chip, or what `Chip.named` takes.
        seeds: chip instances.
        where, layers: what is split or copied, as in `hardy.core.select.select`; by default the last output
            projection of a state space, or all matrices of the first layer. Not for romer.
        copies: of redundancy.
        text, out, tokens, window, backend, workers: as in `simulate`.

    Raises:
        InputError: any of these cannot be used, or the model has nothing that this repair is for.
    """
    if by not in get_args(Repair):
        known = get_args(Repair)
        raise InputError(f"repair must be one of {', '.join(known)}, got {by!r}{near_misses(str(by), known)}")
    if type(seeds) is not int or seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds!r}")
    if by == "romer" and (where is not None or layers is not None):
        raise InputError("romer repairs all experts and routers; it takes no selection and no layers")
    chip = Chip.named(chip) if isinstance(chip, str) else chip
    full, chip = chip, chip.without_periphery() if by == "romer" else chip
    where, layers = where or _DEFAULTS[by][0], layers or _DEFAULTS[by][1]
    loaded, _ = load(model)
    settings = settings_for(model, text, tokens, window) | {
        "chip": chip.to_dict(), "repair": by, "select": where, "layers": layers, "copies": copies,
    }  # fmt: skip
    prepared = _methods(loaded, by, chip, where, layers, copies)
    grid = {INTACT: [Cell(condition=INTACT, arguments={"part": "evaluation", "method": None})]}
    for name, method in prepared.items():
        grid[name] = [
            Cell(condition=name, arguments={"part": "evaluation", "method": method(seed).to_dict()}, seed=seed)
            for seed in range(seeds)
        ]
    study = Study(name="repair", run=measure, settings=settings, out=None if out is None else Path(out))
    cells = [cell for group in grid.values() for cell in group]
    results = study.results(cells, backend=backend, workers=workers, title=f"{model} repaired by {by}")
    found = {result.cell.key: result for result in results}
    rows = [row for name, group in grid.items() if (row := _row(name, [found[cell.key] for cell in group])) is not None]
    values = {row.condition: row.value for row in rows}
    if INTACT not in values or NOISY not in values:
        raise InputError(f"{model} could not be measured: {next(result.error for result in results if result.error)}")
    lost = values[NOISY] - values[INTACT]
    for name in (by, CONTROL):
        if name in values and lost > 0:
            share = (values[NOISY] - values[name]) / lost
            rows.append(Row(metric="perplexity_recovered", condition=name, value=share, unit="of what noise took"))
    report = Report(
        title=f"{model}: {by} on {type(chip.device).__name__} cells",
        rows=(*rows, *_costs(loaded, by, full, where, layers, copies)),
        settings=dict(study.settings),
        notes=tuple(
            f"{result.cell.condition}, seed {result.cell.seed}: {result.error}" for result in results if result.error
        ),
    )
    if out is not None:
        report.save(out)
    return report


def _methods(
    model: Any, by: Repair, chip: Chip, where: str, layers: str | None, copies: int
) -> dict[str, Callable[[int], Method]]:
    """The conditions, each a method for a chip instance."""

    def deploy(seed: int) -> Deploy:
        return Deploy(chip=chip, seed=seed)

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
    sites = select(model, where, layers=layers)
    same = [site for site in select(model, where) if site.name not in {chosen.name for chosen in sites}]
    kind: Callable[..., Method] = HybridProjection if by == "hpd" else Redundancy
    fields: dict[str, Any] = {"layers": None} if by == "hpd" else {"layers": None, "copies": copies}
    found: dict[str, Callable[[int], Method]] = {
        NOISY: deploy,
        by: lambda seed: chain(kind(select=tuple(site.name for site in sites), **fields), deploy(seed)),
    }
    if len(same) >= len(sites):
        others = Ranking(scores={site.name: 0.0 for site in same}, meaning="", unit="", by="chance")
        found[CONTROL] = lambda seed: chain(kind(select=tuple(others.sample(len(sites), seed)), **fields), deploy(seed))
    return found


def _row(name: str, results: list[Result]) -> Row | None:
    values = [perplexity_of(result.values["loss"]) for result in results if result.values]
    if not values:
        return None
    return Row(
        metric="perplexity",
        condition=name,
        value=statistics.fmean(values),
        spread=statistics.stdev(values) if len(values) > 1 and max(values) < math.inf else None,
        n=len(values),
        seeds=tuple(result.cell.seed for result in results if result.values),
        baseline=None if name == INTACT else INTACT,
    )


def _costs(model: Any, by: Repair, chip: Chip, where: str, layers: str | None, copies: int) -> list[Row]:
    """What the repair adds: arrays, digital multiplications per token, and bits of digital memory."""
    macs = bits = arrays = 0.0
    counted = dataclasses.replace(chip, adc_bits=8)  # arrays do not depend on it
    if by == "romer":
        experts = sum(block.count for block in blocks(model))
        macs, bits = experts, 16 * 2 * experts  # a scale and a shift to each logit
    else:
        before = model_cost(model, counted).value("arrays", ALL_SELECTED)
        method = (
            HybridProjection(select=where, layers=layers)
            if by == "hpd"
            else Redundancy(copies=copies, select=where, layers=layers)
        )
        with method.apply(model) as change:
            arrays = model_cost(model, counted).value("arrays", ALL_SELECTED) - before
            if by == "hpd":
                macs, bits = (change.report.value(name, ALL_SELECTED) for name in ("digital_macs", "sram_bits"))
    return [
        Row(metric="extra_arrays", condition=by, value=arrays),
        Row(metric="digital_macs", condition=by, value=macs, unit="per token"),
        Row(metric="sram_bits", condition=by, value=bits, unit="bit"),
    ]
