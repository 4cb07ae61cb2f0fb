"""A crossbar weight by weight and vector by vector: the oracle of `hardy.hardware.crossbar` and `.product`."""

import numpy as np
import torch

from hardy.core.rng import generator
from hardy.hardware import Chip


def program(weight: np.ndarray, chip: Chip, seed: int, name: str, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """(weights as held, uncompensated; full scales), each (out, in), cell by cell."""
    out, width = weight.shape
    held, scales = np.zeros((out, width)), np.zeros((out, width))
    device = chip.device
    for top in range(0, out, chip.tile_columns):
        for left in range(0, width, chip.tile_rows):
            bottom, right = min(out, top + chip.tile_columns), min(width, left + chip.tile_rows)
            names = (left // chip.tile_rows, top // chip.tile_columns)
            shape = (2, bottom - top, right - left)
            normals = torch.randn(device.normals, *shape, generator=generator(seed, "chip", name, *names, "cells"))
            fault_draw = torch.rand(
                shape, generator=generator(seed, "chip", name, *names, "faults"), dtype=torch.float64
            )
            for o in range(top, bottom):
                for i in range(left, right):
                    tensor = np.abs(weight).max()
                    channel = np.abs(weight[o]).max() or tensor  # zeros alone have the range around them
                    tile = np.abs(weight[o, left:right]).max() or channel
                    full = {"tensor": tensor, "channel": channel, "tile": tile}[chip.weight_range]
                    cells = []
                    for side, part in enumerate((max(weight[o, i], 0.0), max(-weight[o, i], 0.0))):
                        target = device.g_min + part / full * (device.g_max - device.g_min)
                        place = (side, o - top, i - left)
                        cell = device.conductance(
                            torch.tensor([target], dtype=torch.float64),
                            normals[(slice(None), *place)].reshape(-1, 1),
                            seconds,
                        ).item()
                        if fault_draw[place] < chip.stuck_low:
                            cell = device.g_min
                        if fault_draw[place] >= 1 - chip.stuck_high:
                            cell = device.g_max
                        cells.append(cell)
                    held[o, i] = (cells[0] - cells[1]) / (device.g_max - device.g_min) * full
                    scales[o, i] = full
    return held, scales


def convert(value: float, bits: int, full_scale: float) -> float:
    levels = 2 ** (bits - 1) - 1
    return max(-levels, min(levels, float(np.rint(value * levels / full_scale)))) * full_scale / levels


def product(x: np.ndarray, weight: np.ndarray, scales: np.ndarray, chip: Chip, dac_range: float | None) -> np.ndarray:
    """`x @ weight.T` through the converters, sum by sum; without noise."""
    result = np.zeros((len(x), len(weight)))
    for v, vector in enumerate(x):
        full = dac_range or np.abs(vector).max() or 1.0
        inputs = [float(value) if chip.dac_bits is None else convert(value, chip.dac_bits, full) for value in vector]
        for o in range(len(weight)):
            for left in range(0, len(vector), chip.tile_rows):
                right = min(len(vector), left + chip.tile_rows)
                current = sum(inputs[i] * weight[o, i] for i in range(left, right))
                if chip.adc_bits is not None:
                    assert isinstance(chip.adc_range, float)
                    current = convert(current, chip.adc_bits, chip.adc_range * full * scales[o, left])
                result[v, o] += current
    return result
