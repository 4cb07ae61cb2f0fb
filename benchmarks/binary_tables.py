"""What the page of binary networks shows: accuracy by rule and width, training longer, chips, energy, the kernel."""

import dataclasses
from collections.abc import Callable

from benchmarks.harness.record import Record, committed, rows
from benchmarks.harness.tables import Cell, of_columns, values_of
from hardy.report import Row

ONCE, SEEDS, LONG = "binary_training", "binary_training-seeds", "binary_training-long"


def binary_kernel() -> str:
    shapes = ((16, 32), (32, 16), (64, 8), (256, 14))
    columns = {"": "{condition}"}
    columns |= {
        f"{channels} channels, {size} x {size}": f"{{at[channels={channels}].time.value:.0f}} us"
        f" ({{at[channels={channels}].against_int8.value:.2f}})"
        for channels, size in shapes
    }
    return of_columns(columns, rows("binary_kernel"), where={"batch": 1})


def training() -> str:
    """Every rule at every width, and what BWMA's parts and surroundings give at four bits."""
    once, often = ([row for row in rows(name) if "bits" in row.details] for name in (ONCE, SEEDS))
    found = [row for row in often if row.metric == "accuracy"]
    found += [row for row in once if row.metric == "accuracy" and row.details["bits"] != 4]
    found = [_detailed(row, rule=row.condition.rpartition(", ")[0]) for row in found]
    columns: dict[str, Cell] = {"rule": "{rule}"}
    columns |= {f"{n} bits": f"{{at[bits={n}].accuracy:.1f}}" for n in sorted(values_of("bits", found))}
    return of_columns(columns, found, by=("rule",))


def margins() -> str:
    """How far BWMA is ahead of each rule, after the short fine-tuning and, where it was measured, the long one."""
    once, often = ([row for row in rows(name) if row.metric == "points"] for name in (ONCE, SEEDS))
    short = [*(row for row in once if row.details["bits"] != 4), *often]
    columns: dict[str, Cell] = {"points ahead of": "{against}"}
    columns |= {f"{n} bits": f"{{at[bits={n}].points:+.1f}}" for n in sorted(values_of("bits", short))}
    if LONG not in committed():
        return of_columns(columns, short, by=("against",))
    long = [_detailed(row, bits="long") for row in rows(LONG) if row.metric == "points"]
    steps = Record.read(LONG).report.settings["steps"]
    columns[f"4 bits, {steps} steps"] = "{at[bits=long].points.value:+.1f}"
    return of_columns(columns, [*short, *long], by=("against",))


def _detailed(row: Row, **details: str) -> Row:
    return dataclasses.replace(row, details=dict(row.details) | details)


def longer() -> str:
    found = [row for row in rows(LONG) if row.metric == "accuracy"]
    columns: dict[str, Cell] = {"": "{condition}", "accuracy, %": "{accuracy:.1f}", "before, %": "{before:.1f}"}
    return of_columns(columns, found, by=("condition",), order="accuracy")


def chips() -> str:
    found = [row for row in rows("binary_chip") if row.details["part"] == "chips"]
    columns: dict[str, Cell] = {"chip": "{chip}"}
    columns |= {f"{kind}, %": f"{{at[{kind}].accuracy:.1f}}" for kind in dict.fromkeys(row.condition for row in found)}
    return of_columns(columns, found, by=("chip",))


def energy() -> str:
    found = [row for row in rows("binary_chip") if row.details["part"] == "energy"]
    columns: dict[str, Cell] = {
        "activations": "{condition}", "accuracy, %": "{accuracy:.1f}", "energy, nJ an image": "{energy.value:.0f}",
        "latency, us": "{latency.value:.1f}", "area, mm2": "{area.value:.4f}", "weights, bytes": "{bytes.value:.0f}",
    }  # fmt: skip
    return of_columns(columns, found, by=("condition",))


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "binary-kernel": ("binary_kernel", binary_kernel),
    "binary-training": (SEEDS, training),
    "binary-margins": (SEEDS, margins),
    "binary-longer": (LONG, longer),
    "binary-chips": ("binary_chip", chips),
    "binary-energy": ("binary_chip", energy),
}
