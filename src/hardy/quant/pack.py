"""Packing: every quantized linear layer is replaced by one that holds its few bits, in memory and on disk.

A quantizer leaves dense weights that have the quantized values, so that anything can still be measured or done with
them. `Pack` is the last step: from then on the model takes the room that the quantizer's report says.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hardy.core.method import Method, changes
from hardy.core.packing import PackedLayer
from hardy.core.selection import Site, all_sites
from hardy.core.surgery import Absent, Edits, weight_of
from hardy.errors import InputError
from hardy.quant.quantizer import StoredWeight
from hardy.quant.transformers_hooks import quantizer_of
from hardy.report import Row

PACKED = "all packed layers"
"""The condition of the row that sums up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack(Method):
    """Replace the layers that a quantizer gave new weights by packed ones, such as `TritLinear` and `GridLinear`.

    Trit-planes then compute with activations rounded to int8, group by group; layers on a grid compute as before. What
    has no packed layer stays dense and is reported as such: stacks of experts, parts of fused projections,
    convolutions, embeddings, and the forms of quantizers that are baselines only.

    A Hugging Face model stays loadable by `from_pretrained`, for whoever has imported `hardy.quant`.
    """

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        stored = {name: form for change in changes(model) for name, form in change.stored.items()} | edits.stored
        if not stored:
            raise InputError(
                "there is nothing to pack: apply a quantizer first, such as TritPlanes or RoundToNearest "
                "(a model that was saved and loaded has dense weights, and no record of their bits)"
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
        kinds = PackedLayer.registry.all()
        rows, size, bits, dense = [], 0, 0, 0
        for name, forms in by_module.items():
            module = model.get_submodule(name)
            layer = next((layer for kind in kinds if (layer := kind.pack(module, forms)) is not None), None)
            if layer is not None:
                edits.set_module(name, layer)
                size, bits = size + layer.weights, bits + layer.bits
            for site, _ in forms:
                condition, value = site.name, layer.bits / layer.weights if layer is not None else 0.0
                if layer is None:
                    weight = weight_of(model, site)
                    condition, value, dense = f"{site.name}, dense", 8.0 * weight.itemsize, dense + weight.numel()
                rows.append(Row(metric="bits_per_weight", condition=condition, value=value))
        if not size:
            raise InputError("none of the quantized weights is that of a linear layer; there is nothing to pack")
        if isinstance(model, PreTrainedModel):
            quantizer = quantizer_of(model)
            edits.swap(model, "hf_quantizer", quantizer)
            edits.swap(model.config, "quantization_config", quantizer.quantization_config)
        details = {"weights": size, "weights left dense": dense}
        return [Row(metric="bits_per_weight", condition=PACKED, value=bits / size, details=details), *rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unpack(Method):
    """Give every packed layer its dense weight again, with the values of its few bits.

    For what needs weights to work on: studies, noise, other quantizers.

    Args:
        dtype: of the weights, "float32" or another of torch's; by default that of the rest of the model.
    """

    dtype: str | None = None

    def check(self) -> None:
        dtype = getattr(torch, str(self.dtype), None)
        if self.dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"dtype must be the name of a floating dtype of torch or None, got {self.dtype!r}")

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        rest = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        dtype = rest if self.dtype is None else getattr(torch, self.dtype)
        rows, size = [], 0
        for name, layer in list(model.named_modules()):
            if isinstance(layer, PackedLayer):
                edits.set_module(name, layer.dense(dtype))
                rows.append(Row(metric="bits_per_weight", condition=name, value=8.0 * dtype.itemsize))
                size += layer.weights
        if not size:
            raise InputError("there is nothing to unpack: no layer of the model is packed")
        if isinstance(model, PreTrainedModel):
            for owner, attribute in ((model, "hf_quantizer"), (model.config, "quantization_config")):
                if attribute in vars(owner):
                    edits.swap(owner, attribute, Absent)
        details = {"weights": size}
        return [Row(metric="bits_per_weight", condition=PACKED, value=8.0 * dtype.itemsize, details=details), *rows]


def unpack(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """`model` with dense weights in the place of packed layers, in place, if it has any; see `Unpack`."""
    if any(isinstance(layer, PackedLayer) for layer in model.modules()):
        Unpack(dtype=None if dtype is None else str(dtype).removeprefix("torch.")).apply(model)
    return model
