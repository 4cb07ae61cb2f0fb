"""Activations: their formulas in a field, their initial weights, and what they refuse."""

import math

import pytest
import torch
from reference.fields import field_at

from hardy.core import InputError
from hardy.fields import Field, Finer, Gauss, Quad, Relu, Sine, Wire
from hardy.fields.activations import KINDS, activation
from hardy.fields.field import stacked

EVERY = pytest.mark.parametrize("kind", KINDS)


@EVERY
def test_a_field_is_its_formula(kind: str) -> None:
    field = Field(2, 3, hidden_features=9, hidden_layers=2, activation=kind, seed=3)
    points = torch.rand(7, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = torch.tensor([field_at(field, point) for point in points.tolist()])
    torch.testing.assert_close(field(points), expected, atol=2e-4, rtol=2e-4)


@EVERY
def test_many_networks_are_the_networks(kind: str) -> None:
    fields = [Field(3, 2, hidden_features=8, hidden_layers=1, activation=kind, seed=seed) for seed in range(3)]
    points = torch.rand(2, 11, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shared = fields[0].evaluate(stacked(fields), points[:1])
    assert shared.shape == (3, 11, 2)
    assert not shared.is_complex()
    torch.testing.assert_close(shared, torch.stack([field(points[0]) for field in fields]), atol=1e-5, rtol=1e-5)
    own = fields[0].evaluate(stacked(fields[:2]), points)
    torch.testing.assert_close(own[1], fields[1](points[1]), atol=1e-5, rtol=1e-5)


@EVERY
def test_initial_weights_come_from_the_seed_alone(kind: str) -> None:
    state = torch.get_rng_state()
    one, same, other = (Field(2, 1, hidden_features=16, activation=kind, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.layers[1].weight, other.layers[1].weight)


@pytest.mark.parametrize("kind", ["sine", "quad", "triangle"])
def test_hidden_layers_start_with_unit_pre_activations(kind: str) -> None:
    field = Field(2, 1, hidden_features=512, hidden_layers=3, activation=kind)
    x = torch.rand(2000, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for index, layer in enumerate(field.layers[:-1]):
        z = field.activation.factor(index == 0) * layer(x)
        if index:
            unbiased = z - field.activation.factor(False) * layer.bias
            assert unbiased.std().item() == pytest.approx(1.0, rel=0.08)
        x = field.activation.function(z)


def test_first_layers_are_within_their_bounds() -> None:
    weight = Field(3, 1, hidden_features=999, activation="quad").layers[0].weight
    assert 0.99 / 3 < weight.abs().max().item() <= 1 / 3
    bias = Field(2, 1, hidden_features=999, activation=Finer(first_bias=4.0)).layers[0].bias
    assert 3.9 < bias.abs().max().item() <= 4


def test_relu_gets_sines_of_doubling_frequencies() -> None:
    encoded = Relu(frequencies=3).encode(torch.tensor([[0.25, -1.0]]))
    octaves = [1, 2, 4]
    expected = [0.25, -1.0]
    expected += [math.sin(k * math.pi * x) for x in (0.25, -1.0) for k in octaves]
    expected += [math.cos(k * math.pi * x) for x in (0.25, -1.0) for k in octaves]
    assert encoded.tolist()[0] == pytest.approx(expected, abs=1e-6)
    assert Field(2, 1, activation=Relu(frequencies=3)).layers[0].in_features == 14


def test_wire_is_narrower() -> None:
    assert Field(2, 3, hidden_features=256, activation="wire").layers[1].weight.shape == (181, 181)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: activation("sin"), "one of sine, quad, .* got 'sin'; did you mean sine"),
        (lambda: activation(3), "got 3"),  # pyright: ignore[reportArgumentType]
        (lambda: Sine(first_omega=0), "first_omega of sine must be a finite number above 0, got 0"),
        (lambda: Quad(hidden_omega=float("nan")), "hidden_omega of quad .* got nan"),
        (lambda: Gauss(scale=-1.0), "scale of gauss .* got -1.0"),
        (lambda: Wire(omega=True), "omega of wire .* got True"),
        (lambda: Relu(frequencies=0), "frequencies of relu must be an integer from 1 to 24, got 0"),
        (lambda: Field(0, 3), "in_features must be an integer of at least 1, got 0"),
        (lambda: Field(2, 3, hidden_layers=1.5), "hidden_layers .* got 1.5"),  # pyright: ignore[reportArgumentType]
        (lambda: Field(2, 3)(torch.zeros(4, 3)), r"takes coordinates \(..., 2\), got shape \(4, 3\)"),
        (lambda: Field(2, 3).render((4,)), r"a grid of 2 sizes is wanted, got \(4,\)"),
        (lambda: stacked([]), "no fields"),
        (
            lambda: stacked([Field(2, 3), Field(2, 3, hidden_features=8)]),
            "hidden_features of field 1 is 8, not 256",
        ),
        (lambda: stacked([Field(2, 3), Field(2, 3, activation="quad")]), "activation of field 1"),
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
