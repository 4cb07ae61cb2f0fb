"""A language model on a chip: perplexity over chip instances and over time, and what the converters alone cost.

Controls: the unmodified model, and the same chip with perfect cells, which leaves its converters. Where a chip has
calibrated ranges they are found on the calibration text; perplexity is measured on the evaluation text.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardy import checks
from hardy.analog.deploy import Deploy
from hardy.core.selection import LINEAR
from hardy.deprecation import renamed
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.cost import model_cost
from hardy.hardware.device import AdditiveDevice
from hardy.report import Report, Row
from hardy.report.figures import Lines, Series
from hardy.runs.conditions import Result, curve
from hardy.runs.workers import Backend
from hardy.studies.chip_report import conductances, differs, energy_parts, layer_errors, name_of
from hardy.studies.measure import INTACT, condition, dense, loss_row, perplexity_row, study_of, unmodified
from hardy.zoo.subject import Source

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31557600.0}
CHIP_MEMORY = 4.0
"""Sizes of the model that its weights on arrays take: clean and held, in float32, and what programming needs."""
_PERFECT = "perfect cells"
"""Condition in which only the converters of the chip are left."""


def seconds_of(time: str | float) -> float:
    """Seconds from "90", "90s", "15min", "2h", "1d", "1w" or "1y" (365.25 days).

    Raises:
        InputError: it is no such time.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([a-z]*)\s*", str(time).lower())
    if found is None or found[2] not in _UNITS or not math.isfinite(float(found[1])):
        raise InputError(f"time must be a number of at least 0 with s, m, h, d, w or y, such as 1d, got {time!r}")
    return float(found[1]) * _UNITS[found[2]]


@renamed(seeds="n_seeds")
def simulate(
    model: Source = "tiny-llama",
    *,
    chip: str | Chip = "reram-wan",
    times: Sequence[str | float] = ("0",),
    n_seeds: int = 10,
    adc_range: float | None = None,
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
    """Perplexity of `model` on chip instances at several times after programming.

    Args:
        model: a subject, or what `hardy.zoo.Subject.of` takes: a name, folder, file or hub id, or (model, tokenizer).
        chip: a chip, or what `Chip.named` takes: a preset, a JSON file, or a CSV table of measured cells.
        times: since programming, as `seconds_of` takes them.
        n_seeds: chip instances at each time.
        adc_range: a fixed range of the output converters, in cells; None for the chip's own, which presets calibrate.
        select: the layers on the chip, as in `hardy.core.selection.select`.
        text: a UTF-8 file; its second half is measured on, its first calibrates. By default held-out
            standard-library modules.
        out: folder of the study and its report; finished cells are kept there and the same call resumes. None keeps
            nothing.
        tokens, window, device, dtype: as in `hardy.zoo.Subject.of`.
        backend, workers: where the cells run, as in `Study.results`.

    Raises:
        InputError: any of these cannot be used; a time at which nothing is known about the cells among them.
    """
    given = chip
    chip = Chip.named(chip) if isinstance(chip, str) else chip
    chip = chip if adc_range is None else dataclasses.replace(chip, adc_range=adc_range)
    n_seeds = checks.integer("n_seeds", n_seeds, at_least=1)
    moments = {str(time): seconds_of(time) for time in times}
    if not moments:
        raise InputError("times must hold at least one time, got none")
    methods = {f"after {time}": Deploy(chip=chip, seconds=moment, select=select) for time, moment in moments.items()}
    for moment in moments.values():  # before anything long begins
        _check_time(chip, moment)
    subject = dense(model, text=text, tokens=tokens, window=window, device=device, dtype=dtype)
    next(iter(methods.values())).check_model(subject.model)
    study = study_of(subject, "simulate", out=out, weights=CHIP_MEMORY, chip=chip.to_dict(), select=select)
    conditions = [unmodified()]
    if chip.has_range:
        perfect = dataclasses.replace(
            chip, device=AdditiveDevice(), output_noise=0.0, stuck_low=0.0, stuck_high=0.0, wire_resistance=0.0
        )
        conditions.append(condition(_PERFECT, Deploy(chip=perfect, select=select)))
    conditions += [condition(name, method, range(n_seeds)) for name, method in methods.items()]
    results = study.results(conditions, backend=backend, workers=workers, title=f"{subject.name} on a chip")
    results.needed(conditions[0])
    rows = [row for each in conditions if (row := perplexity_row(each, results)) is not None]
    last = next(reversed(methods))
    errors, error_map = layer_errors(results.of(conditions[-1]), subject.model, select, last)
    cost = _cost(subject.model, chip, select)
    name = name_of(chip, given) + (differs(chip, given) if isinstance(given, str) else "")
    bars = None if cost is None else energy_parts(cost)
    cells = conductances(subject.model, chip, select, {name: method.seconds for name, method in methods.items()})
    report = Report(
        title=f"{subject.name} on the chip {name}",
        summary=tuple(_sentences({row.condition: row for row in rows}, methods)),
        rows=(
            *rows,
            *(row for each in conditions if (row := loss_row(each, results)) is not None),
            *results.failures(),
            *_clipped([result for each in conditions if each.name in methods for result in results.of(each)]),
            *errors,
            *(() if cost is None else cost.select(condition="all selected weights")),
            *(() if cost is None else cost.select(condition="digital")),
            *(() if cost is None else cost.select("buffer_energy")),
        ),
        figures=tuple(figure for figure in (*_figures(rows, methods), error_map, cells, bars) if figure is not None),
        settings=dict(study.settings),
        notes=(*subject.notes, *results.notes(), *(() if cost is None else cost.notes[1:])),  # what is left out
    )
    if out is not None:
        report.save(out)
    return report


def _clipped(results: Sequence[Result]) -> list[Row]:
    """Shares of conversions beyond the range: of all layers, and of the layers where it is largest."""
    values = [result.values for result in results if result.values]
    names = {name for value in values for name in value if name.startswith("clipped_")}
    means = {name: statistics.fmean(value[name] for value in values) for name in names}
    rows = []
    for name in sorted(means, key=means.__getitem__, reverse=True):
        metric, _, layer = name.partition(" ")
        if not layer:
            rows.insert(0, Row(metric=metric, condition="all selected weights", value=means[name], n=len(values)))
        elif means[name] and sum(row.metric == metric for row in rows) < _WORST:
            rows.append(Row(metric=metric, condition=layer, value=means[name], n=len(values)))
    return rows


_WORST = 8


def _check_time(chip: Chip, seconds: float) -> None:
    import torch

    chip.device.conductance(torch.full((1,), chip.device.g_max), torch.zeros(chip.device.normals, 1), seconds)


def _sentences(rows: dict[str, Row], methods: dict[str, Deploy]) -> list[str]:
    intact = rows[INTACT].value
    sentences = []
    for name in (_PERFECT, *methods):
        if (row := rows.get(name)) is not None:
            spread = "" if row.spread is None else f" ± {row.spread:.3g} over {row.n} chip instances"
            times = f"{row.value / intact:.3g} times that of the unmodified model ({intact:.4g})"
            sentences.append(f"{name.capitalize()}: perplexity {row.value:.4g}{spread}, {times}.")
    return sentences


def _figures(rows: Sequence[Row], methods: dict[str, Deploy]) -> tuple[Lines, ...]:
    at = [(methods[row.condition].seconds, row) for row in rows if row.condition in methods]
    if len(at) < 2:
        return ()
    x = tuple(sorted(moment for moment, _ in at))
    flat = [row for row in rows if row.condition in {INTACT, _PERFECT}]
    return (
        Lines(
            title="Perplexity after programming",
            caption="Of the mean loss over chip instances, and its standard deviation.",
            x_label="seconds since programming",
            y_label="perplexity",
            series=(
                curve("on the chip", at),
                *(Series(label=row.condition, x=x, y=(row.value,) * len(x), style="dashed") for row in flat),
            ),
            log_x=True,
            log_y=True,
        ),
    )


def _cost(model: Any, chip: Chip, select: str) -> Report | None:
    """Arrays, energy and time for a token, where the cost of the chip's ADC is known."""
    known = chip.adc_bits is not None and chip.adc_bits <= 12
    return model_cost(model, chip, select=select) if known else None
