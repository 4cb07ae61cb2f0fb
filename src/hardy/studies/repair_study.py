"""A repair of a noisy model: how much perplexity it gives back, and what it costs in hardware.

Controls: the unmodified model, the chip without the repair, and the same repair spent at random (another layer, random
experts; for adapters, the same ones trained without noise). A repair that looks at data looks at the calibration text;
perplexity is measured on the evaluation text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from hardy import checks
from hardy.analog import HaLoRA
from hardy.analog.experts import blocks
from hardy.core import selection
from hardy.core.selection import LINEAR
from hardy.deprecation import renamed
from hardy.errors import InputError, near_misses
from hardy.hardware.chip import Chip
from hardy.report import Bars, BarSeries, Report, Row
from hardy.runs.conditions import FAILED, Condition
from hardy.runs.workers import Backend
from hardy.studies.adapters import measure_adapted, trained_adapters, whole_layers
from hardy.studies.chip_study import CHIP_MEMORY
from hardy.studies.measure import INTACT, dense, perplexity_row, study_of, unmodified
from hardy.studies.repair_methods import CONTROL, NOISY, WITHOUT_NOISE, Repair, bases_of, costs_of, methods_of
from hardy.zoo.subject import Source

RECOVERED = "recovered"
"""Metric: the share, in per cent, of the perplexity that the chip added which a repair takes away again."""
_DEFAULTS = {"hpd": ("ssm.out", None), "romer": ("", None), "redundancy": (LINEAR, "0"), "halora": (None, None)}


@renamed(seeds="n_seeds")
def repair(
    model: Source,
    *,
    by: Repair,
    chip: str | Chip = "reram-wan",
    n_seeds: int = 10,
    select: str | None = None,
    layers: str | None = None,
    copies: int = 2,
    rank: int = 8,
    steps: int = 200,
    learning_rate: float = 3e-4,
    text: str | None = None,
    out: str | Path | None = None,
    tokens: int | None = None,
    window: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    backend: Backend = "local",
    workers: int | None = None,
) -> Report:
    """Perplexity recovered against extra hardware.

    Args:
        model: a subject, or what `hardy.zoo.Subject.of` takes: a name, folder, file or hub id, or (model, tokenizer).
        by: "hpd" (of what is selected, the layers whose error it makes smaller, by the better of two rotations),
            "romer" (every chip instance is repaired for itself; arrays without converters and read noise, as the
            products of experts are the model's own), "redundancy", or "halora" (adapters trained once, on the
            calibration text, for all chip instances; needs PEFT).
        chip: a chip, or what `Chip.named` takes.
        n_seeds: chip instances.
        select, layers: what is split, copied or adapted, as in `hardy.core.selection.select`; by default the output
            projections of a state space, all matrices of the first layer, or all linear layers. Not for romer.
        copies: of redundancy.
        rank, steps, learning_rate: of halora.
        text, out, tokens, window, device, dtype, backend, workers: as in `simulate`.

    Raises:
        InputError: any of these cannot be used, or the model has nothing that this repair is for.
    """
    if by not in get_args(Repair):
        known = get_args(Repair)
        raise InputError(f"repair must be one of {', '.join(known)}, got {by!r}{near_misses(str(by), known)}")
    n_seeds = checks.integer("n_seeds", n_seeds, at_least=1)
    _check_selection(by, select, layers)
    chip = Chip.named(chip) if isinstance(chip, str) else chip
    full, chip = chip, _chip_for(by, chip)
    select, layers = select or _DEFAULTS[by][0], layers or _DEFAULTS[by][1]
    subject = dense(model, text=text, tokens=tokens, window=window, device=device, dtype=dtype)
    settings: dict[str, Any] = {
        "chip": chip.to_dict(), "repair": by, "select": select, "layers": layers, "copies": copies,
    }  # fmt: skip
    fit: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate}
    if by == "halora":
        settings |= {"rank": rank, **fit}
    study = study_of(subject, "repair", out=out, run=measure_adapted, weights=CHIP_MEMORY, **settings)
    methods_of(subject.model, by, chip, select, layers, copies)  # refused before anything long begins
    bases = bases_of(subject, chip, select, layers) if by == "hpd" else None
    methods = methods_of(subject.model, by, chip, select, layers, copies, bases)
    costs = costs_of(subject.model, by, full, select, layers, copies, rank, bases)
    study.open()
    conditions = [unmodified()]
    with tempfile.TemporaryDirectory() as temporary:
        adapters: dict[str, str] = {}
        if by == "halora":
            method = HaLoRA(chip=chip, rank=rank, select=whole_layers(subject.model, select, layers))
            plain = dataclasses.replace(method, chip=None, penalty_weight=0.0)
            for name, arm in {by: method, WITHOUT_NOISE: plain}.items():
                adapters[name] = str(trained_adapters(subject, arm, Path(out or temporary) / "adapters", **fit))
        for name, prepared in methods.items():
            added = {"adapters": adapters[name]} if name in adapters else {}
            conditions.append(
                Condition.of(
                    name,
                    lambda seed, method=prepared, added=added: (
                        {"part": "evaluation", "method": method(seed).to_dict()} | added
                    ),
                    range(n_seeds),
                    baseline=INTACT,
                )
            )
        results = study.results(conditions, backend=backend, workers=workers, title=f"{subject.name} repaired by {by}")
    for each in conditions[:2]:  # unmodified, and on the chip without a repair
        results.needed(each)
    rows = [
        dataclasses.replace(row, details={})
        for each in conditions
        if (row := perplexity_row(each, results)) is not None
    ]
    values = {row.condition: row.value for row in rows}
    lost, said = values[NOISY] - values[INTACT], []
    for name in (by, CONTROL, WITHOUT_NOISE):
        if name in values and lost > 0:
            share = (values[NOISY] - values[name]) / lost
            rows.append(Row(metric=RECOVERED, condition=name, value=100 * share, unit="%"))
            said.append(f"{name} recovers {100 * share:.0f} %")
    summary = f"Perplexity {values[INTACT]:.4g} unmodified, {values[NOISY]:.4g} on the chip" + (
        f"; of what it adds {', '.join(said)}." if said else "."
    )
    nothing = ("The chip took no perplexity away: there is nothing to recover.",) if lost <= 0 else ()
    report = Report(
        title=f"{subject.name}: {by} on {type(chip.device).__name__} cells",
        summary=(summary,),
        rows=(*rows, *results.failures(), *costs),
        settings=dict(study.settings),
        notes=(*subject.notes, *nothing, *results.notes()),
    )
    if out is not None:
        report.save(out)
    return report


def check_repair(
    model: Any, by: Repair, chip: Chip, *, select: str | None = None, layers: str | None = None, copies: int = 2,
    **_: Any,
) -> None:  # fmt: skip
    """Raise the `InputError` that `repair` would for this model, chip and selection, and measure nothing."""
    _check_selection(by, select, layers)
    select, layers = select or _DEFAULTS[by][0], layers or _DEFAULTS[by][1]
    methods_of(model, by, _chip_for(by, chip), select, layers, copies)
    costs_of(model, by, chip, select, layers, copies, rank=1)


def _check_selection(by: Repair, select: str | None, layers: str | None) -> None:
    if by == "romer" and (select is not None or layers is not None):
        raise InputError("romer repairs all experts and routers; it takes no selection and no layers")


def _chip_for(by: Repair, chip: Chip) -> Chip:
    return chip.without_periphery() if by == "romer" else chip


@renamed(seeds="n_seeds")
def repairs(
    model: Source,
    by: Sequence[str],
    *,
    out: str | Path | None = None,
    n_seeds: int = 10,
    text: str | None = None,
    tokens: int | None = None,
    window: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> Report:
    """Several repairs in one table: perplexity recovered against arrays, digital multiplications and memory.

    Args:
        model: a subject, or what `hardy.zoo.Subject.of` takes.
        by: the repairs, "suited" for those without training that the model has something for.
        out: folder of the report, and below it of one study for each repair.
        n_seeds: chip instances.
        text, tokens, window, device, dtype: as in `simulate`.
        options: the others that `repair` takes.

    Raises:
        InputError: as `repair`, or no repair suits the model.
    """
    checked(None, [name for name in by if name != "suited"])  # before the model is loaded
    subject = dense(model, text=text, tokens=tokens, window=window, device=device, dtype=dtype)
    chosen = checked(subject.model, by)
    if not chosen:
        raise InputError(f"no repair was named or suits {subject.name}; there are {', '.join(get_args(Repair))}")
    chip = options.get("chip", "reram-wan")
    options["chip"] = Chip.named(chip) if isinstance(chip, str) else chip
    for name in chosen:  # before the first of them is measured
        check_repair(subject.model, name, **options)
    found = {}
    for name in chosen:
        folder = None if out is None else Path(out) / name
        found[name] = repair(subject, by=name, out=folder, n_seeds=n_seeds, **options)
    rows = [row for name, report in found.items() for row in _recovered(name, report)]
    failures = [
        dataclasses.replace(row, condition=f"{name}: {row.condition}")
        for name, report in found.items()
        for row in report.select(FAILED)
    ]
    kinds = {"the repair": tuple(found), "its control at equal cost": tuple(f"{name}, control" for name in found)}
    values = {row.condition: row.value for row in rows}
    series = [
        BarSeries(label=kind, values=tuple(values.get(name, math.nan) for name in names))
        for kind, names in kinds.items()
    ]
    said = [
        f"{name} {values[name]:.0f} %" + (f" (its control {values[control]:.0f} %)" if control in values else "")
        for name, control in zip(*kinds.values(), strict=True)
        if name in values
    ]
    report = Report(
        title=f"Repairs of {subject.name} on a chip",
        summary=(f"Recovered of the perplexity that the chip adds: {', '.join(said) or 'nothing could be said'}.",),
        rows=(*rows, *failures),
        figures=(
            Bars(
                title="Perplexity recovered",
                caption="Share of what the chip added, beside each repair its control; below 0 it hurts.",
                y_label="recovered [%]",
                groups=tuple(found),
                series=tuple(series),
            ),
        ),
        settings={name: dict(report.settings) for name, report in found.items()},
        notes=(
            *subject.notes,
            *(f"{name}: {n}" for name, report in found.items() for n in report.notes if n not in subject.notes),
        ),
    )
    if out is not None:
        report.save(out)
    return report


def checked(model: Any, by: Sequence[str]) -> tuple[Repair, ...]:
    """The repairs of these names, each once; for "suited" those that suit the model.

    Raises:
        InputError: there is no such repair.
    """
    known = get_args(Repair)
    for name in by:
        if name not in known and name != "suited":
            raise InputError(
                f"there is no repair {name!r}{near_misses(name, known) or '; there are ' + ', '.join(known)}"
            )
    names = [each for name in by for each in (suited(model) if name == "suited" else (name,))]
    return tuple(dict.fromkeys(names))  # pyright: ignore[reportReturnType]


def suited(model: Any) -> tuple[Repair, ...]:
    """The repairs without training that a model has something for."""
    found: list[Repair] = []
    for name, has in (
        ("redundancy", lambda: selection.select(model, LINEAR, layers="0")),
        ("hpd", lambda: selection.select(model, "ssm.out")),
        ("romer", lambda: blocks(model)),
    ):
        with contextlib.suppress(InputError):
            has()
            found.append(name)  # pyright: ignore[reportArgumentType]
    return tuple(found)


def _recovered(name: str, report: Report) -> list[Row]:
    """What one repair gave back and what it costs, and the same of its control."""
    rows = []
    for row in report.select(RECOVERED):
        perplexity = report.select("perplexity", row.condition)[0]
        details = {
            "arrays": report.value("extra_arrays", name),
            "digital MACs": report.value("digital_macs", name),
            "digital additions": report.value("digital_additions", name),
            "SRAM bits": report.value("sram_bits", name),
        }
        condition = name if row.condition == name else f"{name}, control"
        baseline = None if row.condition == name or not report.select(RECOVERED, name) else name
        rows.append(dataclasses.replace(row, condition=condition, details=details, n=perplexity.n, baseline=baseline))
    return rows
