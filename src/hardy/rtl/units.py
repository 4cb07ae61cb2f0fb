"""The units there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hardy import checks
from hardy.rtl.bells import finer, gauss, relu, wire
from hardy.rtl.unit_design import Format, Unit
from hardy.rtl.waves import cordic, quad, sine_by_interpolation, sine_by_polynomial, sine_by_table

UNITS: dict[str, Callable[[Format], Unit]] = {
    "quad-generic": partial(quad, squarer="generic"),
    "quad-folded": partial(quad, squarer="folded"),
    "sine-table": sine_by_table,
    "sine-interpolated": sine_by_interpolation,
    "sine-polynomial": sine_by_polynomial,
    "cordic-turns": partial(cordic, angle="turns"),
    "cordic-radians": partial(cordic, angle="radians"),
    "gauss": gauss,
    "wire": wire,
    "finer": finer,
    "relu": relu,
}
SQUARERS = ("folded", "generic")


def design(name: str, format: Format, squarer: str = "folded") -> Unit:
    """The unit of this name; "quad" is quad with the `squarer`.

    Raises:
        InputError: there is no such unit or squarer.
    """
    checks.one_of("squarer", squarer, SQUARERS)
    if name == "quad":
        name = f"quad-{squarer}"
    return UNITS[checks.one_of("unit", name, UNITS)](format)
