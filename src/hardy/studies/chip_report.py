"""What a report of a chip shows beside perplexity: what layers hold, what cells conduct, what the energy goes into."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from hardy.core.ranking import Ranking
from hardy.core.selection import select as sites_of
from hardy.core.surgery import weight_of
from hardy.hardware.chip import Chip
from hardy.hardware.cost import ENERGIES
from hardy.hardware.crossbar import cell_targets
from hardy.report import Bars, BarSeries, HeatMap, Lines, Report, Row, Series
from hardy.runs.conditions import Result
from hardy.studies.survival_report import heat_map

ERROR = "relative_error "
"""Begins the names of the errors of single matrices among what a cell measured."""
_BINS = 64
_CELLS = 200_000
_MOST_ROWS = 8


def layer_errors(results: Sequence[Result], model: Any, select: str, when: str) -> tuple[list[Row], HeatMap | None]:
    """The relative error of what each matrix holds, a mean over instances: the largest as rows, all as a map."""
    values = [result.values for result in results if result.values]
    names = dict.fromkeys(name for value in values for name in value if name.startswith(ERROR))
    means = {
        name.removeprefix(ERROR): statistics.fmean(value[name] for value in values if name in value) for name in names
    }
    if not any(means.values()):
        return [], None
    ranking = Ranking(scores=means, meaning=f"relative error of what the arrays hold {when}", unit="", by="simulate")
    rows = [
        Row(metric="relative_error", condition=name, value=means[name], n=len(values))
        for name in ranking.top(min(_MOST_ROWS, len(means)))
    ]
    sites = [site for site in sites_of(model, select) if site.name in means]
    return rows, heat_map(ranking, sites, f"Error {when}") if any(site.layer is not None for site in sites) else None


def conductances(model: Any, chip: Chip, select: str, times: dict[str, float]) -> Lines:
    """Shares of cells by what they conduct: as they are told, and at each of `times`, of instance 0.

    From about as many cells of each matrix, `_CELLS` in all.
    """
    device, sites = chip.device, sites_of(model, select)
    each = max(1, _CELLS // 2 // len(sites))
    told = torch.cat([target.flatten() for target in _targets(model, chip, sites, each)])
    normals = torch.randn(device.normals, len(told), generator=torch.Generator().manual_seed(0))
    held = {"as told": told} | {name: device.conductance(told, normals, moment) for name, moment in times.items()}
    low = min(0.0, *(values.min().item() for values in held.values()))
    high = max(device.g_max, *(values.quantile(0.9999).item() for values in held.values()))
    middle = torch.linspace(low, high, _BINS + 1).double()
    x = tuple(((middle[1:] + middle[:-1]) / 2).tolist())
    styles: dict[str, Literal["line", "dashed"]] = {"as told": "dashed"}
    series = []
    for name, values in held.items():
        counts = torch.histc(values, _BINS, low, high) / len(values)
        series.append(Series(label=name, x=x, y=tuple(counts.tolist()), style=styles.get(name, "line")))
    return Lines(
        title="What the cells conduct",
        caption=f"Shares of {len(told):,} cells in {_BINS} classes; a weight is a pair of cells.",
        x_label="conductance, uS",
        y_label="share of cells",
        series=tuple(series),
        log_y=True,
    )


def _targets(model: Any, chip: Chip, sites: Sequence[Any], each: int) -> Iterator[torch.Tensor]:
    for site in sites:
        weight = weight_of(model, site)
        matrix = weight.reshape(-1, weight.shape[-1])
        rows = matrix[:: max(1, len(matrix) * matrix.shape[1] // each)].float()
        for told in cell_targets(rows, chip):
            yield told.flatten(1)[:, : max(1, each // chip.weight_slices)]


def energy_parts(cost: Report) -> Bars:
    """Where the energy of a token goes, of what `model_cost` gave."""
    parts = {row.metric.removeprefix("energy_of_"): row.value for row in cost.rows if row.metric in ENERGIES}
    digital = cost.value("energy", "digital")
    return Bars(
        title="Where the energy goes",
        caption=f"One token in all selected matrices; done digitally their products take {digital / 1e6:.3g} uJ.",
        y_label="uJ per token",
        groups=tuple(parts),
        series=(BarSeries(label="on the chip", values=tuple(value / 1e6 for value in parts.values())),),
    )


def name_of(chip: Chip, given: Any) -> str:
    """What a report calls a chip: as it was named, the preset that it is, or its cells."""
    if isinstance(given, str):
        return given
    known = {preset: Chip.preset(preset) for preset in Chip.presets()}
    same = next((name for name, preset in known.items() if preset == chip), None)
    return same or f"{type(chip.device).__name__} cells in tiles of {chip.tile_rows} x {chip.tile_columns}"


def differs(chip: Chip, given: str) -> str:
    """In words what was changed of a named chip, or ""."""
    if given not in Chip.presets() or Chip.preset(given) == chip:
        return ""
    preset = Chip.preset(given)
    changed = [
        f"{field.name}={getattr(chip, field.name)!r}"
        for field in dataclasses.fields(Chip)
        if getattr(chip, field.name) != getattr(preset, field.name)
    ]
    return " with " + ", ".join(changed)
