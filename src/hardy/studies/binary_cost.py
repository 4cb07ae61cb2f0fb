"""What an image costs on arrays of one-bit cells, against the bits of activations: energy, latency, area, bytes.

Arrays are those of `hardy.hardware.cost`: 128 x 128 pairs of cells, inputs bit by bit, and an ADC that loses nothing of
a column of them. Areas are ISAAC's (Shafiee et al., ISCA 2016: eight arrays take 200 um^2, 1024 one-bit drivers 170,
four shift-and-add units 240) and MNSIM 2.0's of an 8-bit ADC.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from hardy.artefacts.packing import packed_layers
from hardy.hardware.chip import Chip
from hardy.hardware.cost import adc_area, lossless_adc_bits, matrix_cost
from hardy.hooks import run, watch
from hardy.quant.binary_layers import BinaryLayer
from hardy.quant.packed_binary import PackedBinary

TILE = 128
TILE_AREA = 200 / 8 + TILE * 170 / 1024 + 240 / 4 + adc_area(8)
"""um^2 of an array with its drivers, one ADC and one shift-and-add unit."""


@dataclasses.dataclass(frozen=True)
class ImageCost:
    """Of all binary layers for one image: energy in pJ, latency in ns (layer after layer), arrays, area in um^2."""

    energy: float
    nanoseconds: float
    arrays: int

    @property
    def area(self) -> float:
        """um^2 of the arrays with their converters."""
        return self.arrays * TILE_AREA


def image_cost(model: nn.Module, image: torch.Tensor, bits: int) -> ImageCost:
    """What one image costs in the binary layers of `model` at so many bits of activations.

    Each position of a convolution is a product with a vector; the array has one column of ones beside the outputs.

    Args:
        model: with binary layers, packed or in training.
        image: (1, channels, height, width).
        bits: of the activations.
    """
    chip = dataclasses.replace(
        Chip.preset("ideal"), tile_rows=TILE, tile_columns=TILE, dac_bits=8, adc_bits=lossless_adc_bits(TILE, 1, 1)
    )
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer | PackedBinary)}
    positions: dict[str, int] = {}

    def see(name: str, y: torch.Tensor) -> None:
        positions[name] = y.numel() // len(shape_of(layers[name])[0])

    def shape_of(layer: nn.Module) -> tuple[range, int]:
        weight: Any = layer.weight
        shape: tuple[int, ...] = layer.shape if isinstance(layer, PackedBinary) else tuple(weight.shape)
        return range(shape[0]), math.prod(shape[1:])

    points = {(name, "output"): (lambda y, name=name: see(name, y)) for name in layers}
    with torch.no_grad(), watch(model, points):
        run(model, image)
    energy, time, arrays = 0.0, 0.0, 0
    for name, layer in layers.items():
        outputs, inputs = shape_of(layer)
        cost = matrix_cost(inputs, len(outputs) + 1, chip, input_bits=bits)
        energy, time = energy + positions[name] * cost.energy, time + positions[name] * cost.nanoseconds
        arrays += cost.arrays
    return ImageCost(energy, time, arrays)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are stored, packed layers in few bits."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def packed_share(model: nn.Module) -> float:
    """The share of the weights that are packed."""
    packed = sum(layer.weights for layer in packed_layers(model).values())
    dense = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    return packed / (packed + dense)
