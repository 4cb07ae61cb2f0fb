"""A repair of a noisy model: how much perplexity it gives back, and what it costs in hardware.

Controls: the unmodified model, the chip without the repair, and the same repair spent at random (another layer, random
experts; for adapters, the same ones trained without noise). A repair that looks at data looks at the calibration text;
perplexity is measured on the evaluation text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from hardy.analog import (
    Deploy,
    ExpertReplacement,
    HaLoRA,
    HybridProjection,
    RandomReplacement,
    Redundancy,
    RouterCalibration,
)
from hardy.analog.experts import blocks
from hardy.core import selection
from hardy.core.method import ALL_SELECTED, Method, chain
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR
from hardy.core.study import Backend, Cell, Result, Study
from hardy.errors import InputError, near_misses
from hardy.hardware.chip import Chip
from hardy.hardware.cost import model_cost
from hardy.report import Bars, BarSeries, Report, Row
from hardy.studies.adapters import folder_of, measure_adapted, trained_adapters, whole_layers
from hardy.studies.measure import INTACT, perplexity_of, settings_for
from hardy.zoo import load

Repair = Literal["hpd", "romer", "redundancy", "halora"]
NOISY = "on the chip"
CONTROL = "spent at random"
WITHOUT_NOISE = "adapters trained without noise"
RECOVERED = "recovered"
"""Metric: the share, in per cent, of the perplexity that the chip added which a repair takes away again."""
_DEFAULTS = {"hpd": ("ssm.out", "last"), "romer": ("", None), "redundancy": (LINEAR, "0"), "halora": (None, None)}


def repair(
    model: str,
    *,
    by: Repair,
    chip: str | Chip = "reram-wan",
    seeds: int = 10,
    select: str | None = None,
    layers: str | None = None,
    copies: int = 2,
    rank: int = 8,
    steps: int = 200,
    learning_rate: float = 3e-4,
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
            the products of experts are the model's own), "redundancy", or "halora" (adapters trained once, on the
            calibration text, for all chip instances; needs PEFT).
        chip: a chip, or what `Chip.named` takes.
        seeds: chip instances.
        select, layers: what is split, copied or adapted, as in `hardy.core.selection.select`; by default the last
            output projection of a state space, all matrices of the first layer, or all linear layers. Not for romer.
        copies: of redundancy.
        rank, steps, learning_rate: of halora.
        text, out, tokens, window, backend, workers: as in `simulate`.

    Raises:
        InputError: any of these cannot be used, or the model has nothing that this repair is for.
    """
    if by not in get_args(Repair):
        known = get_args(Repair)
        raise InputError(f"repair must be one of {', '.join(known)}, got {by!r}{near_misses(str(by), known)}")
    if type(seeds) is not int or seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds!r}")
    if by == "romer" and (select is not None or layers is not None):
        raise InputError("romer repairs all experts and routers; it takes no selection and no layers")
    chip = Chip.named(chip) if isinstance(chip, str) else chip
    full, chip = chip, chip.without_periphery() if by == "romer" else chip
    select, layers = select or _DEFAULTS[by][0], layers or _DEFAULTS[by][1]
    loaded, _ = load(model)
    settings = settings_for(model, text, tokens, window) | {
        "chip": chip.to_dict(), "repair": by, "select": select, "layers": layers, "copies": copies,
    }  # fmt: skip
    if by == "halora":
        settings |= {"rank": rank, "steps": steps, "learning_rate": learning_rate}
    grid = {INTACT: [Cell(condition=INTACT, arguments={"part": "evaluation", "method": None})]}
    study = Study(name="repair", run=measure_adapted, settings=settings, out=None if out is None else Path(out))
    study.open()
    with tempfile.TemporaryDirectory() as temporary:
        adapters: dict[str, str] = {}
        if by == "halora":
            names = whole_layers(loaded, select, layers)
            method = HaLoRA(chip=chip, rank=rank, select=names)
            below = Path(out or temporary) / "adapters"
            for name, arm in {
                by: method,
                WITHOUT_NOISE: dataclasses.replace(method, chip=None, penalty_weight=0.0),
            }.items():
                facts = {
                    key: settings[key] for key in ("model_sha256", "text_sha256", "window", "steps", "learning_rate")
                }
                folder = folder_of(below, "halora" if arm.chip else "lora", arm, facts)
                fit = {"steps": steps, "learning_rate": learning_rate, "window": settings["window"]}
                trained_adapters(model, text, arm, folder, **fit)
                adapters[name] = str(folder)
        for name, prepared in _methods(loaded, by, chip, select, layers, copies).items():
            grid[name] = [
                Cell(
                    condition=name,
                    arguments={"part": "evaluation", "method": prepared(seed).to_dict()}
                    | ({"adapters": adapters[name]} if name in adapters else {}),
                    seed=seed,
                )
                for seed in range(seeds)
            ]
        cells = [cell for group in grid.values() for cell in group]
        results = study.results(cells, backend=backend, workers=workers, title=f"{model} repaired by {by}")
    found = {result.cell.key: result for result in results}
    rows = [row for name, group in grid.items() if (row := _row(name, [found[cell.key] for cell in group])) is not None]
    values = {row.condition: row.value for row in rows}
    if INTACT not in values or NOISY not in values:
        raise InputError(f"{model} could not be measured: {next(result.error for result in results if result.error)}")
    lost = values[NOISY] - values[INTACT]
    for name in (by, CONTROL, WITHOUT_NOISE):
        if name in values and lost > 0:
            share = (values[NOISY] - values[name]) / lost
            rows.append(Row(metric=RECOVERED, condition=name, value=100 * share, unit="%"))
    notes = [f"{result.cell.condition}, seed {result.cell.seed}: {result.error}" for result in results if result.error]
    if lost <= 0:
        notes.insert(0, "The chip took no perplexity away: there is nothing to recover.")
    report = Report(
        title=f"{model}: {by} on {type(chip.device).__name__} cells",
        rows=(*rows, *_costs(loaded, by, full, select, layers, copies, rank)),
        settings=dict(study.settings),
        notes=tuple(notes),
    )
    if out is not None:
        report.save(out)
    return report


def _methods(
    model: Any, by: Repair, chip: Chip, select: str | None, layers: str | None, copies: int
) -> dict[str, Callable[[int], Method]]:
    """The conditions, each a method for a chip instance."""

    def deploy(seed: int) -> Deploy:
        return Deploy(chip=chip, seed=seed)

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
    same = [site for site in selection.select(model, select) if site.name not in {chosen.name for chosen in sites}]
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


def _costs(
    model: Any, by: Repair, chip: Chip, select: str | None, layers: str | None, copies: int, rank: int
) -> list[Row]:
    """What the repair adds: arrays, digital multiplications per token, and bits of digital memory."""
    macs = bits = arrays = 0.0
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
        method = (
            HybridProjection(select=select, layers=layers)
            if by == "hpd"
            else Redundancy(copies=copies, select=select, layers=layers)
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


def repairs(model: str, by: Sequence[str], *, out: str | Path | None = None, seeds: int = 10, **options: Any) -> Report:
    """Several repairs in one table: perplexity recovered against arrays, digital multiplications and memory.

    Args:
        model: a zoo name, a Hugging Face folder or a hub id.
        by: the repairs, "suited" for those without training that the model has something for.
        out: folder of the report, and below it of one study for each repair.
        seeds: chip instances.
        options: as `repair` takes them.

    Raises:
        InputError: as `repair`, or no repair suits the model.
    """
    chosen = checked(load(model)[0], by)
    if not chosen:
        raise InputError(f"no repair was named or suits {model}; there are {', '.join(get_args(Repair))}")
    found = {}
    for name in chosen:
        folder = None if out is None else Path(out) / name
        found[name] = repair(model, by=name, out=folder, seeds=seeds, **options)
    rows = [row for name, report in found.items() for row in _recovered(name, report)]
    kinds = {"the repair": tuple(found), "its control at equal cost": tuple(f"{name}, control" for name in found)}
    values = {row.condition: row.value for row in rows}
    series = [
        BarSeries(label=kind, values=tuple(values.get(name, math.nan) for name in names))
        for kind, names in kinds.items()
    ]
    report = Report(
        title=f"Repairs of {model} on a chip",
        rows=tuple(rows),
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
        notes=tuple(f"{name}: {note}" for name, report in found.items() for note in report.notes),
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
            "SRAM bits": report.value("sram_bits", name),
        }
        condition = name if row.condition == name else f"{name}, control"
        baseline = None if row.condition == name or not report.select(RECOVERED, name) else name
        rows.append(dataclasses.replace(row, condition=condition, details=details, n=perplexity.n, baseline=baseline))
    return rows
