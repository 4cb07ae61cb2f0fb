"""Any multilayer perceptron as real matrices and functions between them, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from hardy.errors import InputError
from hardy.fields.activations import Activation, Relu
from hardy.fields.field import Field


@dataclasses.dataclass(frozen=True, eq=False)
class Unrolled:
    """`y = W_n f_n-1(... f_0(W_0 encode(x) + b_0) ...) + b_n`.

    Attributes:
        weights: (out, in) each, float64, with the activation's factor multiplied in.
        biases: (out,) each, likewise.
        functions: between them, one fewer; of (points, features), float64.
        kinds: the fields' activation of each function, None for a function of its own.
        frequencies: of the encoding of coordinates as sines and cosines, 0 for none.
        parts: 2 where features are real parts and then imaginary ones, else 1.
    """

    weights: list[torch.Tensor]
    biases: list[torch.Tensor]
    functions: list[Callable[[torch.Tensor], torch.Tensor]]
    kinds: list[Activation | None]
    frequencies: int = 0
    parts: int = 1

    def activations(self, coordinates: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Arguments and values of each function at `coordinates` (points, d), and what comes out at the end."""
        x = coordinates.double()
        x = Relu(frequencies=self.frequencies).encode(x) if self.frequencies else x
        arguments, values = [], []
        for weight, bias, function in zip(self.weights, self.biases, self.functions, strict=False):
            arguments.append(x @ weight.T + bias)
            x = function(arguments[-1])
            values.append(x)
        return arguments, values, x @ self.weights[-1].T + self.biases[-1]


def unrolled(model: nn.Module) -> Unrolled:
    """`model` as matrices and functions; complex layers as real ones of twice the size.

    Args:
        model: a `Field`, or an `nn.Sequential` of `nn.Linear` with one module that works element by element, or
            none, after each but the last.

    Raises:
        InputError: it is something else, or a weight is NaN or infinite.
    """
    layers = _of_field(model) if isinstance(model, Field) else _of_sequence(model)
    for index, tensors in enumerate(zip(layers.weights, layers.biases, strict=True)):
        if not all(torch.isfinite(tensor).all() for tensor in tensors):
            raise InputError(f"layer {index} holds NaN or infinite weights")
    return layers


def _of_field(field: Field) -> Unrolled:
    if field.encoding is not None:
        raise InputError(
            "a field with a hash grid has no form in integers, whose layers begin at coordinates; it is kept in "
            "floating point by save_field, or take a field without an encoding"
        )
    kind, last = field.activation, field.hidden_layers
    weights, biases = [], []
    for index in range(last + 1):
        factor = 1.0 if index == last else kind.factor(index == 0)
        weight, bias = (factor * field.get_parameter(f"layers.{index}.{name}").detach() for name in ("weight", "bias"))
        if weight.is_complex():
            # The first layer's input is real; of the last layer's output the real part is all that is wanted.
            upper, lower = [weight.real], [weight.imag]
            if index:
                upper, lower = [weight.real, -weight.imag], [weight.imag, weight.real]
            rows = [torch.cat(upper, 1)] if index == last else [torch.cat(upper, 1), torch.cat(lower, 1)]
            weight = torch.cat(rows)
            bias = bias.real if index == last else torch.cat([bias.real, bias.imag])
        weights.append(weight.double().cpu())
        biases.append(bias.double().cpu())

    def function(x: torch.Tensor) -> torch.Tensor:
        if not kind.dtype.is_complex:
            return kind.function(x)
        values = kind.function(torch.complex(*(part.contiguous() for part in x.chunk(2, -1))))
        return torch.cat([values.real, values.imag], -1)

    frequencies = kind.frequencies if isinstance(kind, Relu) else 0
    return Unrolled(weights, biases, [function] * last, [kind] * last, frequencies, 2 if kind.dtype.is_complex else 1)


def _of_sequence(model: nn.Module) -> Unrolled:
    wanted = "a Field or an nn.Sequential of nn.Linear with an element-wise module after each but the last"
    modules = list(model) if isinstance(model, nn.Sequential) else []
    linear = modules[::2]
    if not modules or len(modules) % 2 == 0 or any(not isinstance(module, nn.Linear) for module in linear):
        raise InputError(f"integers are made of {wanted}; got {type(model).__name__}")
    weights, biases = [], []
    for layer in linear:
        assert isinstance(layer, nn.Linear)
        weights.append(layer.weight.detach().double().cpu())
        bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
        biases.append(bias.detach().double().cpu())
    functions = modules[1::2]
    probe = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for function in functions:
        with torch.no_grad():
            alone = torch.stack([function(value[None, None])[0, 0] for value in probe])
            if any(True for _ in function.parameters()) or not torch.equal(function(probe[None])[0], alone):
                raise InputError(f"integers are made of {wanted}; {type(function).__name__} is not element-wise")
    return Unrolled(weights, biases, list(functions), [None] * len(functions))
