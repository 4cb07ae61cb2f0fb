"""Tables and plots of shared fields, robust losses and fits for the page of fields."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness.record import committed, rows
from benchmarks.harness.tables import Cell, of_columns, values_of
from hardy.report import Row
from hardy.report.figures import Lines as Plot
from hardy.report.figures import Series

FAMILIES = ("gradient norm", "sharpness-aware", "perturbed weights")
OF_DEVIATION = "additive, of the deviation"


def minr(name: str = "minr") -> str:
    columns: dict[str, Cell] = {
        "": "{condition}",
        "activation": "{activation}",
        "photos": ("{photos}", "any"),
        "width": "{width}",
        "rate": "{rate}",
        "numbers a photo": "{parameters.value:,.0f}",
        "PSNR": "{psnr:.1f}",
        "separate, as many numbers": ("{psnr_of_separate_at_equal_parameters.value:.1f}", "-"),
        "numbers saved at equal PSNR, %": ("{parameters_saved_at_equal_psnr.value:.0f}", "-"),
    }
    if name == "minr":  # the long one has one seed, and squares that cannot be twice their size
        columns["seeds, ±"] = ("{spread_of_seeds.value:.2f}", "-")
        columns["twice the size"] = ("{psnr_at_twice_the_size:.1f}", "-")
    found = [row for row in rows(name) if row.condition != "cubic interpolation"]
    return of_columns(columns, found, by=("activation", "condition", "photos", "width"))


def minr_100() -> str:
    return minr("minr-100")


def minr_added() -> str:
    """A photo more with the shared part frozen, beside a network of its own."""
    added = [row for row in rows("minr") if row.metric.startswith("added_after_")]
    steps = sorted({int(row.metric.rpartition("_")[2]) for row in added})
    columns: dict[str, Cell] = {
        "": ("added to {photos}", "alone, as wide"),
        "activation": "{activation}",
        **{f"after {step} steps": f"{{added_after_{step}.value:.1f}}" for step in steps},
    }
    return of_columns(columns, added, by=("activation", "photos"))


def minr_plot() -> Plot:
    """PSNR of sines against the numbers stored for a photo."""
    found, series = [row for row in rows("minr") if row.details.get("activation") == "sine"], []
    values = {(row.condition, *_key(row), row.metric): row.value for row in found}
    of = [row for row in found if row.metric == "psnr"]
    lines = {"separate": [row for row in of if row.condition == "separate"]}
    for photos in values_of("photos", of):
        lines[f"shared by {photos}"] = [
            row for row in of if row.condition == "shared" and row.details["photos"] == photos
        ]
    for name, of_name in lines.items():
        points = sorted((values[(row.condition, *_key(row), "parameters")], row.value) for row in of_name)
        x, y = zip(*points, strict=True)
        series.append(Series(label=name, x=x, y=y, style="line" if len(points) > 1 else "points"))
    return Plot(
        title="Shared layers: PSNR against numbers stored for a photo",
        caption="networks of sines, eight squares of 96 x 96; upper left is better",
        x_label="numbers stored for a photo",
        y_label="PSNR [dB]",
        series=tuple(series),
    )


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.details.get(name) for name in ("photos", "width"))


def robust() -> str:
    """What each loss gains at additive noise, at its best strength there, and what that costs without noise."""
    return _gains([row for row in rows("robust-long") if row.details["noise"].startswith(OF_DEVIATION)])


def robust_kinds() -> str:
    """The same at 5 % of other kinds of noise."""
    return _gains(
        [
            row
            for row in rows("robust-long")
            if row.details["noise"].endswith(", 5%") and not row.details["noise"].startswith(OF_DEVIATION)
        ]
    )


def _gains(found: Sequence[Row]) -> str:
    columns: dict[str, Cell] = {
        "signals": "{signals}",
        "width": "{width}",
        "noise": "{noise}",
        "plain, dB": "{at[plain].psnr.value:.1f}",
        **{
            f"{family}: gain (without noise), strength": f"{{at[{family}].gain:+.1f}} "
            f"(-{{at[{family}].lost_without_noise.value:.1f}}), {{at[{family}].strength}}"
            for family in FAMILIES
        },
    }
    return of_columns(columns, found, by=("signals", "width", "noise"))


def hash_grid() -> str:
    columns: dict[str, Cell] = {
        "": "{condition}",
        "numbers": "{parameters.value:,.0f}",
        "rate": "{rate}",
        "PSNR": "{psnr:.1f}",
        "after a fifth of the steps": "{psnr_after_a_fifth.value:.1f}",
        "seconds": "{seconds.value:.1f}",
        "seconds to 30 dB (photos that reach it)": ("{seconds_to_30_db.value:.1f} ({reached})", "-"),
    }
    return of_columns(columns, rows("hash_grid"))


def plots() -> dict[str, Plot]:
    """By the name of the image."""
    return {"minr": minr_plot()} if "minr" in committed() else {}


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "minr": ("minr", minr),
    "minr-100": ("minr-100", minr_100),
    "minr-added": ("minr", minr_added),
    "robust": ("robust-long", robust),
    "robust-kinds": ("robust-long", robust_kinds),
    "hash-grid": ("hash_grid", hash_grid),
}
"""By the name of the block: the result it needs, and what writes it."""
