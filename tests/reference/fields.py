"""Fields one network, one layer and one point at a time, from the formulas."""

import cmath
import math
from typing import Any

import torch

from hardy.fields import Field


def quad_wave(x: float) -> float:
    """The quadratic wave from its two pieces on one period, (-2, 2]."""
    x = x - 4 * math.ceil((x - 2) / 4)
    return x * x + 2 * x if x <= 0 else -x * x + 2 * x


def triangle_wave(x: float) -> float:
    x = x % 4
    return x if x <= 1 else 2 - x if x <= 3 else x - 4


def activate(kind: Any, z: complex, first: bool) -> complex:
    """The activation of one pre-activation."""
    x = z.real
    if kind.name in ("sine", "quad", "triangle"):
        x = (kind.first_omega if first else kind.hidden_omega) * x
        return {"sine": math.sin, "quad": quad_wave, "triangle": triangle_wave}[kind.name](x)
    if kind.name == "finer":
        return math.sin(kind.omega * x * (abs(x) + 1))
    if kind.name == "gauss":
        return math.exp(-((kind.scale * x) ** 2))
    if kind.name == "wire":
        return cmath.exp(1j * kind.omega * z - abs(kind.scale * z) ** 2)
    return max(x, 0.0)


def field_at(field: Field, point: list[float]) -> list[float]:
    """The values of `field` at one point, in float64."""
    values: list[complex] = list(point)
    if field.activation.name == "relu":
        octaves = range(field.activation.frequencies)  # pyright: ignore[reportAttributeAccessIssue]
        values += [math.sin(2**k * math.pi * x) for x in point for k in octaves]
        values += [math.cos(2**k * math.pi * x) for x in point for k in octaves]
    for index, layer in enumerate(field.layers):
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        values = [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        if index < len(field.layers) - 1:
            values = [activate(field.activation, v, index == 0) for v in values]
    return [v.real for v in values]


def adam(field: Field, coordinates: torch.Tensor, values: torch.Tensor, steps: int, rate: float, decay: float) -> None:
    """Full-batch Adam written out, on the field itself."""
    parameters = list(field.parameters())
    first, second = [0.0 for _ in parameters], [0.0 for _ in parameters]
    for step in range(steps):
        error = (field(coordinates) - values).square().mean()
        slopes = torch.autograd.grad(error, parameters)
        with torch.no_grad():
            for i, (parameter, slope) in enumerate(zip(parameters, slopes, strict=True)):
                first[i] = 0.9 * first[i] + 0.1 * slope
                second[i] = 0.999 * second[i] + 0.001 * slope**2
                mean, square = first[i] / (1 - 0.9 ** (step + 1)), second[i] / (1 - 0.999 ** (step + 1))
                parameter -= rate * decay ** (step / steps) * mean / (square**0.5 + 1e-8)
