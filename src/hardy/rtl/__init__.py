"""From a trained field to Verilog that is verified bit by bit, with its area, cells and cycles."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from hardy.errors import InputError, install

if TYPE_CHECKING:
    from hardy.rtl.comparison import compare
    from hardy.rtl.exporting import accelerator
    from hardy.rtl.pipeline import Pipeline
    from hardy.rtl.single_unit import unit
    from hardy.rtl.unit_design import Format, Unit
    from hardy.rtl.units import UNITS, design

_HOMES = {
    "comparison": ("compare",),
    "exporting": ("accelerator",),
    "unit_design": ("Format", "Unit"),
    "pipeline": ("Pipeline",),
    "single_unit": ("unit",),
    "units": ("UNITS", "design"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["UNITS", "Format", "Pipeline", "Unit", "accelerator", "compare", "design", "unit"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        if importlib.util.find_spec("amaranth") is None:
            raise InputError(f"hardware is described with amaranth, which is missing: {install('rtl')}")
        return getattr(importlib.import_module(f"hardy.rtl.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'hardy.rtl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
