"""Tables and plots of the RTL room's results for its page."""

from collections.abc import Callable

from benchmarks.harness.record import Record, committed, rows
from benchmarks.harness.tables import Cell, of_columns, values_of
from hardy.report.figures import Lines as Plot

FRACTIONS = (4, 6, 8, 10, 12)


def units() -> str:
    """Every unit at 16 and at 32 bits."""
    columns: dict[str, Cell] = {"unit": "{unit}"}
    for bits in (16, 32):
        at = f"at[bits={bits}]"
        columns |= {
            f"{bits} bits: area, µm²": f"{{{at}.area.value:,.0f}}",
            f"LUT + DSP, {bits}": f"{{{at}.luts.value:,.0f}} + {{{at}.dsps.value:.0f}}",
            f"LUT alone, {bits}": f"{{{at}.luts without DSP blocks.value:,.0f}}",
            f"cycles, {bits}": f"{{{at}.latency.value:.0f}}",
            f"path, ns, {bits}": f"{{{at}.critical path.value:.1f}}",
            f"fJ, {bits}": f"{{{at}.energy (OpenSTA).value:,.0f}}",
            f"error, LSB, {bits}": f"{{{at}.error.value:.2g}}",
        }
    return of_columns(columns, rows("rtl"), by=("unit",))


def widths() -> str:
    """Area over widths."""
    columns: dict[str, Cell] = {"area, µm²": "{unit}"}
    for bits in sorted(values_of("bits", rows("rtl"))):
        columns[f"{bits} bits"] = f"{{at[bits={bits}].area.value:,.0f}}"
    return of_columns(columns, rows("rtl"), by=("unit",))


def precisions() -> str:
    columns: dict[str, Cell] = {
        "": "{condition}",
        "PSNR, dB": "{psnr:.2f}",
        "cycles of a pixel": "{cycles of a pixel.value:.0f}",
        "of them the transform": "{cycles of the transform.value:.0f}",
        "area, µm²": "{area without memories.value:,.0f}",
        "of it the transform": "{area of the transform.value:,.0f}",
        "LUT + DSP": "{LUTs.value:,.0f} + {DSP blocks.value:.0f}",
        "memory, bits": "{memory.value:,.0f}",
        "area of the lanes": "{area of the lanes.value:,.0f}",
        "path of a lane, ns": "{critical path of a lane.value:.1f}",
        "energy of a pixel (model), pJ": "{energy of a pixel.value:,.0f}",
        "of it the transform, pJ": "{energy of the transform.value:,.0f}",
        "energy of the products (OpenSTA), pJ": "{energy of the products (OpenSTA).value:,.0f}",
    }
    return of_columns(columns, rows("rtl_fields"))


def pictures() -> str:
    columns: dict[str, Cell] = {
        "field": "{condition}",
        "pixels equal": "{pixels_equal.value:.0f} of {pixels.value:.0f}",
        "cycles of a pixel": "{cycles_of_a_pixel.value:.0f}",
        "wrong bits caught": "{bits_caught.value:.0f} of {bits_caught.n}",
        "PSNR, dB": "{psnr.value:.2f}",
        "seconds to generate": "{time_to_generate.value:.1f}",
        "to compile": "{time_to_compile.value:.1f}",
        "to draw": "{time_to_draw.value:.1f}",
        "by": "{simulator}",
    }
    return of_columns(columns, rows("rtl_verilog"))


def quality() -> str:
    """PSNR and area at some fraction bits."""
    columns: dict[str, Cell] = {"unit": "{unit}"}
    for fraction in FRACTIONS:
        at = f"at[fraction={fraction}]"
        columns[f"{fraction} bits: dB, µm²"] = f"{{{at}.psnr.value:.1f}}, {{{at}.area.value:,.0f}}"
    return of_columns(columns, rows("rtl_pareto"), by=("unit",), where={"fraction": FRACTIONS})


def plots() -> dict[str, Plot]:
    """By the name of the image; none before they are measured."""
    if "rtl_pareto" not in committed():
        return {}
    found = Record.read("rtl_pareto").report.figures
    names = "activations-area", "activations-energy"
    return {name: plot for name, plot in zip(names, found, strict=False) if isinstance(plot, Plot)}


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "rtl-units": ("rtl", units),
    "rtl-widths": ("rtl", widths),
    "rtl-precisions": ("rtl_fields", precisions),
    "rtl-pictures": ("rtl_verilog", pictures),
    "rtl-quality": ("rtl_pareto", quality),
}
"""By the name of the block: the result it needs, and what writes it."""
