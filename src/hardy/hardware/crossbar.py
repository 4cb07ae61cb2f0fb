"""A weight matrix on the tiles of one chip instance: mapped to pairs of cells, programmed, aged, read out again.

Everything is a function of (weight, chip, seed, name, time), drawn anew for each tile from its own stream: the same
chip comes out on one process or many, whatever else is programmed and in whatever order.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

import torch

from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.hardware import wires
from hardy.hardware.converters import draw_converters

if TYPE_CHECKING:
    from hardy.hardware.chip import Chip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayState:
    """What a chip instance holds of a matrix (out, in), at some time.

    Attributes:
        weight: as read back and compensated, (out, in) float32.
        scale: what a pair of cells at full range counts, in units of the weight, for each output and each tile along
            the inputs, (out, tiles); after compensation.
        read_variance: of one read of each weight, (out, in); (out, 1) where it is the same for all weights of an
            output; None without read noise.
        converters: the parts of its output converters, as `draw_converters` gives them, where they are not alike.
        slices: where several cells share a weight, what each of their arrays holds, from the most significant digit;
            `weight` and `read_variance` are then their sums, and `scale` is of all of them.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    read_variance: torch.Tensor | None
    converters: torch.Tensor | None = None
    slices: tuple[ArrayState, ...] = ()


LARGE_DROP = 0.2
"""Share of the conductance of a tile that wires may take without a warning."""


def full_scale(weight: torch.Tensor, chip: Chip) -> torch.Tensor:
    """The magnitude that becomes g_max, (out, tiles along the inputs).

    What holds zeros alone has the range of what it is part of, so that its noise is of the weights' size: a tile that
    of its channel, a channel that of the tensor. A tensor of zeros has 1.
    """
    parts = weight.abs().split(chip.tile_rows, dim=1)
    of_tile = torch.stack([part.amax(1) for part in parts], dim=1)
    of_channel = of_tile.amax(1, keepdim=True).expand_as(of_tile)
    of_tensor = of_tile.amax().expand_as(of_tile)
    wider = {"tile": (of_tile, of_channel, of_tensor), "channel": (of_channel, of_tensor), "tensor": (of_tensor,)}
    largest = torch.ones_like(of_tile)
    for scale in reversed(wider[chip.weight_range]):
        largest = torch.where(scale == 0, largest, scale)
    return largest.contiguous()


def require_tiles(outputs: int, inputs: int, chip: Chip, site: str) -> None:
    """Raise `InputError` if the tiles of a matrix (outputs, inputs) are too large for the exact solution of wires."""
    rows, columns = min(chip.tile_rows, inputs), min(chip.tile_columns, outputs)
    if chip.wire_resistance and chip.wires == "exact" and rows * columns > wires.LARGEST_EXACT:
        raise InputError(
            f"{site}: a tile of {rows} x {columns} cells is too large for wires='exact' "
            f"(at most {wires.LARGEST_EXACT} cells); use smaller tiles or wires='first-order'"
        )


def program_matrix(weight: torch.Tensor, chip: Chip, *, seed: int, site: str, seconds: float = 0.0) -> ArrayState:
    """Program `weight` on the chip instance `seed` and read it back `seconds` later.

    Args:
        weight: (out, in) float32, finite; not written to.
        chip: what kind of chip.
        seed: which instance.
        site: its name: the same matrix elsewhere meets other cells.
        seconds: since programming.

    Raises:
        InputError: the cells are not known at that time, or a tile is too large for the exact solution of its wires.
    """
    outputs, inputs = weight.shape
    require_tiles(outputs, inputs, chip, site)
    scale = full_scale(weight, chip)
    if chip.weight_slices == 1:
        return _program(weight, scale, chip, seed, site, seconds)
    slices = tuple(
        _program(digit, scale * share, chip, seed, f"{site}.slice{number}", seconds)
        for number, (digit, share) in enumerate(digits_of(weight, scale, chip))
    )
    variances = [part.read_variance for part in slices if part.read_variance is not None]
    return ArrayState(
        weight=torch.stack([part.weight for part in slices]).sum(0),
        scale=scale,
        read_variance=_compact(torch.stack([v.expand_as(weight) for v in variances]).sum(0)) if variances else None,
        slices=slices,
    )


def digits_of(weight: torch.Tensor, scale: torch.Tensor, chip: Chip) -> list[tuple[torch.Tensor, float]]:
    """The digits of weights (out, in) in base `cell_levels`, from the most significant, in units of the weight, and the
    share of the full scale `scale` (out, tiles along the inputs) that a cell at full range counts in each.
    """
    base, number = chip.cell_levels or 2, chip.weight_slices
    full = scale.repeat_interleave(chip.tile_rows, dim=1)[:, : weight.shape[1]].double()
    most = base**number - 1
    rest = (weight.double().abs() / full * most).round().clamp(max=most)
    digits = []
    for place in reversed(range(number)):
        digit = (rest / base**place).floor()
        rest = rest - digit * base**place
        share = (base - 1) * base**place / most
        digits.append(((digit / (base - 1) * share * full * weight.sign()).float(), share))
    return digits


def _program(weight: torch.Tensor, scale: torch.Tensor, chip: Chip, seed: int, site: str, seconds: float) -> ArrayState:
    """One cell pair for each weight; `scale` (out, tiles along the inputs) is what becomes g_max."""
    rows, columns = min(chip.tile_rows, weight.shape[1]), min(chip.tile_columns, weight.shape[0])
    held, fresh = torch.empty_like(weight), torch.empty_like(weight)
    variance = torch.zeros_like(weight) if chip.read_noise else None
    compensated = chip.compensation != "none" and seconds > 0
    drops = []
    for i, left in enumerate(range(0, weight.shape[1], chip.tile_rows)):
        for j, top in enumerate(range(0, weight.shape[0], chip.tile_columns)):
            block = (slice(top, top + chip.tile_columns), slice(left, left + chip.tile_rows))
            unit = scale[block[0], i : i + 1] / (chip.device.g_max - chip.device.g_min)
            tile = _Tile(weight[block], unit, chip, seed, site, i, j)
            programmed = tile.cells(0.0) if seconds == 0 or compensated or variance is not None else None
            now = tile.cells(seconds) if seconds or programmed is None else programmed
            held[block] = tile.weight(now)
            drops.append(tile.drop)
            if compensated and programmed is not None:
                fresh[block] = tile.weight(programmed)
            if variance is not None and programmed is not None:
                std = chip.device.read_std(programmed, now, seconds)
                if std is not None:
                    variance[block] = (chip.read_noise * unit).square() * std.square().sum(0)
    if (drop := max(drops)) > LARGE_DROP:
        warnings.warn(
            f"{site}: wires of {chip.wire_resistance:g} ohm a segment take {drop:.0%} of what the cells of a tile of "
            f"{rows} x {columns} conduct; real arrays of that size have wires of a fraction of this, or smaller tiles",
            stacklevel=2,
        )
    if compensated:
        over = (1,) if chip.compensation == "channel" else (0, 1)
        now, before = held.abs().sum(over, keepdim=True), fresh.abs().sum(over, keepdim=True)
        factor = torch.where(now > 0, before / now, torch.ones_like(now))
        held, scale = held * factor, scale * factor
        variance = None if variance is None else variance * factor.square()
    converters = draw_converters(chip, weight.shape, seed, site)
    return ArrayState(
        weight=held,
        scale=scale,
        read_variance=_compact(variance),
        converters=None if converters is None else converters.to(weight.device),
    )


def cell_targets(weight: torch.Tensor, chip: Chip) -> list[torch.Tensor]:
    """What the cells of `weight` (out, in) are told to conduct, (2, out, in) uS, for each slice of a weight."""
    scale, span = full_scale(weight, chip), chip.device.g_max - chip.device.g_min
    digits = [(weight, 1.0)] if chip.weight_slices == 1 else digits_of(weight, scale, chip)
    unit = scale.repeat_interleave(chip.tile_rows, dim=1)[:, : weight.shape[1]] / span
    return [_told(digit, unit * share, chip) for digit, share in digits]


def _told(weight: torch.Tensor, unit: torch.Tensor, chip: Chip) -> torch.Tensor:
    """Conductances of pairs of cells, (2, out, in) uS; `unit` is a weight for each uS."""
    device = chip.device
    target = device.g_min + torch.stack([weight, -weight]).clamp(min=0) / unit
    target = target.clamp(max=device.g_max)  # the largest weight, a rounding error above
    if chip.cell_levels is None:
        return target
    step = (device.g_max - device.g_min) / (chip.cell_levels - 1)
    return device.g_min + ((target - device.g_min) / step).round() * step


class _Tile:
    """One tile: its target, its draws, and what it holds at any time."""

    def __init__(
        self, weight: torch.Tensor, unit: torch.Tensor, chip: Chip, seed: int, site: str, i: int, j: int
    ) -> None:
        self.clean, self.unit, self.chip = weight, unit, chip
        self.drop = 0.0
        device = chip.device
        self.target = _told(weight, unit, chip)
        if chip.cell_levels is not None:
            self.clean = (self.target[0] - self.target[1]) * unit
        # Drawn on the CPU, so that a chip instance is the same whatever device the model is on.
        random = generator(seed, "chip", site, i, j, "cells")
        self.normals = torch.randn(device.normals, *self.target.shape, generator=random).to(weight.device)
        self.fault_draw: torch.Tensor | None = None
        if chip.stuck_low or chip.stuck_high:
            random = generator(seed, "chip", site, i, j, "faults")
            self.fault_draw = torch.rand(self.target.shape, generator=random, dtype=torch.float64).to(weight.device)

    def cells(self, seconds: float) -> torch.Tensor:
        """Conductances of the pairs, (2, out, in) uS."""
        chip, device = self.chip, self.chip.device
        held = device.conductance(self.target, self.normals, seconds)
        if self.fault_draw is not None:
            held = torch.where(self.fault_draw < chip.stuck_low, device.g_min, held)
            held = torch.where(self.fault_draw >= 1 - chip.stuck_high, device.g_max, held)
        return held

    def weight(self, cells: torch.Tensor) -> torch.Tensor:
        """The weights that `cells` look like from outside, (out, in)."""
        if self.chip.wire_resistance:
            solve = wires.exact if self.chip.wires == "exact" else wires.first_order
            # A model that lets noise carry a cell below zero has no network; a real cell ends at zero.
            before = cells.clamp(min=0)
            cells = torch.stack([solve(side.mT, self.chip.wire_resistance).mT for side in before])
            self.drop = 1 - (cells.sum() / before.sum()).item() if before.any() else 0.0
        off = cells - self.target
        change = (off[0] - off[1]) * self.unit
        return torch.where(change == 0, self.clean, self.clean + change)  # not `+ 0`, which turns -0.0 into 0.0


def _compact(variance: torch.Tensor | None) -> torch.Tensor | None:
    """One number per output where that is all there is to know: its noise then needs no matrix product."""
    if variance is None or not bool(variance.any()):
        return None
    first = variance[:, :1]
    return first.clone() if bool((variance == first).all()) else variance
