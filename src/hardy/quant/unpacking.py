"""Give packed layers dense weights again, of the same values: for studies, noise, other quantizers."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hardy.artefacts.packing import packed_layers
from hardy.core.method import Method
from hardy.core.surgery import Absent, Edits
from hardy.errors import InputError
from hardy.report import Row

PACKED = "all packed layers"
"""The condition of the row that sums up."""


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
        layers = packed_layers(model)
        for name, layer in sorted(layers.items(), key=lambda entry: bool(entry[1].tied_to)):
            dense: Any = layer.dense(dtype)
            if layer.tied_to:
                dense.weight = model.get_submodule(layer.tied_to).weight
            edits.set_module(name, dense)
            if layer.weights:
                rows.append(Row(metric="bits_per_weight", condition=name, value=8.0 * dtype.itemsize))
            size += layer.weights
        if not size:
            raise InputError("there is nothing to unpack: no layer of the model is packed")
        if isinstance(model, PreTrainedModel):
            if any(layer.tied_to for layer in layers.values()):
                edits.swap(model.config, "tie_word_embeddings", True)
            for owner, attribute in ((model, "hf_quantizer"), (model.config, "quantization_config")):
                if attribute in vars(owner):
                    edits.swap(owner, attribute, Absent)
        details = {"weights": size}
        return [Row(metric="bits_per_weight", condition=PACKED, value=8.0 * dtype.itemsize, details=details), *rows]


def unpack(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """`model` with dense weights in the place of packed layers, in place, if it has any; see `Unpack`."""
    if any(layer.weights for layer in packed_layers(model).values()):
        Unpack(dtype=None if dtype is None else str(dtype).removeprefix("torch.")).apply(model)
    return model
