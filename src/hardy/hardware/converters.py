"""Output converters whose parts are not all of one size: what their codes are, and which one a chip instance has.

Two architectures. Successive approximation compares the sum with one capacitor after another, from the largest: each
is made of units that err independently, so one of `2^k` units errs by `mismatch * sqrt(2^k)` units. A ramp rises step
by step for a whole tile, and each output counts the steps until it is passed: the steps err independently, and their
errors add up along the ramp. Both have their full scale trimmed, so that what is left is non-linearity. Each output of
a tile has a converter for itself (as in CrossSim); the sign is found without error.

Source: the textbook models of both (Razavi, Principles of Data Conversion System Design, 1995), in our own form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from hardy.core.rng import generator

if TYPE_CHECKING:
    from hardy.hardware.chip import Chip

Architecture = Literal["sar", "ramp"]


def draw_converters(chip: Chip, size: torch.Size, seed: int, site: str) -> torch.Tensor | None:
    """The parts of the converters of one matrix on a chip instance, in units of the least significant code.

    Args:
        chip: its `adc`, `adc_bits`, `adc_mismatch` and tiles.
        size: of the matrix, (out, in).
        seed, site: which instance, and where on it.

    Returns:
        "sar": (adc_bits - 1, tiles along the inputs, outputs), capacitors from the largest; "ramp": (codes, tiles along
        the inputs, tiles along the outputs), where on the ramp each code above 0 begins. None where parts are alike.
    """
    if chip.adc_bits in {None, 1} or not chip.adc_mismatch:
        return None
    assert chip.adc_bits is not None
    outputs, inputs = size
    tall, wide = -(-inputs // chip.tile_rows), -(-outputs // chip.tile_columns)
    random, codes = generator(seed, "chip", site, "converters"), 2 ** (chip.adc_bits - 1) - 1
    if chip.adc == "ramp":
        steps = 1 + chip.adc_mismatch * torch.randn(codes, tall, wide, generator=random, dtype=torch.float64)
        levels = steps.clamp(min=0).cumsum(0)
        return (levels * (codes / levels[-1])).float()
    units = 2.0 ** torch.arange(chip.adc_bits - 2, -1, -1, dtype=torch.float64)[:, None, None]
    errors = chip.adc_mismatch * torch.randn(len(units), tall, outputs, generator=random, dtype=torch.float64)
    capacitors = units + units.sqrt() * errors
    return (capacitors * (codes / capacitors.sum(0))).float()


def convert(values: torch.Tensor, parts: torch.Tensor, adc: Architecture, tile_columns: int) -> torch.Tensor:
    """Codes of `values`, as floats; what is beyond the range gets the last code.

    Args:
        values: (tiles along the inputs, vectors, outputs), in units of the least significant code.
        parts: as `draw_converters` gives them.
        adc: which architecture.
        tile_columns: outputs of a tile, which share a ramp.
    """
    size = values.abs() + 0.5  # to the nearest code
    if adc == "ramp":
        codes = torch.empty_like(size)
        for tile in range(len(size)):
            for index, left in enumerate(range(0, size.shape[-1], tile_columns)):
                part = size[tile, :, left : left + tile_columns].contiguous()
                levels = parts[:, tile, index].contiguous()
                codes[tile, :, left : left + tile_columns] = torch.searchsorted(levels, part, right=True).to(size)
        return codes.mul_(values.sign())
    codes, level = torch.zeros_like(size), torch.zeros_like(size)
    for bit, capacitors in enumerate(parts[:, :, None]):
        tried = level + capacitors
        kept = size >= tried
        level = torch.where(kept, tried, level)
        codes += kept * 2.0 ** (len(parts) - 1 - bit)
    return codes.mul_(values.sign())
