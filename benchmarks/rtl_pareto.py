"""Quality against area and energy: fields whose activation is a unit of hardware, at several widths.

A field of each activation is fitted to photographs, 48 x 48 and 32 wide; then its activations are computed by the
integer reference of a unit (which equals the hardware bit for bit), everything else in float. Four bits are before the
point, so that what ReLU would take beyond 8 saturates, and periodic units wrap. Area (sky130, before layout) and energy
(OpenSTA's power without wires, times a cycle of 10 ns) are those of the unit alone, and transistors where the library
or OpenSTA is missing; a point that another beats in both is not on the front. FINER and WIRE are not there: their
fields have arguments that these units do not take.

    python -m benchmarks run rtl_pareto [--photos 4] [--size 48] [--width 32] [--steps 300]
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import SHARED, NotMeasuredError, Result, Value, mean_of, rows
from hardy.evaluate import psnr
from hardy.fields import Field, Schedule, Signal, fit_many
from hardy.fields.signals import PEAK
from hardy.report import Lines, Report, Series
from hardy.rtl import Format, Unit, design, synthesis, timing, tools
from hardy.rtl.comparison import POINT
from hardy.rtl.measuring import FEMTOJOULES

PEERS = ("amaranth", "pyosys")
LIBRARY = SHARED / "hw" / "sky130hd_tt.lib.gz"
FRACTIONS = (4, 6, 8, 10, 12)
UNITS = {
    "quad-folded": "quad", "sine-table": "sine", "sine-interpolated": "sine", "sine-polynomial": "sine",
    "cordic-turns": "sine", "gauss": "gauss", "relu": "relu",
}  # fmt: skip


@torch.no_grad()
def drawn(field: Field, signal: Signal, unit: Unit | None) -> float:
    """PSNR in dB with activations by `unit`, or by the field's own function."""
    x, kind = field.activation.encode(signal.coordinates), field.activation
    for number, layer in enumerate(field.layers):
        last = number == len(field.layers) - 1
        x = layer(x) * (1.0 if last else kind.factor(number == 0))
        if not last:
            x = kind.function(x) if unit is None else _by(unit, x, kind.name)
    return psnr(x.clamp(-1, 1), signal.values, PEAK)


def _by(unit: Unit, x: torch.Tensor, kind: str) -> torch.Tensor:
    """`x` through the unit: a phase in quarter periods where the activation is periodic."""
    one, half = unit.format.one, 1 << (unit.format.bits - 1)
    quarters = x * (2 / math.pi) if kind == "sine" else x
    codes = (quarters.double() * one).round().numpy().astype(np.int64)
    wraps = kind in ("sine", "quad")
    codes = (codes + half) % (2 * half) - half if wraps else codes.clip(-half, half - 1)
    values = unit.reference(codes.reshape(-1))["y"].reshape(codes.shape)
    return torch.from_numpy(values / one).to(x.dtype)


def costs(unit: Unit) -> dict[str, Any]:
    """Transistors, area and energy of a result, by the tools that are here."""
    pipeline, module = unit.pipeline(), unit.name.replace("-", "_")
    source = tools.rtlil(pipeline, module, pipeline.ports)
    transistors = synthesis.transistors(source, module)["transistors"]
    found = {"transistors": Value(transistors), "energy (model)": Value(transistors * FEMTOJOULES, "fJ")}
    if LIBRARY.is_file():
        found["area"] = Value(synthesis.standard_cells(source, module, LIBRARY)["area"], "µm²")
        if tools.program("sta"):
            power = timing.timed(source, module, LIBRARY)["power"]
            found["energy (OpenSTA)"] = Value(1000 * power * timing.PERIOD, "fJ")
    return found


def run(*, photos: int = 4, size: int = 48, width: int = 32, steps: int = 300) -> Result:
    if not tools.has_yosys():
        raise NotMeasuredError("yosys is missing: pip install 'hardy-nn[rtl]'")
    signals = [shrunk(file, size) for file in photographs(photos)]
    fitted, found = {}, []
    for kind in sorted(set(UNITS.values())):
        fitted[kind] = [Field(2, 3, hidden_features=width, activation=kind) for _ in signals]
        fit_many(fitted[kind], signals, schedule=Schedule(steps=steps))
        exact = mean_of([drawn(f, s, None) for f, s in zip(fitted[kind], signals, strict=True)], "dB")
        found += rows(f"{kind} in float", psnr=exact)
    points: dict[str, list[dict[str, float]]] = {name: [] for name in UNITS}
    for name, kind in UNITS.items():
        for fraction in FRACTIONS:
            unit = design(name, Format(fraction + POINT, fraction))
            spent = costs(unit)
            quality = mean_of([drawn(f, s, unit) for f, s in zip(fitted[kind], signals, strict=True)], "dB")
            points[name].append({"psnr": quality.value} | {what: cost.value for what, cost in spent.items()})
            details = {"unit": name, "fraction": fraction, "activation": kind}
            found += rows(f"{name}, {fraction} fraction bits", details, psnr=quality, **spent)
            print(f"{name} {fraction}: {quality.value:.2f} dB, {spent['transistors'].value:.0f}", flush=True)
    figures = [
        plotted(points, cost, unit)
        for cost, unit in (("area", "µm²"), ("energy (OpenSTA)", "fJ"), ("transistors", ""))
        if all(cost in point for each in points.values() for point in each)
    ]
    report = Report(title="Fields with activations in hardware", rows=tuple(found), figures=tuple(figures))
    return Result(rows=found, settings={"point": POINT}, seeds=(0,), report=report)


def plotted(points: Mapping[str, Sequence[Mapping[str, float]]], cost: str, unit: str) -> Lines:
    """Quality against one cost, with the front."""
    lines = {name: [(point[cost], point["psnr"]) for point in each] for name, each in points.items()}
    lines["front"] = front([point for each in lines.values() for point in each])
    return Lines(
        title=f"Quality against {cost} of the unit",
        caption="One point for each number of fraction bits, 4 to 12; higher and further left is better.",
        x_label=f"{cost} [{unit}]" if unit else cost,
        y_label="PSNR [dB]",
        series=tuple(
            Series(label=name, x=tuple(x for x, _ in each), y=tuple(y for _, y in each),
                   style="dashed" if name == "front" else "line")
            for name, each in lines.items()
        ),
        log_x=True,
    )  # fmt: skip


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in cost (less) and quality (more), by cost."""
    kept, highest = [], -math.inf
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if quality > highest:
            kept.append((cost, quality))
            highest = quality
    return kept
