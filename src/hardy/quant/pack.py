"""Packing: every quantized linear layer is replaced by one that holds its few bits, in memory and on disk.

A quantizer leaves dense weights that have the quantized values, so that anything can still be measured or done with
them. `Pack` is the last step: from then on the model takes the room that the quantizer's report says.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hardy.core.method import Method, changes
from hardy.core.roles import is_linear
from hardy.core.selection import all_sites
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.quant.grid_linear import GridLinear
from hardy.quant.round_to_nearest import GridWeight
from hardy.quant.transformers_hooks import QUANT_METHOD, described
from hardy.quant.trit_linear import TritLinear
from hardy.quant.trit_planes import TritWeight
from hardy.report import Row

PackedLinear = TritLinear | GridLinear

PACKED = "all packed layers"
"""The condition of the row that sums up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack(Method):
    """Replace the linear layers that a quantizer gave new weights by `TritLinear` and `GridLinear`.

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
        rows, size, bits, dense = [], 0, 0.0, 0
        for site in all_sites(model):
            if site.name not in stored:
                continue
            form, current = stored[site.name], weight_of(model, site)
            if not torch.equal(form.dequantize().to(current), current):
                raise InputError(f"the weight of {site.name} is no longer what its quantizer left; quantize it again")
            linear: Any = model.get_submodule(site.module)
            if site.rows is not None or not is_linear(linear) or not isinstance(form, TritWeight | GridWeight):
                dense += current.numel()
                rows.append(
                    Row(metric="bits_per_weight", condition=f"{site.name}, dense", value=8.0 * current.itemsize)
                )
                continue
            layer = packed(form, linear.bias).train(linear.training)
            edits.set_module(site.module, layer)
            size, bits = size + current.numel(), bits + layer.bits_per_weight * current.numel()
            rows.append(Row(metric="bits_per_weight", condition=site.name, value=layer.bits_per_weight))
        if not size:
            raise InputError("none of the quantized weights is that of a linear layer; there is nothing to pack")
        if hasattr(model, "config"):
            edits.swap(model.config, "quantization_config", {"quant_method": QUANT_METHOD, "modules": described(model)})
        details = {"weights": size, "weights left dense": dense}
        return [Row(metric="bits_per_weight", condition=PACKED, value=bits / size, details=details), *rows]


def packed(form: TritWeight | GridWeight, bias: torch.Tensor | None) -> PackedLinear:
    """The layer that holds `form`, the stored form of a weight (out, in)."""
    if isinstance(form, TritWeight):
        return TritLinear.from_trits(form.trits, form.scales, form.width, bias)
    return GridLinear.from_grid(form, bias)


def unpack(model: nn.Module) -> nn.Module:
    """Give every packed layer of `model` its dense weight again, in place, in the dtype of the rest of the model.

    For what needs weights to work on: studies, noise, other quantizers. The values are those of the few bits.
    """
    whole: Any = model
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, PackedLinear):
            continue
        linear: Any = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        linear.weight = nn.Parameter(layer.dequantize(dtype))
        linear.bias = layer.bias
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, linear.train(layer.training))
    if hasattr(whole, "hf_quantizer"):
        whole.hf_quantizer.remove_quantization_config(model)
    elif hasattr(getattr(whole, "config", None), "quantization_config"):
        del whole.config.quantization_config
    return model
