"""What an image costs on arrays of one-bit cells, against the bits of activations: energy, latency, area, bytes.

Arrays are those of `hardy.hardware.cost`: 128 x 128 pairs of cells, inputs bit by bit, and an ADC that loses nothing of
a column of them. An 8-bit weight takes seven columns, one for each bit of its magnitude. Areas are ISAAC's (Shafiee et
al., ISCA 2016: eight arrays take 200 um^2, 1024 one-bit drivers 170, four shift-and-add units 240) and MNSIM 2.0's of
an 8-bit ADC.
"""

import dataclasses
import math

import torch
from torch import nn

from hardy.artefacts.packing import packed_layers
from hardy.hardware.chip import Chip
from hardy.hardware.cost import adc_area, lossless_adc_bits, matrix_cost
from hardy.hooks import run, watch
from hardy.quant.binary_layers import BinaryLayer
from hardy.quant.packed_levels import PackedLevels

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
    Layers of 8-bit weights count, with inputs of 8 bits and seven columns for an output.

    Args:
        model: with binary layers, packed or in training.
        image: (1, channels, height, width).
        bits: of the activations.
    """
    chip = dataclasses.replace(
        Chip.preset("ideal"), tile_rows=TILE, tile_columns=TILE, dac_bits=8, adc_bits=lossless_adc_bits(TILE, 1, 1)
    )
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer | PackedLevels)}
    positions: dict[str, int] = {}

    def see(name: str, y: torch.Tensor) -> None:
        positions[name] = y.numel() // _shape(layers[name])[0]

    points = {(name, "output"): (lambda y, name=name: see(name, y)) for name in layers}
    with torch.no_grad(), watch(model, points):
        run(model, image)
    energy, time, arrays = 0.0, 0.0, 0
    for name, layer in layers.items():
        outputs, inputs = _shape(layer)
        if _weight_bits(layer) == 1:
            cost = matrix_cost(inputs, outputs + 1, chip, input_bits=bits)
        else:
            cost = matrix_cost(inputs, outputs * (_weight_bits(layer) - 1), chip, input_bits=8)
        energy, time = energy + positions[name] * cost.energy, time + positions[name] * cost.nanoseconds
        arrays += cost.arrays
    return ImageCost(energy, time, arrays)


def _shape(layer: BinaryLayer | PackedLevels) -> tuple[int, int]:
    """Outputs, and inputs of each."""
    shape = layer.shape if isinstance(layer, PackedLevels) else layer.weight.shape
    return shape[0], math.prod(shape[1:])


def _weight_bits(layer: BinaryLayer | PackedLevels) -> int:
    return layer.weight_bits if isinstance(layer, PackedLevels) else layer.rule.bits


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are stored, packed layers in few bits."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def shares(model: nn.Module) -> dict[int, float]:
    """The share of the weights that are packed, by the bits of a weight, 1 and 8."""
    packed: dict[int, int] = {1: 0, 8: 0}
    for layer in packed_layers(model).values():
        if isinstance(layer, PackedLevels):
            packed[layer.weight_bits] += layer.weights
    dense = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    return {bits: count / (sum(packed.values()) + dense) for bits, count in packed.items()}
