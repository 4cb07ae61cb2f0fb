"""The products of a decoding step: linear layers that read the same input, as few calls into kernels as can be."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hardy.artefacts.packing import PackedLayer
from hardy.ops.grid_matrix import GridMatrix, round_rows
from hardy.ops.grid_product import grid_product
from hardy.ops.packed_product import PackedProduct
from hardy.ops.rotation import rotate_into
from hardy.ops.trit_matrix import TritMatrix
from hardy.ops.trit_product import trit_product
from hardy.quant.grid_linear import GridLinear
from hardy.quant.trit_linear import TritLinear

HEAD_GROUP = 64

Step = Callable[[], object]


class Product:
    """Linear layers that read the same input, whose outputs stand one behind the other."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers: list[Any] = list(layers)
        self.rows = sum(_rows(layer) for layer in self.layers)
        self.matrices = _joined(self.layers)
        self.rotations = [layer.rotation for layer in self.layers[: len(self.matrices or ())]]
        biases = [getattr(layer, "bias", None) for layer in self.layers]
        self.bias = None
        if self.matrices is not None and any(bias is not None for bias in biases):
            parts = [
                torch.zeros(_rows(layer)) if bias is None else bias.detach().float()
                for layer, bias in zip(self.layers, biases, strict=True)
            ]
            self.bias = torch.cat(parts)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) float32 -> (..., rows) float32."""
        return torch.cat([_apply(layer, x) for layer in self.layers], -1)

    def steps(self, x: torch.Tensor, output: torch.Tensor) -> list[Step]:
        if self.matrices is None:
            return [lambda: output.copy_(self.product(x))]
        steps: list[Step] = []
        begin, inputs = 0, {0: x}
        for matrix, rotation in zip(self.matrices, self.rotations, strict=True):
            if rotation not in inputs:
                inputs[rotation] = torch.zeros_like(x)
                steps.append(functools.partial(rotate_into, x, rotation, inputs[rotation]))
            product: PackedProduct[Any] = trit_product if isinstance(matrix, TritMatrix) else grid_product
            steps.append(product.bound(inputs[rotation], matrix, output[begin : begin + matrix.rows]))
            begin += matrix.rows
        if self.bias is not None:
            steps.append(functools.partial(output.add_, self.bias))
        return steps


class Head(Product):
    """The product with the vocabulary; `rounded` is a dense head in few bits."""

    def __init__(self, layer: nn.Module, rounded: GridMatrix | None, words: str) -> None:
        super().__init__([layer])
        self.words, self._rounded = words, rounded
        if rounded is not None:
            bias = getattr(layer, "bias", None)
            self.matrices, self.rotations = [rounded], [0]
            self.bias = None if bias is None else bias.detach().float()

    def product(self, x: torch.Tensor) -> torch.Tensor:
        if self._rounded is None:
            return super().product(x)
        y = grid_product(x, self._rounded)
        return y if self.bias is None else y + self.bias


def head_of(model: PreTrainedModel, bits: int | None) -> Head:
    layer: Any = model.get_output_embeddings()
    if isinstance(layer, TritLinear | GridLinear):
        return Head(layer, None, "packed")
    weight: Any = layer.weight
    kind = "packed" if isinstance(layer, PackedLayer) else str(weight.dtype).removeprefix("torch.")
    if bits is None:
        return Head(layer, None, kind)
    return Head(layer, round_rows(weight.detach(), bits, HEAD_GROUP), f"{kind}, read at {bits} bits")


def _apply(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A layer of any kind, packed, dense or wrapped, on float32 activations (..., in)."""
    if isinstance(layer, TritLinear | GridLinear):
        return layer(x)
    dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), torch.float32)
    return layer(x.to(dtype)).float()


def _rows(layer: Any) -> int:
    return int(layer.out_features if hasattr(layer, "out_features") else len(layer.weight))  # a tied head has a table


def _joined(layers: Sequence[Any]) -> list[TritMatrix | GridMatrix] | None:
    """The matrices of packed layers, as few as can be; None where a layer is not packed.

    Layers whose rows are multiples of 64 become views of one matrix, so that it takes no memory of its own.
    """
    if not all(isinstance(layer, TritLinear | GridLinear) for layer in layers):
        return None
    matrices = [layer.matrix() for layer in layers]
    kinds = {
        (type(m), m.width, m.group_size, m.planes, layer.rotation) for m, layer in zip(matrices, layers, strict=True)
    }
    if len(layers) == 1 or len(kinds) > 1 or any(m.rows % 64 for m in matrices[:-1]):
        return matrices
    first = matrices[0]
    whole = type(first)(
        codes=torch.cat([m.codes for m in matrices]), scales=torch.cat([m.scales for m in matrices]),
        rows=sum(m.rows for m in matrices), width=first.width, group_size=first.group_size, planes=first.planes,
    )  # fmt: skip
    begin = 0
    for layer in layers:
        layer.keep(whole.rows_at(begin, begin + layer.out_features))
        begin += layer.out_features
    return [whole]
