"""Where on a chip a language model is worth what it costs: analog, copied, in more bits or digital, by matrix.

The loss of each matrix alone on the chip is measured on the calibration text; the placement of the smallest expected
loss within a budget of energy or arrays is found; then it is measured whole, on the evaluation text and on chip
instances that the choice has not seen, beside what other rules choose for the same budget: the most sensitive matrices
digital, digital ones evenly over depth, and chosen at random. No published tool does this; the cost model is
`hardy.hardware.cost`, and as coarse.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from scipy.special import log_ndtr
from torch import nn

from hardy import checks
from hardy.analog import Deploy
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR
from hardy.core.selection import select as sites_of
from hardy.core.surgery import weight_of
from hardy.errors import InputError
from hardy.files import write_json
from hardy.hardware.chip import Chip
from hardy.report import HeatMap, Report, Row
from hardy.runs.conditions import Condition, Results
from hardy.runs.workers import Backend
from hardy.studies.chip_study import CHIP_MEMORY
from hardy.studies.measure import INTACT, dense, loss_row, perplexity_of, study_of, unmodified
from hardy.studies.placement_plan import DIGITAL, Budget, Costs, Part, Placement, controls, of_slices
from hardy.studies.survival_report import heat_map
from hardy.zoo.subject import Source

T = TypeVar("T", bound=Hashable)

PLANNED = "planned"
ALL_ANALOG = "all on the chip"
_RANDOM = 3  # draws of the control that chooses at random
_FIRST_JUDGED = 1000  # chip instances that judge are others than those that the choice was made on


def place(
    model: Source = "tiny-llama",
    *,
    chip: str | Chip = "reram-wan",
    energy: float = 0.5,
    arrays: float | None = None,
    copies: Sequence[int] = (1, 2, 4),
    slices: Sequence[int] = (),
    n_seeds: int = 3,
    n_judged: int = 10,
    select: str = LINEAR,
    text: str | None = None,
    out: str | Path | None = None,
    tokens: int | None = None,
    window: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    backend: Backend = "local",
    workers: int | None = None,
) -> Report:
    """Choose for each matrix of `model` whether it is digital or on the chip, in copies or more bits, and measure all.

    Args:
        model: a subject, or what `hardy.zoo.Subject.of` takes.
        chip: a chip, or what `Chip.named` takes; its ADC's cost must be known.
        energy: at most so much for a token, as a share of what the selected matrices take when all are digital.
        arrays: at most so many, as a share of those that hold the selected matrices once; None for as many as it takes.
        copies: numbers of copies that may be chosen; fused projections and GPT-2's layers have one.
        slices: numbers of pairs of cells that may share a weight, beside the chip's own; others need a chip whose cells
            have levels, and each is measured for each matrix alone.
        n_seeds: chip instances on which the loss of each matrix alone is measured.
        n_judged: other ones, on which every placement is measured.
        select: the matrices to place, as in `hardy.core.selection.select`.
        text, out, tokens, window, device, dtype, backend, workers: as in `simulate`. With `out`, `placement.json` there
            holds the choices, and the method that makes them as `Method.to_dict` gives it.

    Raises:
        InputError: any of these cannot be used, or no placement is within the budget.
    """
    chip = Chip.named(chip) if isinstance(chip, str) else chip
    n_seeds = checks.integer("n_seeds", n_seeds, at_least=1)
    n_judged = checks.integer("n_judged", n_judged, at_least=2)
    copies = tuple(sorted({checks.integer("copies", number, at_least=1, at_most=64) for number in copies}))
    slices = sorted(
        {checks.integer("slices", number, at_least=1, at_most=16) for number in slices} | {chip.weight_slices}
    )
    chips = {number: of_slices(chip, number) for number in slices}
    for name, share in (("energy", energy), ("arrays", arrays)):
        if share is not None:
            checks.number(name, share, above=0)
    if not copies:
        raise InputError("copies must hold at least one number, got none")
    subject = dense(model, text=text, tokens=tokens, window=window, device=device, dtype=dtype)
    Deploy(chip=chip, select=select).check_model(subject.model)
    settings = {"chip": chip.to_dict(), "select": select}
    study = study_of(subject, "place", out=out, weights=CHIP_MEMORY, **settings)
    sized = _sizes(subject.model, select, copies, slices)
    bounds = Costs(parts=sized, chip=chip)
    budget = _budget(bounds, energy, arrays)
    bounds.best(budget)  # refused before anything long begins, if nothing is within it

    intact = unmodified("calibration")
    alone = {
        (part.name, number): _alone(part.name, chip, number, n_seeds)
        for number, chip in chips.items()
        for part in sized
    }
    run = {"backend": backend, "workers": workers}
    results = study.results([intact, *alone.values()], title=f"{subject.name}: each matrix alone on the chip", **run)
    results.needed(intact)
    losses = _losses(results, intact, alone)
    measured = [
        dataclasses.replace(part, losses={number: losses[part.name, number] for number in slices}) for part in sized
    ]
    costs = Costs(parts=measured, chip=chip)
    placements = {PLANNED: costs.best(budget), **controls(costs, budget, range(_RANDOM))}
    placements[ALL_ANALOG] = costs.all(costs.once)
    conditions = [unmodified(), *(_judged(name, placement, chip, n_judged) for name, placement in placements.items())]
    judged = study.results(conditions, title=f"{subject.name}: placements", **run)
    judged.needed(conditions[0])
    digital = costs.all(DIGITAL)
    rows = [
        row
        for each in conditions
        for row in _rows(each, judged, placements.get(each.name), digital, chip.weight_slices)
    ]
    failures = (results + judged).failures()
    report = Report(
        title=f"{subject.name} placed on {type(chip.device).__name__} cells",
        summary=tuple(_sentences(rows, placements, costs)),
        rows=(*rows, *failures, *_choices(placements[PLANNED], costs)),
        figures=(_map(placements[PLANNED], subject.model, select),),
        settings=dict(study.settings) | {"energy": energy, "arrays": arrays, "copies": list(copies), "slices": slices},
        notes=(
            *subject.notes,
            f"Losses of single matrices: {n_seeds} chip instances, calibration text; placements: {n_judged} other "
            "instances, evaluation text.",
            *(results + judged).notes(),
        ),
    )
    if out is not None:
        method = placements[PLANNED].method(chip)
        choices = {name: dataclasses.asdict(choice) for name, choice in placements[PLANNED].choices.items()}
        record = {"choices": choices, "method": None if method is None else method.to_dict()}
        write_json(Path(out) / "placement.json", record)
        report.save(out)
    return report


def _sizes(model: nn.Module, selector: str, copies: tuple[int, ...], slices: Sequence[int]) -> list[Part]:
    parts, unknown = [], dict.fromkeys(slices, 0.0)
    for site in sites_of(model, selector):
        shape = weight_of(model, site).shape
        if len(shape) != 2:
            raise InputError(f'{site.name} is a stack of experts, which has no placement; leave it out with "!experts"')
        whole = type(model.get_submodule(site.module)) is nn.Linear and site.rows is None
        allowed = copies if whole else copies[:1]
        parts.append(Part(name=site.name, inputs=shape[1], outputs=shape[0], losses=unknown, copies=allowed))
    return parts


def _budget(costs: Costs, energy: float, arrays: float | None) -> Budget:
    limit = None if arrays is None else int(arrays * costs.all(costs.once).arrays)
    return Budget(energy=energy * costs.all(DIGITAL).energy, arrays=limit)


def _alone(name: str, chip: Chip, slices: int, n_seeds: int) -> Condition:
    method = Deploy(chip=chip, select=(name,))
    return Condition.of(f"{name}, {slices} slices", {"part": "calibration", "method": method.to_dict()}, range(n_seeds))


def _losses(results: Results, intact: Condition, alone: Mapping[T, Condition]) -> dict[T, float]:
    """Of each matrix alone: what is expected to be lost, nats per token."""
    before = statistics.fmean(result.values["loss"] for result in results.of(intact) if result.values)
    found = {}
    for key, condition in alone.items():
        lost = [result.values["loss"] - before for result in results.of(condition) if result.values]
        if not lost:
            raise InputError(f"{condition.name}: not measured on the chip: {results.of(condition)[0].error}")
        found[key] = expected_of(lost)
    return found


def expected_of(measured: Sequence[float]) -> float:
    """What a loss is expected to be that cannot be below zero, measured some times: the mean of a normal cut off there.

    Of matrices that lose nothing that can be seen, those of which that is least certain are expected to lose more.
    """
    mean = statistics.fmean(measured)
    error = statistics.stdev(measured) / math.sqrt(len(measured)) if len(measured) > 1 else 0.0
    if not error:
        return max(0.0, mean)
    ratio = mean / error
    return mean + error * math.exp(-(ratio**2) / 2 - log_ndtr(ratio)) / math.sqrt(2 * math.pi)


def _judged(name: str, placement: Placement, chip: Chip, n_judged: int) -> Condition:
    seeds = range(_FIRST_JUDGED, _FIRST_JUDGED + n_judged)

    def arguments(seed: int) -> dict[str, Any]:
        method = placement.method(chip, seed)
        return {"part": "evaluation", "method": None if method is None else method.to_dict()}

    return Condition.of(name, arguments, seeds, baseline=INTACT)


def _rows(
    condition: Condition, results: Results, placement: Placement | None, digital: Placement, own: int
) -> list[Row]:
    """Loss, and the perplexity that the mean loss stands for: on a noisy chip a mean of perplexities is its worst."""
    loss = loss_row(condition, results)
    if loss is None:
        return []
    rows = [loss]
    rows.append(dataclasses.replace(loss, metric="perplexity", value=perplexity_of(loss.value), spread=None, unit=""))
    if placement is not None:
        share = placement.energy / digital.energy
        rows.append(Row(metric="energy", condition=condition.name, value=share, unit="of all digital"))
        rows.append(Row(metric="arrays", condition=condition.name, value=placement.arrays))
        choices = placement.choices.values()
        counted = {
            "digital_matrices": sum(choice == DIGITAL for choice in choices),
            "copied_matrices": sum(choice.copies > 1 for choice in choices),
            "sliced_matrices": sum(choice.slices > own for choice in choices),
        }
        rows += [Row(metric=name, condition=condition.name, value=count) for name, count in counted.items()]
    return rows


def _choices(placement: Placement, costs: Costs) -> list[Row]:
    rows = []
    for part in costs.parts:
        choice = placement.choices[part.name]
        alone = {"loss_alone": part.losses[costs.once.slices]}
        rows.append(Row(metric="copies_on_the_chip", condition=part.name, value=choice.copies, details=alone))
        if len(part.losses) > 1:
            of_choice = {} if choice == DIGITAL else {"loss_alone": part.losses[choice.slices]}
            rows.append(Row(metric="slices_of_a_weight", condition=part.name, value=choice.slices, details=of_choice))
    return rows


def _sentences(rows: Sequence[Row], placements: dict[str, Placement], costs: Costs) -> list[str]:
    values = {row.condition: row for row in rows if row.metric == "loss"}
    if PLANNED not in values:
        return []
    planned = placements[PLANNED]
    chosen = list(planned.choices.values())
    words = ", ".join(
        f"{chosen.count(choice)} {'' if choice == DIGITAL else 'on the chip '}{choice}"
        for choice in sorted(set(chosen))
    )
    intact = values[INTACT].value
    sentences = [
        f"Of {len(costs.parts)} matrices: {words}; {planned.energy / costs.all(DIGITAL).energy:.2f} of the digital "
        f"energy, {planned.arrays} arrays."
    ]
    for name, row in values.items():
        if name != INTACT:
            spread = "" if row.spread is None else f" ± {row.spread:.2g}"
            sentences.append(
                f"{name.capitalize()}: {row.value - intact:+.4g}{spread} nats per token, {row.n} instances."
            )
    return sentences


def _map(placement: Placement, model: nn.Module, selector: str) -> HeatMap:
    ranking = Ranking(
        scores={name: float(choice.copies) for name, choice in placement.choices.items()},
        meaning="copies on the chip; 0 is digital",
        unit="copies",
        by="place",
    )
    return heat_map(ranking, sites_of(model, selector), title="Where each matrix is")
