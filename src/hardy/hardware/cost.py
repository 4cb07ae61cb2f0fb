"""What a model costs on a chip: arrays, cycles, energy and the share of the ADCs, in closed form.

Sources: cell and ADC figures are those of MNSIM 2.0's tables (8-bit ADC: ISAAC, 2 mW at 1.28 GS/s); driver and
shift-and-add are ISAAC's (Shafiee et al., ISCA 2016, table of one in-situ unit: 1024 one-bit drivers take 4 mW over
cycles of 100 ns, four shift-and-add units 0.2 mW for eight ADCs); digital additions and multiplications are Horowitz,
ISSCC 2014 (45 nm, 32-bit integer addition, 16-bit floating-point multiplication and addition). These are figures of
different technologies put together: they order designs and show what dominates, and are no forecast for a product.
A ramp converter takes a step for each of its codes, at 1 GHz as in the accelerators of Xiao et al. (IEEE Circuits and
Systems Magazine, 2022), for all outputs of a tile at once. Buffers and interconnect are not in the sums: `model_cost`
gives a range of them beside, from Horowitz's table of memories. Control, clocks and memory outside are left out.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from hardy import checks
from hardy.core import selection
from hardy.core.layers import Layers
from hardy.core.selection import LINEAR, Selector, Site
from hardy.core.surgery import weight_of
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.report import Report, Row

# Energy in pJ of a byte read from or written to a memory of 8 KB, and of 1 MB, whose wires are most of it (Horowitz).
_BUFFERS = (1.25, 12.5)

# Bits -> (energy of a conversion in pJ, rate in conversions per ns, area in um^2 or None where the table has none).
_ADC = {4: (0.70, 1.0, 500.0), 6: (1.26, 1.0, 580.0), 8: (1.6, 1.28, 1200.0), 10: (4.6, 1.5, None)}


ENERGIES = {
    "energy_of_cells": "cell",
    "energy_of_drivers": "driver",
    "energy_of_converters": "adc",
    "energy_of_sums": "digital",
}
"""Metrics of the parts of the energy, and the fields of `Cost` that they are the sums of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Energies in pJ and times in ns of the parts of a chip; the defaults are those of the sources above.

    Args:
        driver_bits: bits of the input that are on the rows at once, where the chip's `input_slice_bits` do not say; the
            rest follows, bit by bit.
        columns_per_adc: outputs that take turns at one ADC; a ramp converts all outputs of a tile at once.
        cell: energy of reading one cell once.
        driver: energy of one row driver for one cycle.
        shift_add: energy of taking one conversion into the running sum.
        add: energy of one digital addition of partial sums.
        multiply_add: energy of one digital multiplication and addition, for what stays digital.
        read_time: of the cells, before the ADC begins.
        ramp_step: energy of one output for one step of a ramp; None where it is not known, and is left out.
        ramp_time: of one step.
    """

    driver_bits: int = 1
    columns_per_adc: int = 128
    cell: float = 1.12e-3
    driver: float = 0.39
    shift_add: float = 0.02
    add: float = 0.1
    multiply_add: float = 1.5
    read_time: float = 3.16
    ramp_step: float | None = None
    ramp_time: float = 1.0

    def __post_init__(self) -> None:
        for name in ("driver_bits", "columns_per_adc"):
            checks.integer(name, getattr(self, name), at_least=1)
        for name in ("cell", "driver", "shift_add", "add", "multiply_add", "read_time", "ramp_time", "ramp_step"):
            if name != "ramp_step" or self.ramp_step is not None:
                checks.number(name, getattr(self, name), at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one product of a matrix with a vector costs.

    Attributes:
        arrays: tiles, each of tile_rows x tile_columns pairs of cells.
        utilisation: share of their pairs that hold a weight.
        cycles: conversions one after the other.
        nanoseconds: for all of them; tiles work side by side.
        cell, driver, adc, digital: energy in pJ: of reading the cells, driving the rows, converting, and of shifting,
            adding and whatever is digital besides.
    """

    arrays: int
    utilisation: float
    cycles: int
    nanoseconds: float
    cell: float
    driver: float
    adc: float
    digital: float

    @property
    def energy(self) -> float:
        """All of it, pJ."""
        return self.cell + self.driver + self.adc + self.digital

    @property
    def adc_share(self) -> float:
        """Share of the ADCs in the energy."""
        return self.adc / self.energy if self.energy else 0.0


def lossless_adc_bits(rows: int, driver_bits: int, cell_bits: int, coding: Literal["pair", "offset"] = "pair") -> int:
    """Bits with which an ADC loses nothing of a column's sum.

    `ceil(log2(rows)) + driver_bits - 1 + cell_bits - 1`, and one more where negative weights are coded by an offset.

    Raises:
        InputError: a count below 1, or an unknown coding.
    """
    for name, value in (("rows", rows), ("driver_bits", driver_bits), ("cell_bits", cell_bits)):
        checks.integer(name, value, at_least=1)
    checks.one_of("coding", coding, ("pair", "offset"))
    return (rows - 1).bit_length() + driver_bits + cell_bits - 2 + (coding == "offset")


def adc_energy(bits: int) -> float:
    """Energy of one conversion in pJ: the table's, geometrically interpolated between its 4, 6, 8 and 10 bits.

    Below the table it goes on as between 4 and 6 bits. Above it one bit more is four times the energy, as thermal noise
    asks for (Murmann's survey of converters).

    Raises:
        InputError: not 1 to 12 bits.
    """
    energy, _ = _adc(bits)
    return energy


def adc_area(bits: int) -> float:
    """Area of an ADC in um^2.

    Raises:
        InputError: the table has no area for so many bits.
    """
    area = _ADC[bits][2] if bits in _ADC else None
    if area is None:
        raise InputError(f"the area of an ADC is known for 4, 6 and 8 bits, got {bits!r}")
    return area


def _adc(bits: int) -> tuple[float, float]:
    """Energy in pJ and time in ns of one conversion."""
    if type(bits) is not int or not 1 <= bits <= 12:
        raise InputError(f"the cost of an ADC is known from 1 to 12 bits, got {bits!r}")
    if bits < 4:
        return _ADC[4][0] * (_ADC[6][0] / _ADC[4][0]) ** ((bits - 4) / 2), 1 / _ADC[4][1]
    if bits > 10:
        return _ADC[10][0] * 4 ** (bits - 10), 1 / _ADC[10][1]
    low = bits - bits % 2
    (energy, rate, _), (above, above_rate, _) = _ADC[low], _ADC[min(low + 2, 10)]
    fraction = (bits - low) / 2
    return energy * (above / energy) ** fraction, 1 / (rate + fraction * (above_rate - rate))


def matrix_cost(
    inputs: int,
    outputs: int,
    chip: Chip,
    *,
    parts: Parts | None = None,
    copies: int = 1,
    input_bits: int | None = None,
) -> Cost:
    """What one product of an (outputs, inputs) matrix with a vector costs on `chip`.

    With a = `input_bits`, else `chip.dac_bits` (8 where inputs are exact), in steps of `parts.driver_bits`, or its
    a - 1 bits of magnitude in steps of `chip.input_slice_bits`:
    arrays = ceil(inputs / tile_rows) * ceil(outputs / tile_columns) * weight_slices; every step reads all cells, drives
    all rows of every tile, and converts every output of every tile along the inputs, each slice of a weight included.

    Args:
        inputs, outputs: size of the matrix.
        chip: its tiles and converters.
        parts: energies and times.
        copies: how many times the matrix is on the chip, their outputs added (module redundancy).
        input_bits: of the inputs, where the layer rounds them to fewer than the converters take.

    Raises:
        InputError: a size below 1, or an ADC whose cost is not known.

    A chip without an ADC (`adc_bits` None) has sums of unlimited precision: its conversions are counted in time as
    those of 10 bits, and cost no energy, so what is given is a lower bound. So it is for a ramp whose `ramp_step` is
    not known.
    """
    parts = parts or Parts()
    for name, value in (("inputs", inputs), ("outputs", outputs), ("copies", copies)):
        checks.integer(name, value, at_least=1)
    energy, time = _adc(chip.adc_bits or 10)
    energy = energy if chip.adc_bits else 0.0
    if (ramp := chip.adc == "ramp") and chip.adc_bits is not None:
        energy, time = 2**chip.adc_bits * (parts.ramp_step or 0.0), 2**chip.adc_bits * parts.ramp_time
    tall, wide = -(-inputs // chip.tile_rows), -(-outputs // chip.tile_columns)
    if input_bits is not None:
        checks.integer("input_bits", input_bits, at_least=1)
    bits = input_bits or chip.dac_bits or 8
    steps = -(-bits // parts.driver_bits)
    if chip.input_slice_bits is not None:  # the sign is on the rows with each of them
        steps = max(1, -(-(bits - 1) // chip.input_slice_bits))
    turns = 1 if ramp else min(outputs, chip.tile_columns, parts.columns_per_adc)
    sets = copies * chip.weight_slices
    conversions = sets * steps * tall * outputs
    arrays = sets * tall * wide
    return Cost(
        arrays=arrays,
        utilisation=sets * inputs * outputs / (arrays * chip.tile_rows * chip.tile_columns),
        cycles=steps * turns,
        nanoseconds=steps * (parts.read_time + turns * time),
        cell=sets * steps * 2 * inputs * outputs * parts.cell,
        driver=sets * steps * wide * inputs * parts.driver,
        adc=conversions * energy,
        digital=conversions * parts.shift_add + (sets * tall - 1) * outputs * parts.add,
    )


def model_cost(
    model: nn.Module,
    chip: Chip,
    *,
    select: Selector = LINEAR,
    layers: Layers | None = None,
    parts: Parts | None = None,
    copies: Mapping[str, int] | None = None,
    digital_products: int = 0,
) -> Report:
    """What one token (one step of a sequence, one patch of an image) costs in the matrices `select` of `model`.

    Of a stack of experts all are on arrays and as many work for a token as the model's configuration says. nn.LSTM, GRU
    and RNN, and nn.MultiheadAttention, are selected by name or class: they count one product with each of their
    matrices, in both directions where there are two; gates, and what attention does between projections, are digital.

    Args:
        model: any module.
        chip: the chip.
        select, layers: which matrices, as in `hardy.core.selection.select`.
        parts: energies and times.
        copies: site name -> how many times it is on the chip; once where it is not named.
        digital_products: multiplications and additions per token that a method keeps digital (the V^T of a hybrid
            projection, the adapters of HaLoRA).

    Returns:
        Rows "arrays", "energy" (pJ), "adc_share", "time" (ns) and "cycles" for "all selected weights" and each site,
        for all of them the parts of the energy in `ENERGIES` too;
        "energy" also for the condition "digital", the control: as many multiplications and additions done digitally;
        "buffer_energy" for "8 KB" and "1 MB", not part of the energy: each input read once and each output written
        once, in as many bits as inputs have, in memories of these sizes.
        Time and cycles of all are sums: layers work one after the other.

    Raises:
        InputError: a selection that matches nothing, a name in `copies` that was not selected, an unknown cost.
    """
    parts = parts or Parts()
    copies = copies or {}
    sites = selection.with_own_weights(model, selection.select(model, select, layers=layers))
    unknown = set(copies) - {site.name for site in sites}
    if unknown:
        raise InputError(f"copies names {min(unknown)!r}, which is not among the {len(sites)} selected sites")
    checks.integer("digital_products", digital_products, at_least=0)
    rows: list[Row] = []
    costs: list[tuple[Cost, int, int]] = []
    products, moved = digital_products, 0.0
    for site in sites:
        shape, module = weight_of(model, site).shape, model.get_submodule(site.module)
        groups = getattr(module, "groups", 1) if len(shape) == 2 else 1
        if site.parameter == "in_proj_weight":  # three projections of the same inputs
            groups = 3
        if isinstance(module, nn.modules.conv._ConvTransposeNd):  # (in, out / groups * kernel): a patch of outputs
            shape = (shape[1] * groups, shape[0] // groups)
        cost = matrix_cost(shape[-1], shape[-2] // groups, chip, parts=parts, copies=copies.get(site.name, 1))
        stored, used = (1, 1) if len(shape) == 2 else (shape[0], _experts_used(model, site))
        if groups > 1:  # each on arrays of its own
            stored = used = groups
        costs.append((cost, stored, used))
        products += used * shape[-1] * shape[-2] // groups
        moved += used * (shape[-1] + shape[-2] // groups) * (chip.dac_bits or 8) / 8
        rows += _rows(site.name, cost.arrays * stored, cost.energy * used, cost.adc * used, cost)
    energy = sum(cost.energy * used for cost, _, used in costs) + digital_products * parts.multiply_add
    total = _rows(
        "all selected weights",
        sum(cost.arrays * stored for cost, stored, _ in costs),
        energy,
        sum(cost.adc * used for cost, _, used in costs),
        *(cost for cost, _, _ in costs),
    )
    for metric, part in ENERGIES.items():
        value = sum(getattr(cost, part) * used for cost, _, used in costs)
        value += digital_products * parts.multiply_add if part == "digital" else 0.0
        total.append(Row(metric=metric, condition="all selected weights", value=value, unit="pJ/token"))
    digital = Row(metric="energy", condition="digital", value=products * parts.multiply_add, unit="pJ/token")
    buffers = [
        Row(metric="buffer_energy", condition=size, value=moved * energy_of_byte, unit="pJ/token")
        for size, energy_of_byte in zip(("8 KB", "1 MB"), _BUFFERS, strict=True)
    ]
    unknown_ramp = chip.adc == "ramp" and chip.adc_bits is not None and parts.ramp_step is None
    return Report(
        title=f"Cost on {type(chip.device).__name__} in tiles of {chip.tile_rows} x {chip.tile_columns}",
        rows=(*total, digital, *buffers, *rows),
        settings={"chip": chip.to_dict(), "parts": dataclasses.asdict(parts), "digital_products": digital_products},
        notes=(
            "Closed-form figures of published parts; buffers and interconnect are not counted: they take "
            f"{buffers[0].value:.3g} pJ/token more in memories of 8 KB, {buffers[1].value:.3g} in ones of 1 MB. "
            "Control, clocks and memory outside are left out.",
            *_left_out(model, sites),
            *(() if chip.adc_bits else ("The chip has no ADC: the energy of conversions is left out.",)),
            *(("What a step of a ramp takes is not known: the energy of conversions is left out.",) * unknown_ramp),
        ),
    )


def _rows(condition: str, arrays: int, energy: float, adc: float, *costs: Cost) -> list[Row]:
    return [
        Row(metric="arrays", condition=condition, value=arrays),
        Row(metric="energy", condition=condition, value=energy, unit="pJ/token"),
        Row(metric="adc_share", condition=condition, value=adc / energy if energy else 0.0),
        Row(metric="time", condition=condition, value=math.fsum(cost.nanoseconds for cost in costs), unit="ns/token"),
        Row(metric="cycles", condition=condition, value=sum(cost.cycles for cost in costs)),
    ]


def _left_out(model: nn.Module, sites: list[Site]) -> list[str]:
    """In words, the weights of `model` that are multiplied and not counted, if there are any."""
    counted = {id(_parameter(model, site)) for site in sites}
    left: dict[str, int] = {}
    for site in selection.with_own_weights(model, selection.all_sites(model)):
        if site.rows is not None or site.parameter is None or site.role == "embedding":
            continue
        parameter = _parameter(model, site)
        if parameter.ndim > 1 and id(parameter) not in counted:
            left[site.name] = parameter.numel()
    if not left:
        return []
    shown = ", ".join([*left][:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
    return [f"Not selected, and not counted: {sum(left.values()):,} weights of {shown}."]


def _parameter(model: nn.Module, site: Site) -> torch.Tensor:
    return getattr(model.get_submodule(site.module), site.parameter or "weight")


def _experts_used(model: nn.Module, site: Site) -> int:
    config = getattr(model, "config", None)
    for name in ("num_experts_per_tok", "num_experts_per_token", "moe_topk"):
        if type(used := getattr(config, name, None)) is int:
            return used
    raise InputError(f"{site.name}: the model's configuration does not say how many experts a token uses")
