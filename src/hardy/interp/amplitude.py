"""Amplitude manipulation: located objects are scaled, silenced or held at a value; blocks are skipped, tokens dropped.

Sources: knowledge neurons (Dai et al. 2022), clamped features of sparse autoencoders (Templeton et al. 2024) with what
the autoencoder leaves unexplained kept, skipped layers (Men et al. 2024).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks, hooks
from hardy.core.method import Method
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks.point import resolve
from hardy.interp.objects import Unit, unit_named
from hardy.interp.sae import SAE, depth_of
from hardy.interp.steering import Steered, block_name
from hardy.report import Row


class Changing:
    """Changes an activation in the tensor that holds it: a function for `Steered`."""

    def __init__(self, point: hooks.Point, change: Any) -> None:
        self.point, self.change = point, change

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        lead = (1, len(tensor))  # where batch and positions are one axis, they are told apart by nobody here
        activation = self.point.take(tensor, lead)
        new = self.change(activation)
        return tensor if new is activation else self.point.put(tensor, new.to(activation.dtype), lead)


def change_activation(model: nn.Module, edits: Edits, point: hooks.Point, change: Any) -> None:
    """Let `change` see and replace an activation from now on, until the edits are undone.

    Raises:
        InputError: the activation is inside of a module's computation, where nothing can be put in its place.
    """
    if point.side not in ("input", "output") or point.stream or point.index or point.fixed:
        raise InputError(f"{point.name} is met inside of {point.module or 'the model'}; change it with interp.patch")
    module = model.get_submodule(point.module)
    edits.swap(module, "forward", Steered(module, Changing(point, change), point.side))


class _Scale:
    """Scales, or holds at a value, some units of an activation."""

    def __init__(self, places: Sequence[tuple[slice | int, ...]], scale: float, value: float | None) -> None:
        self.places, self.scale, self.value = places, scale, value

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        if self.scale == 1 and self.value is None:
            return activation
        new = activation.clone()
        for place in self.places:
            new[place] = activation[place] * self.scale if self.value is None else self.value
        return new


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amplitude(Method):
    """Multiplies the activations of objects, or holds them at a value, at every position.

    It works inside `generate`, on packed layers and on a chip, and is applied again to a model that is loaded.

    Args:
        units: names of objects, as rankings have them ("blocks.3.attn.z.5", "blocks.1.mlp.post.17"), without positions.
        scale: 0 silences, 1 changes nothing, to the last bit.
        value: what they are held at instead; None to scale.
        sae: folder of the sparse autoencoder whose features the units are; "" where they are none.
    """

    units: tuple[str, ...]
    scale: float = 0.0
    value: float | None = None
    sae: str = ""

    def check(self) -> None:
        names = checks.texts("units", self.units)
        if not names:
            raise InputError("units needs at least one object, got none")
        for name in names:
            if unit_named(name).position is not None:
                raise InputError(f"units have no positions here, got {name!r}; patch one prompt with interp.patch")
        object.__setattr__(self, "units", names)
        checks.number("scale", self.scale)
        if self.value is not None:
            checks.number("value", self.value)
        checks.text("sae", self.sae)

    @property
    def reapplied(self) -> bool:
        return True

    def __str__(self) -> str:
        some = ", ".join(self.units[:3]) + (f" and {len(self.units) - 3} more" if len(self.units) > 3 else "")
        return f"Amplitude({some}: {f'scale {self.scale:g}' if self.value is None else f'value {self.value:g}'})"

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        points: Mapping[str, hooks.Point] = {}
        if self.sae:
            sae = SAE.load(self.sae).to(next(model.parameters()).device)
            points = {sae.name: sae.point_in(model)}
        grouped: dict[str, list[Unit]] = {}
        for name in self.units:
            grouped.setdefault(unit_named(name).point, []).append(unit_named(name))
        for point, units in grouped.items():
            if point.endswith(".feature") and point not in points:
                raise InputError(f"{point} is of a sparse autoencoder: give its folder as sae=, got {self.sae!r}")
            found = points.get(point) or resolve(model, [point])[0]
            check_indices(model, found, units)
            change_activation(model, edits, found, _Scale([unit.place for unit in units], self.scale, self.value))
        return [Row(metric="units", condition=point, value=len(units)) for point, units in grouped.items()]


def check_indices(model: nn.Module, point: hooks.Point, units: Sequence[Unit]) -> None:
    """Raise where an activation has no such head, neuron or feature."""
    shapes: list[torch.Size] = []
    ids = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    with torch.no_grad(), hooks.watch(model, {point: lambda x: shapes.append(x.shape)}, stop=True):
        model(input_ids=ids, use_cache=False)
    for unit in units:
        size = shapes[0][2]
        if unit.index is not None and unit.index >= size:
            raise InputError(f"{unit} is not there: {unit.point} has {size} of them")


class _Skipped:
    """Stands in for the forward of a block and gives back the stream that it is given."""

    def __call__(self, stream: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSkip(Method):
    """Leaves blocks out: the stream goes past them, and neither their weights nor their cache are touched.

    Args:
        layers: numbers of blocks, the first excepted, by which the cache counts its tokens; none changes nothing.
    """

    layers: tuple[int, ...]

    def check(self) -> None:
        for layer in checks.items("layers", self.layers):
            checks.integer("layers", layer, at_least=1)

    @property
    def reapplied(self) -> bool:
        return True

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        for layer in sorted(set(self.layers)):
            edits.swap(model.get_submodule(block_name(model, layer)), "forward", _Skipped())
        share = len(set(self.layers)) / depth_of(model)
        return [Row(metric="blocks_skipped", condition="of all", value=share)]


def without_tokens(inputs: Mapping[str, Any], positions: Sequence[int]) -> dict[str, Any]:
    """The inputs of a model with tokens dropped: nothing attends to them, all others stay where they were.

    Args:
        inputs: "input_ids" (n, positions) and what else the model takes.
        positions: of what is dropped, from the start, or negative from the end; the last cannot be.

    Raises:
        InputError: a position is not there, or is the last, from which the next token is read.
    """
    ids = inputs["input_ids"]
    length = ids.shape[1]
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask.clone()
    places = inputs.get("position_ids")
    if places is None:
        places = (mask.long().cumsum(-1) - 1).clamp_min(0)
    for position in positions:
        checks.integer("positions", position, at_least=-length, at_most=length - 1)
        if position % length == length - 1:
            raise InputError(f"the last token cannot be dropped: the next is read from it, got {position}")
        mask[:, position] = 0
    return {**inputs, "attention_mask": mask, "position_ids": places}
