"""All units side by side over widths: area, LUTs, cycles, energy and error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardy import checks
from hardy.report import Lines, Report, Row, Series
from hardy.rtl import synthesis, tools
from hardy.rtl.measuring import check_tools, claims, measured, rows, timed
from hardy.rtl.single_unit import check
from hardy.rtl.unit_design import Format
from hardy.rtl.units import UNITS, design
from hardy.runs.conditions import Condition, Results
from hardy.runs.study import Study

POINT = 4
"""Bits before the point: a width of 16 has 12 behind it."""
BASELINE = "cordic-radians"
SIMULATED = 500
PROVEN, PROVING = 8, 60
"""Up to so many bits gates are proven equal to their description, in so many seconds each."""


def compare(
    widths: Sequence[int] = (8, 12, 16, 20, 24, 28, 32),
    out: str | Path | None = None,
    *,
    units: Sequence[str] = tuple(UNITS),
    liberty: str | Path | None = None,
    devices: Sequence[str] = (),
    workers: int | None = 1,
) -> Report:
    """Synthesize every unit at every width, each checked against its integer reference first.

    Args:
        widths: bits, at least 6; four are before the point.
        out: folder that keeps what is finished, so that the same call goes on, and the report.
        units: which, by name.
        liberty: cell library for the area, .lib or .lib.gz; without one areas are transistors.
        devices: of `hardy.rtl.routing.DEVICES` that every unit is routed for.
        workers: processes at once.

    Raises:
        InputError: a width or a unit that there is not, or `out` holds another study.
    """
    for width in widths:
        Format(width, checks.integer("a width", width, at_least=POINT + 1) - POINT)
    for name in units:
        checks.one_of("unit", name, UNITS)
    check_tools(liberty, devices)
    path = None if liberty is None else str(liberty)
    conditions = [
        Condition.of(f"{name}, {width} bits", {"unit": name, "bits": width}, details={"bits": width})
        for width in widths
        for name in units
    ]
    library = None if path is None else Path(path).name
    settings = {"widths": list(widths), "units": list(units), "liberty": library, "devices": list(devices)}
    settings |= {"versions": tools.versions()}
    study = Study(
        name="rtl-compare",
        run=_measure,
        settings={"liberty": path, "devices": list(devices), "versions": tools.versions()},
        out=None if out is None else Path(out),
    )
    results = study.results(conditions, workers=workers, title="synthesize")
    found, failures, notes = _by_unit(results, conditions), results.failures(), results.notes()
    if path is not None and tools.has_yosys() and tools.program("sta"):
        place = None if out is None else Path(out) / "timing"
        study = dataclasses.replace(study, name="rtl-timing", run=_time, out=place)
        results = study.results(conditions, workers=workers, title="time")
        timed_units = _by_unit(results, conditions)
        found = {key: {**values, **timed_units.get(key, {})} for key, values in found.items()}
        failures, notes = [*failures, *results.failures()], [*notes, *results.notes()]
    report = Report(
        title="Activation units in hardware",
        summary=tuple(_sentences(found, widths)),
        rows=(*_rows(found), *failures),
        figures=tuple(_figures(found, units)),
        settings=settings,
        notes=(*tools.missing(), *claims(next(iter(found.values()), {})), *notes),
    )
    if out is not None:
        report.save(out)
    return report


def _measure(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    format = Format(arguments["bits"], arguments["bits"] - POINT)
    made = design(arguments["unit"], format)
    check(made, format.codes(SIMULATED, seed))
    pipeline, module = made.pipeline(), made.name.replace("-", "_")
    found = {"latency": float(pipeline.latency), "error": made.error(format.codes(1 << 16))}
    if tools.has_yosys() and format.bits <= PROVEN:
        source = tools.rtlil(pipeline, module, pipeline.ports)
        found["gates proven equal"] = float(synthesis.equivalent(source, module, pipeline.latency, seconds=PROVING))
    return found | measured(pipeline, module, pipeline.ports, liberty=settings["liberty"], devices=settings["devices"])


def _time(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    made = design(arguments["unit"], Format(arguments["bits"], arguments["bits"] - POINT))
    pipeline, module = made.pipeline(), made.name.replace("-", "_")
    return timed(pipeline, module, pipeline.ports, settings["liberty"])


def _by_unit(results: Results, conditions: Sequence[Condition]) -> dict[tuple[str, int], Mapping[str, float]]:
    """The finished values by unit and bits."""
    found = {}
    for condition in conditions:
        result = results.of(condition)[0]
        if result.values is not None:
            found[result.cell.arguments["unit"], result.cell.arguments["bits"]] = result.values
    return found


def _rows(found: Mapping[tuple[str, int], Mapping[str, float]]) -> list[Row]:
    made = []
    for (name, bits), values in found.items():
        has_baseline = name != BASELINE and (BASELINE, bits) in found
        baseline = f"{BASELINE}, {bits} bits" if has_baseline else None
        made += rows(f"{name}, {bits} bits", values, baseline, unit=name, bits=bits)
    return made


def _sentences(found: Mapping[tuple[str, int], Mapping[str, float]], widths: Sequence[int]) -> list[str]:
    told = []
    for bits in widths:
        other = found.get((BASELINE, bits), {})
        for squarer in ("folded", "generic"):
            quad = found.get((f"quad-{squarer}", bits), {})
            ratios = [
                f"{name} {quad[name] / other[name]:.3f}"
                for name in ("area", "transistors", "luts", "luts without DSP blocks", "latency", "power")
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
    routed = sorted({metric for values in found.values() for metric in values if metric.startswith("fmax")})
    costs = ("area", "transistors", "luts", "latency", "critical path", "energy (model)", "energy (OpenSTA)", "error")
    for metric in (*costs, *routed):
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
                    caption=f"Of each unit; {'higher' if metric in routed else 'lower'} is better.",
                    x_label="bits",
                    y_label=metric,
                    series=tuple(lines),
                    log_y=metric != "latency",
                )
            )
    return figures
