"""A field: a small network that is a signal, from coordinates in [-1, 1]^d to values in [-1, 1].

Source: SIREN (arXiv 2006.09661) and its successors, see `hardy.fields.activations`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.fields.activations import Activation, activation
from hardy.fields.hash_grid import HashGrid
from hardy.fields.signals import Signal, grid_coordinates
from hardy.reading import check_room

Parameters = Mapping[str, torch.Tensor]
"""Parameters by qualified name, each with a leading dimension of networks."""


TABLES = "tables.weight"
"""The parameter that holds the features of an encoding."""


def affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, factor: float) -> torch.Tensor:
    """`factor * (W x + b)` for many networks in one product.

    Args:
        x: (networks or 1, points, in).
        weight: (networks, out, in).
        bias: (networks, out).
        factor: multiplied into weight and bias, which are smaller than the result.

    Returns:
        (networks, points, out).
    """
    if x.dtype != weight.dtype:
        x = x.to(weight.dtype)
    x = x.expand(len(weight), -1, -1)
    return torch.baddbmm((factor * bias)[:, None], x, (factor * weight).mT)


class Field(nn.Module):
    """A multilayer perceptron on coordinates.

    Args:
        in_features: coordinates of a point: 2 for images, 3 for video and shapes, 1 for sound.
        out_features: channels of a value.
        hidden_features: units of each hidden layer.
        hidden_layers: how many layers of hidden units, at least 1: 3 stands for d - h - h - h - c.
        activation: a name, or an activation with settings such as `Quad(first_omega=30)`.
        encoding: a `HashGrid`, whose features the layers get in place of coordinates; None for coordinates, as the
            activation encodes them.
        seed: of the initial weights.

    Raises:
        InputError: a size is not a positive integer, or there is no such activation or encoding.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_features: int = 256,
        hidden_layers: int = 3,
        activation: str | Activation = "sine",
        encoding: HashGrid | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.in_features = checks.integer("in_features", in_features, at_least=1)
        self.out_features = checks.integer("out_features", out_features, at_least=1)
        self.hidden_features = checks.integer("hidden_features", hidden_features, at_least=1)
        self.hidden_layers = checks.integer("hidden_layers", hidden_layers, at_least=1)
        self.activation = _activation(activation)
        width = self.activation.width(self.hidden_features)
        if encoding is not None and not isinstance(encoding, HashGrid):
            raise InputError(f"encoding must be a HashGrid or None, got {encoding!r}")
        self.encoding = encoding
        if encoding is None:
            encoded = self.activation.encoded_features(self.in_features)
        else:
            encoded = encoding.encoded_features
            tables = encoding.draw_tables(self.in_features, generator(seed, "field", "tables"))
            self.tables = nn.Embedding.from_pretrained(tables, freeze=False)
        sizes = [encoded, *[width] * self.hidden_layers, self.out_features]
        self.layers = nn.ModuleList(
            initial_layer(self.activation, a, b, i == 0, generator(seed, "field", i))
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.get_parameter("layers.0.weight").device

    @property
    def settings(self) -> dict[str, Any]:
        """What two fields must have in common to be fitted in one batch: sizes, activation and encoding."""
        names = ("in_features", "out_features", "hidden_features", "hidden_layers", "activation", "encoding")
        return {name: getattr(self, name) for name in names}

    @property
    def learning_rate(self) -> float:
        """Of Adam, where a schedule names none."""
        return (self.encoding or self.activation).learning_rate

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        """The values (..., out_features) at `coordinates` (..., in_features) in [-1, 1], real.

        Raises:
            InputError: the last dimension is not `in_features`.
        """
        if coordinates.shape[-1:] != (self.in_features,):
            raise InputError(
                f"this field takes coordinates (..., {self.in_features}), got shape {tuple(coordinates.shape)}"
            )
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        tables = None if self.encoding is None else self.get_parameter(TABLES)
        x = self._encoded(coordinates, tables).to(first.weight.dtype)
        for index, layer in enumerate(self.layers[:-1]):
            x = self.activation.function(self.activation.factor(index == 0) * layer(x))
        return _real(self.layers[-1](x))

    def evaluate(self, parameters: Parameters, coordinates: torch.Tensor) -> torch.Tensor:
        """The values of many fields with the settings of this one, each layer in one product.

        Args:
            parameters: as `stacked` gives them; this field's own are not used.
            coordinates: (networks or 1, points, in_features).

        Returns:
            (networks, points, out_features), real; equal to `forward` up to rounding.
        """
        x = self._encoded(coordinates, parameters.get(TABLES))
        for index in range(self.hidden_layers):
            weight, bias = parameters[f"layers.{index}.weight"], parameters[f"layers.{index}.bias"]
            x = self.activation.function(affine(x, weight, bias, self.activation.factor(index == 0)))
        last = f"layers.{self.hidden_layers}"
        return _real(affine(x, parameters[f"{last}.weight"], parameters[f"{last}.bias"], 1.0))

    def _encoded(self, coordinates: torch.Tensor, tables: torch.Tensor | None) -> torch.Tensor:
        if self.encoding is None or tables is None:
            return self.activation.encode(coordinates)
        return self.encoding.encode(coordinates, tables)

    @torch.no_grad()
    def render(self, grid: Sequence[int], points_at_once: int = 65536) -> torch.Tensor:
        """The values at the centres of a grid's cells, (*grid, out_features), not clipped.

        Any grid will do: twice the one that was fitted gives the picture at twice the size, in place.

        Raises:
            InputError: the grid has not `in_features` positive sizes.
        """
        return render(self, self.in_features, self.device, grid, points_at_once)

    def psnr(self, signal: Signal) -> float:
        """The peak signal-to-noise ratio of this field as `signal`, in dB, its values clipped to [-1, 1]."""
        with torch.no_grad():
            blocks = [self(block.to(self.device)).cpu() for block in signal.coordinates.split(65536)]
        return signal.psnr(torch.cat(blocks).to(signal.values.device))


def render(
    model: nn.Module, in_features: int, device: torch.device, grid: Sequence[int], points_at_once: int
) -> torch.Tensor:
    """The values of `model` at the centres of a grid's cells, (*grid, channels), on the CPU."""
    if len(grid) != in_features:
        raise InputError(f"a grid of {in_features} sizes is wanted, got {grid!r}")
    checks.integer("points_at_once", points_at_once, at_least=1)
    blocks = [model(block.to(device)).cpu() for block in grid_coordinates(grid).split(points_at_once)]
    return torch.cat(blocks).reshape(*grid, -1)


def stacked(fields: Sequence[Field]) -> dict[str, torch.Tensor]:
    """The parameters of `fields`, each (networks, ...), copied and detached.

    Raises:
        InputError: there are none, or they differ in sizes or activation.
    """
    if not fields:
        raise InputError("no fields are given")
    for index, field in enumerate(fields):
        for name, value in field.settings.items():
            if value != (wanted := fields[0].settings[name]):
                raise InputError(f"fields of one batch must be alike: {name} of field {index} is {value}, not {wanted}")
    return {
        name: torch.stack([field.get_parameter(name).detach() for field in fields])
        for name, _ in fields[0].named_parameters()
    }


@torch.no_grad()
def unstack(parameters: Parameters, fields: Sequence[nn.Module]) -> None:
    """Give each of `fields` its row of `parameters`."""
    for name, rows in parameters.items():
        for row, field in zip(rows, fields, strict=True):
            field.get_parameter(name).copy_(row)


def initial_layer(kind: Activation, fan_in: int, out: int, first: bool, random: torch.Generator) -> nn.Linear:
    """A linear layer with the initial weights of `kind`, drawn from `random`."""
    check_room(f"a layer of {fan_in} x {out}", 2 * fan_in * out * kind.dtype.itemsize)  # the weights and their draw
    layer = nn.utils.skip_init(nn.Linear, fan_in, out, dtype=kind.dtype)
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(kind.draw_weight(out, fan_in, first, random))
        layer.bias.copy_(kind.draw_bias(out, fan_in, first, random))
    return layer


_activation = activation  # `Field.__init__` has an argument of this name


def _real(values: torch.Tensor) -> torch.Tensor:
    return values.real if values.is_complex() else values
