"""Robust losses: gradients against the formulas on one network, batches, warm-up, and what they buy."""

import dataclasses

import pytest
import torch
from torch.func import functional_call

from hardy.core import InputError, generator
from hardy.fields import (
    Field,
    GradientNorm,
    Loss,
    Schedule,
    SharpnessAware,
    SquaredError,
    WeightPerturbation,
    fit,
    fit_many,
    noisy_psnr,
    robustness,
    sample_photo,
)
from hardy.fields.field import stacked
from hardy.fields.samples import Samples
from hardy.hardware import AdditiveNoise, ProportionalNoise

SIGNAL = sample_photo("flower", 12)
NOISE = AdditiveNoise(strength=0.05, relative_to="tensor-std", seed=4)
LOSSES: list[Loss] = [
    SquaredError(),
    GradientNorm(strength=0.1),
    GradientNorm(strength=0.1, norm="l1"),
    GradientNorm(strength=0.1, norm="squared"),
    SharpnessAware(radius=0.05),
    SharpnessAware(radius=0.05, scaling="weight"),
    SharpnessAware(radius=0.05, scaling="range"),
    WeightPerturbation(noise=NOISE),
    WeightPerturbation(noise=ProportionalNoise(strength=0.1)),
]
EVERY = pytest.mark.parametrize("loss", LOSSES, ids=str)


def small(seed: int = 0, kind: str = "sine") -> Field:
    return Field(2, 3, hidden_features=10, hidden_layers=2, activation=kind, seed=seed)


def gradients(loss: Loss, fields: list[Field], progress: float = 1.0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    samples = Samples.of([SIGNAL] * len(fields))
    leaves = {name: tensor.requires_grad_() for name, tensor in stacked(fields).items()}
    return loss.gradients(
        lambda at: samples.error(fields[0].evaluate(at, samples.coordinates)), leaves, step=3, progress=progress
    )


def expected(loss: Loss, field: Field) -> dict[str, torch.Tensor]:
    """The gradients of one network, from the definitions, at full strength."""
    parameters = dict(field.named_parameters())
    matrices = [name for name in parameters if name.endswith("weight")]

    def error(at: dict[str, torch.Tensor]) -> torch.Tensor:
        return (functional_call(field, at, (SIGNAL.coordinates,)) - SIGNAL.values).square().mean()

    def slopes(value: torch.Tensor, names: list[str]) -> list[torch.Tensor]:
        return list(torch.autograd.grad(value, [parameters[n] for n in names], create_graph=True, allow_unused=True))

    value = error(parameters)
    if isinstance(loss, GradientNorm):
        flat = torch.cat([s.flatten() for s in slopes(value, matrices)])
        norm = {"l2": flat.norm(), "l1": flat.abs().sum(), "squared": flat @ flat}[loss.norm]
        value = value + loss.strength * norm
    elif isinstance(loss, SharpnessAware):
        steps = {}
        for name, slope in zip(matrices, slopes(value, matrices), strict=True):
            weight = parameters[name].detach()
            unit = {"none": torch.ones(()), "weight": weight.abs(), "range": weight.abs().max()}[loss.scaling]
            steps[name] = (unit, (unit * slope).detach())
        length = torch.cat([step.flatten() for _, step in steps.values()]).norm()
        moved = {name: parameters[name] + loss.radius * unit * step / length for name, (unit, step) in steps.items()}
        value = error(parameters | moved)
    elif isinstance(loss, WeightPerturbation):
        moved = {}
        for name in matrices:
            weight = parameters[name].detach()
            noisy = loss.noise.draw(weight, generator(loss.noise.seed, "perturbation", name, 3))
            moved[name] = parameters[name] + (noisy - weight)
        value = error(parameters | moved)
    return {n: s.detach() for n, s in zip(parameters, slopes(value, list(parameters)), strict=True)}


@EVERY
@pytest.mark.parametrize("kind", ["sine", "quad", "gauss"])
def test_gradients_are_those_of_the_definition_for_each_network_of_a_batch(loss: Loss, kind: str) -> None:
    fields = [small(seed, kind) for seed in range(2)]
    _, found = gradients(loss, fields)
    for index, field in enumerate(fields):
        for name, wanted in expected(loss, field).items():
            torch.testing.assert_close(found[name][index], wanted, atol=2e-5, rtol=2e-3)


@EVERY
def test_errors_come_back_for_each_network(loss: Loss) -> None:
    errors, found = gradients(loss, [small(0), small(1)], progress=0.0)
    assert errors.shape == (2,)
    assert not errors.requires_grad
    plain_errors, plain = gradients(SquaredError(), [small(0), small(1)])
    torch.testing.assert_close(errors, plain_errors)
    if not isinstance(loss, SquaredError):
        for name, slope in plain.items():
            torch.testing.assert_close(found[name], slope, msg="at the beginning of the warm-up a loss is plain")


def test_warm_up_is_linear_and_can_be_left_out() -> None:
    loss = GradientNorm(warmup=0.4)
    assert [loss.ramp(p) for p in (0.0, 0.1, 0.2, 0.4, 1.0)] == pytest.approx([0, 0.25, 0.5, 1, 1])
    assert GradientNorm(warmup=0).ramp(0.0) == 1


@EVERY
@pytest.mark.parametrize("kind", ["wire", "finer", "relu"])
def test_every_activation_can_be_trained_with_every_loss(loss: Loss, kind: str) -> None:
    field = small(kind=kind)
    before = field.psnr(SIGNAL)
    assert fit(field, SIGNAL, loss=loss, schedule=Schedule(steps=30)).psnr > before


def test_a_network_gets_the_noise_it_would_get_alone() -> None:
    loss, schedule = WeightPerturbation(noise=NOISE), Schedule(steps=10)
    together = [small(0), small(1)]
    fit_many(together, [SIGNAL] * 2, loss=loss, schedule=schedule)
    alone = small(1)
    fit(alone, SIGNAL, loss=loss, schedule=schedule)
    torch.testing.assert_close(alone.layers[1].weight, together[1].layers[1].weight, atol=1e-3, rtol=1e-3)


def test_noise_on_a_field_is_noise_on_a_model() -> None:
    field = small()
    fit(field, SIGNAL, schedule=Schedule(steps=50))
    found = noisy_psnr(field, SIGNAL, NOISE, instances=3)
    for index in range(3):
        noise = dataclasses.replace(NOISE, seed=NOISE.seed + index, select="linear")
        with noise.apply(field):
            assert found[index].item() == pytest.approx(field.psnr(SIGNAL), abs=1e-3)


def test_robustness_reports_clean_and_noisy_with_spread() -> None:
    field = small()
    fit(field, SIGNAL, schedule=Schedule(steps=100))
    noises = [AdditiveNoise(strength=s, relative_to="tensor-std") for s in (0.0, 0.02, 0.1)]
    rows = robustness(field, SIGNAL, noises, instances=4)
    assert [row.n for row in rows] == [1, 4, 4, 4]
    clean, none, little, much = (row.value for row in rows)
    assert clean == pytest.approx(none, abs=1e-3)
    assert clean > little > much
    assert rows[1].spread == 0
    assert (rows[2].spread or 0) > 0
    assert rows[2].baseline == rows[0].condition


def test_a_complex_field_has_noise_too() -> None:
    field = small(kind="wire")
    fit(field, SIGNAL, schedule=Schedule(steps=60))
    assert noisy_psnr(field, SIGNAL, AdditiveNoise(strength=0.2, relative_to="tensor-std")).mean() < field.psnr(SIGNAL)


def test_perturbation_in_training_helps_under_noise_and_costs_without() -> None:
    """The shape of the claim, small: at 10 % noise the field trained with noise is the better one."""
    signal, schedule = sample_photo("flower", 32), Schedule(steps=400)
    noise = AdditiveNoise(strength=0.1, relative_to="tensor-std", seed=100)
    fields = {}
    for name, loss in {
        "plain": SquaredError(),
        "perturbed": WeightPerturbation(noise=dataclasses.replace(noise, seed=0)),
        "gradient norm": GradientNorm(strength=0.03),
    }.items():
        fields[name] = Field(2, 3, hidden_features=32, hidden_layers=3, seed=0)
        fit(fields[name], signal, loss=loss, schedule=schedule)
    noisy = {name: noisy_psnr(field, signal, noise).mean().item() for name, field in fields.items()}
    clean = {name: field.psnr(signal) for name, field in fields.items()}
    assert noisy["perturbed"] > noisy["plain"] + 2
    assert noisy["gradient norm"] > noisy["plain"]
    assert clean["plain"] > clean["perturbed"]
    assert clean["plain"] > clean["gradient norm"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientNorm(strength=0), "strength .* above 0, got 0"),
        (lambda: GradientNorm(norm="l3"), "norm must be l2, l1 or squared, got 'l3'"),  # pyright: ignore
        (lambda: GradientNorm(warmup=1.5), "warmup .* from 0 to 1, got 1.5"),
        (lambda: GradientNorm(warmup=float("nan")), "warmup .* got nan"),
        (lambda: SharpnessAware(radius=-1), "radius .* got -1"),
        (lambda: SharpnessAware(scaling="layer"), "scaling must be none, weight or range"),  # pyright: ignore
        (lambda: WeightPerturbation(noise=0.05), "noise must be AdditiveNoise or .* got 0.05"),  # pyright: ignore
        (lambda: noisy_psnr(small(), SIGNAL, NOISE, instances=0), "instances .* got 0"),
        (lambda: robustness(small(), SIGNAL, [NOISE], instances=1), "instances .* at least 2, got 1"),
        (lambda: robustness(small(), SIGNAL, [3]), "noise must be .* got 3"),  # pyright: ignore
        (lambda: noisy_psnr(Field(1, 3), SIGNAL, NOISE), "the field has 1 coordinates"),
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
