"""How numbers and names look to a reader: the same in terminal, Markdown, HTML and plots."""

import math
from collections.abc import Sequence

from hardy.errors import printable


def format_number(value: float | int) -> str:
    """`value` with four significant digits: 5.312, 1234, 1.235e+06, 2.5e-05, ∞. Whole `int`s are shown in full."""
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if 1000 <= abs(value) < 999_999.5:
        return f"{value:.0f}"
    return f"{value:.4g}"


def format_measurement(value: float, spread: float | None) -> str:
    """`value ± spread`, the spread with two significant digits and the value to the same decimal: 5.312 ± 0.021."""
    if spread is None:
        return format_number(value)
    if math.isfinite(value) and math.isfinite(spread) and spread > 0 and abs(value) < 1e6:
        decimals = max(0, 1 - math.floor(math.log10(spread)))
        if decimals <= 5:
            return f"{value:.{decimals}f} ± {spread:.{decimals}f}"
    return f"{format_number(value)} ± {format_number(spread)}"


def format_cell(value: object) -> str:
    """Any value of a table: numbers by `format_number`, None as nothing, lists joined by commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, list | tuple):
        return ", ".join(format_cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{printable(str(key))} {format_cell(item)}" for key, item in value.items())
    return printable(str(value))


def legend_shape(labels: Sequence[str]) -> tuple[int, int]:
    """Columns and rows of a legend, as many columns as there is room for."""
    columns = max(1, min(len(labels), 3, 66 // (max(map(len, labels), default=0) + 7)))
    return columns, math.ceil(len(labels) / columns)
