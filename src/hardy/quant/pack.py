"""Packing: every quantized linear layer is replaced by one that holds its few bits, in memory and on disk.

A quantizer leaves dense weights that have the quantized values, so that anything can still be measured or done with
them. `Pack` is the last step: from then on the model takes the room that the quantizer's report says.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from hardy.artefacts.packing import packed, tied
from hardy.core.method import Method, changes
from hardy.core.selection import Site, all_sites
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.quant.binary_layers import BinaryLayer
from hardy.quant.packed_binary import PackedBinaryConv2d, PackedBinaryLinear
from hardy.quant.packed_int8 import PackedInt8Conv2d, PackedInt8Linear
from hardy.quant.packed_levels import PackedLevels
from hardy.quant.quantizer import StoredWeight
from hardy.quant.transformers_hooks import quantizer_of
from hardy.quant.unpacking import PACKED
from hardy.report import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack(Method):
    """Replace the layers that a quantizer gave new weights by packed ones, such as `TritLinear` and `GridLinear`.

    Layers with binary weights become `PackedBinaryConv2d` and `PackedBinaryLinear` as they are now, those of 8 bits
    beside them `PackedInt8Conv2d` and `PackedInt8Linear`.
    On CPU trit-planes and layers on a grid then compute with activations rounded to int8, group by group. What has no
    packed layer stays dense and is reported as such: parts of fused projections, convolutions, and the forms of
    quantizers that are baselines only. The matrices of a stack of experts are packed one by one (`PackedExperts`). A
    head that is tied to a packed embedding is packed along, and
    stores nothing.

    A Hugging Face model stays loadable by `from_pretrained`, for whoever has imported `hardy.quant`.
    """

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        stored = {name: form for change in changes(model) for name, form in change.stored.items()} | edits.stored
        trained = [name for name, module in model.named_modules() if isinstance(module, BinaryLayer)]
        if not stored and not trained:
            raise InputError(
                "there is nothing to pack: apply a quantizer first, such as TritPlanes, RoundToNearest or "
                "BinaryWeights (a model that was saved and loaded has dense weights, and no record of their bits)"
            )
        by_module: dict[str, list[tuple[Site, StoredWeight]]] = {}
        for site in all_sites(model):
            if site.name in stored:
                form, current = stored[site.name], weight_of(model, site)
                if not torch.equal(form.dequantize().to(current), current):
                    raise InputError(
                        f"the weight of {site.name} is no longer what its quantizer left; quantize it again"
                    )
                by_module.setdefault(site.module, []).append((site, form))
        rows, size, bits, dense = [], 0, 0, 0
        for name, forms in by_module.items():
            module = model.get_submodule(name)
            layer = packed(module, forms)
            if layer is not None:
                edits.set_module(name, layer)
                size, bits = size + layer.weights, bits + layer.bits
                for other, part in tied(model, module, name, layer).items():
                    edits.set_module(other, part)
            for site, _ in forms:
                condition, value = site.name, layer.bits / layer.weights if layer is not None else 0.0
                if layer is None:
                    weight = weight_of(model, site)
                    condition, value, dense = f"{site.name}, dense", 8.0 * weight.itemsize, dense + weight.numel()
                rows.append(Row(metric="bits_per_weight", condition=condition, value=value))
        for name in trained:
            try:
                layer = _packed_levels(cast(BinaryLayer, model.get_submodule(name)))
            except InputError as error:
                raise InputError(f"{name} {error}") from None
            edits.set_module(name, layer)
            size, bits = size + layer.weights, bits + layer.bits
            rows.append(Row(metric="bits_per_weight", condition=name, value=layer.bits_per_weight))
        if not size:
            raise InputError("no quantized weight is that of a linear layer or an embedding; there is nothing to pack")
        if isinstance(model, PreTrainedModel):
            quantizer = quantizer_of(model)
            edits.swap(model, "hf_quantizer", quantizer)
            edits.swap(model.config, "quantization_config", quantizer.quantization_config)
        details = {"weights": size, "weights left dense": dense}
        return [Row(metric="bits_per_weight", condition=PACKED, value=bits / size, details=details), *rows]


def _packed_levels(layer: BinaryLayer) -> PackedLevels:
    """`layer` as it is now, in few bits.

    Raises:
        InputError: it has seen no input yet, or its step is not above zero.
    """
    kinds = (PackedBinaryConv2d, PackedBinaryLinear, PackedInt8Conv2d, PackedInt8Linear)
    return next(found for kind in kinds if (found := kind.pack(layer, ())) is not None)
