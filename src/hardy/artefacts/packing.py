"""What a layer that holds its weight in few bits says of itself, so that it is packed, described, and comes back."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy.core.registry import Registered
from hardy.core.selection import Site
from hardy.errors import InputError


class PackedLayer(Registered, nn.Module, abc.ABC, group="hardy.packed_layers"):
    """A layer in the place of a dense one, whose weight takes few bits in memory and on disk.

    A new kind is one subclass, decorated with `hardy.core.register`: packing, saving, loading and unpacking then know
    it. Its tensors are buffers and parameters like any others; `describe` holds what they do not say.
    """

    @property
    @abc.abstractmethod
    def bits(self) -> int:
        """All that is stored for its weights."""

    @property
    @abc.abstractmethod
    def weights(self) -> int:
        """How many weights those are."""

    @classmethod
    @abc.abstractmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, Any]]) -> PackedLayer | None:
        """`module` packed, or None where this kind of layer cannot stand for it.

        Args:
            module: dense; a linear layer, an embedding, a stack of experts ...
            stored: its quantized weights: where each is, and the few bits that its quantizer left (`change.stored`).
        """

    @property
    def stands_for(self) -> tuple[str, ...]:
        """The parameters of the dense layer that it has no more."""
        return ("weight",)

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What `from_description` needs beside the dense module, as plain data for JSON."""

    @classmethod
    @abc.abstractmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> PackedLayer:
        """The layer that `describe` described, in the place of the dense `module`, on its device, to be loaded into.

        Raises:
            TypeError, InputError: the description is damaged, or does not fit `module`.
        """

    @abc.abstractmethod
    def dense(self, dtype: torch.dtype) -> nn.Module:
        """The dense module of the same values."""

    tied_to: str = ""
    """Name of the packed layer whose weight this one computes with, if it has none of its own."""

    def tied(self, module: nn.Module, name: str) -> PackedLayer | None:
        """What stands for the dense `module`, whose weight was the one that this layer, called `name`, now holds.

        None where there is none: `module` then keeps a dense weight of its own.
        """
        return None

    def connect(self, model: nn.Module) -> None:
        """Called when all packed layers of `model` are in their places: find the one that this is `tied_to`."""


def packed(module: nn.Module, stored: Sequence[tuple[Site, Any]]) -> PackedLayer | None:
    """The packed layer that stands for `module`, of the kind registered last that can; see `PackedLayer.pack`."""
    kinds = reversed(PackedLayer.registry.all())
    return next((layer for kind in kinds if (layer := kind.pack(module, stored)) is not None), None)


def packed_layers(model: nn.Module) -> dict[str, PackedLayer]:
    """The packed layers of `model` by name. What one is made of, as the matrices of experts, is part of it."""
    found: dict[str, PackedLayer] = {}
    whole = "."
    for name, module in model.named_modules():  # what is inside a module follows it
        if isinstance(module, PackedLayer) and not name.startswith(whole):
            found[name], whole = module, f"{name}."
    return found


def tied(model: nn.Module, module: nn.Module, name: str, layer: PackedLayer) -> dict[str, PackedLayer]:
    """What stands for the modules whose weight is also that of `module`, called `name`, which `layer` stands for."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    sharing = {
        other: there
        for other, there in model.named_modules()
        if there is not module and any(parameter is weight for parameter in there.parameters(recurse=False))
    }
    return {other: part for other, there in sharing.items() if (part := layer.tied(there, name)) is not None}


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` into `model` where `name` is now, for good; `Edits.set_module` is what can be undone."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def describe(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The packed layers of `model` by name: all that is needed to make them anew, empty, with `install`."""
    layers = packed_layers(model)
    for layer in layers.values():
        layer.registry.require(type(layer))
    return {name: {"layer": layer.id, **layer.describe()} for name, layer in layers.items()}


def install(model: nn.Module, described: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the empty packed layers that `describe` described into `model`, in the place of its dense ones.

    Raises:
        InputError: `model` has no such layer, or a description is damaged or of a kind not known here.
    """
    for name, entry in described.items():
        try:
            dense = model.get_submodule(name)
        except AttributeError:
            raise InputError(f"{name} is packed here, but {type(model).__name__} has no such layer") from None
        settings = dict(entry)
        # Before layers had ids, there were these two.
        kind = settings.pop("layer", "quant.trit_linear" if "planes" in settings else "quant.grid_linear")
        try:
            layer = PackedLayer.registry.find(kind).from_description(dense, settings)
        except (TypeError, AttributeError):
            raise InputError(f"{name} is packed, and described by unknown settings: {dict(entry)}") from None
        put(model, name, layer)
    for name in described:
        layer: Any = model.get_submodule(name)
        layer.connect(model)
