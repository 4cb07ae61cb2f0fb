"""All units side by side over widths: area, LUTs, cycles, energy and error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardy import checks
from hardy.report import Lines, Report, Row, Series
from hardy.rtl import tools
from hardy.rtl.single_unit import check, claims, measured, rows
from hardy.rtl.unit_design import Format
from hardy.rtl.units import UNITS, design
from hardy.runs.conditions import Condition
from hardy.runs.study import Study

POINT = 4
"""Bits before the point: a width of 16 has 12 behind it."""
BASELINE = "cordic-radians"
SIMULATED = 500


def compare(
    widths: Sequence[int] = (8, 12, 16, 20, 24, 28, 32),
    out: str | Path | None = None,
    *,
    units: Sequence[str] = tuple(UNITS),
    liberty: str | Path | None = None,
    workers: int | None = 1,
) -> Report:
    """Synthesize every unit at every width, each checked against its integer reference first.

    Args:
        widths: bits, at least 6; four are before the point.
        out: folder that keeps what is finished, so that the same call goes on, and the report.
        units: which, by name.
        liberty: cell library for the area, .lib or .lib.gz; without one areas are transistors.
        workers: processes at once.

    Raises:
        InputError: a width or a unit that there is not, or `out` holds another study.
    """
    for width in widths:
        Format(width, checks.integer("a width", width, at_least=POINT + 1) - POINT)
    for name in units:
        checks.one_of("unit", name, UNITS)
    path = None if liberty is None else str(liberty)
    if path is not None and tools.has_yosys():
        tools.cell_library(path)
    conditions = [
        Condition.of(f"{name}, {width} bits", {"unit": name, "bits": width}, details={"bits": width})
        for width in widths
        for name in units
    ]
    library = None if path is None else Path(path).name
    settings = {"widths": list(widths), "units": list(units), "liberty": library, "versions": tools.versions()}
    study = Study(
        name="rtl-compare",
        run=_measure,
        settings={"liberty": path, "versions": tools.versions()},
        out=None if out is None else Path(out),
    )
    results = study.results(conditions, workers=workers, title="synthesize")
    found: dict[tuple[str, int], Mapping[str, float]] = {}
    for condition in conditions:
        result = results.of(condition)[0]
        if result.values is not None:
            found[result.cell.arguments["unit"], result.cell.arguments["bits"]] = result.values
    report = Report(
        title="Activation units in hardware",
        summary=tuple(_sentences(found, widths)),
        rows=(*_rows(found), *results.failures()),
        figures=tuple(_figures(found, units)),
        settings=settings,
        notes=(*tools.missing(), *claims(next(iter(found.values()), {})), *results.notes()),
    )
    if out is not None:
        report.save(out)
    return report


def _measure(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    format = Format(arguments["bits"], arguments["bits"] - POINT)
    made = design(arguments["unit"], format)
    check(made, format.codes(SIMULATED, seed))
    return measured(made, None, settings["liberty"])


def _rows(found: Mapping[tuple[str, int], Mapping[str, float]]) -> list[Row]:
    made = []
    for (name, bits), values in found.items():
        has_baseline = name != BASELINE and (BASELINE, bits) in found
        baseline = f"{BASELINE}, {bits} bits" if has_baseline else None
        made += rows(f"{name}, {bits} bits", values, baseline, bits=bits)
    return made


def _sentences(found: Mapping[tuple[str, int], Mapping[str, float]], widths: Sequence[int]) -> list[str]:
    told = []
    for bits in widths:
        other = found.get((BASELINE, bits), {})
        for squarer in ("folded", "generic"):
            quad = found.get((f"quad-{squarer}", bits), {})
            ratios = [
                f"{name} {quad[name] / other[name]:.3f}"
                for name in ("area", "transistors", "luts", "luts without DSP blocks", "latency")
                if name in quad and other.get(name)
            ]
            if ratios:
                told.append(f"At {bits} bits quad-{squarer} has, of a CORDIC in radians: {', '.join(ratios)}.")
        size = "area" if any("area" in values for values in found.values()) else "transistors"
        sizes = {name: v[size] for (name, w), v in found.items() if w == bits and size in v and name != "relu"}
        if sizes:
            least = min(sizes, key=sizes.__getitem__)
            told.append(f"At {bits} bits the smallest in {size}, but for ReLU, is {least}.")
    return told


def _figures(found: Mapping[tuple[str, int], Mapping[str, float]], units: Sequence[str]) -> list[Lines]:
    figures = []
    for metric in ("area", "transistors", "luts", "latency", "energy (model)", "error"):
        lines = []
        for name in units:
            points = sorted((bits, v[metric]) for (unit, bits), v in found.items() if unit == name and metric in v)
            if points:
                x, y = zip(*points, strict=True)
                lines.append(Series(label=name, x=tuple(map(float, x)), y=y))
        if lines:
            figures.append(
                Lines(
                    title=f"{metric} against width",
                    caption="Of each unit; lower is better.",
                    x_label="bits",
                    y_label=metric,
                    series=tuple(lines),
                    log_y=metric != "latency",
                )
            )
    return figures
