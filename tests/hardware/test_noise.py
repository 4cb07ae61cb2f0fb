"""Weight noise against its formulas: moments, what it is relative to, and who draws what."""

import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import build
from torch import nn

from hardy.core import InputError, select, weight_of
from hardy.hardware import (
    AdditiveNoise,
    LogNormalNoise,
    ProportionalNoise,
    additive,
    log_normal,
    noise_scale,
    proportional,
)
from hardy.hardware.noise import Scale

MILLION = (1000, 1000)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of_growing_size() -> torch.Tensor:
    """(1000, 1000) weights whose rows differ in scale by up to a factor of four."""
    return torch.randn(MILLION, generator=seeded(1)) * torch.linspace(0.5, 2.0, 1000)[:, None]


def test_scales_against_their_definitions() -> None:
    weight = torch.tensor([[1.0, -3.0, 2.0], [0.0, 0.5, -0.25]])
    assert noise_scale(weight, "absolute") == 1
    assert noise_scale(weight, "tensor-absmax") == 3
    assert noise_scale(weight, "channel-absmax").tolist() == [[3.0], [0.5]]
    mean = weight.sum() / 6
    assert noise_scale(weight, "tensor-std").item() == pytest.approx(((weight - mean) ** 2).mean().sqrt().item())
    rows = [((row - row.mean()) ** 2).mean().sqrt().item() for row in weight]
    assert noise_scale(weight, "channel-std").flatten().tolist() == pytest.approx(rows)
    stack = torch.stack([weight, 10 * weight])
    for relative_to in get_args(Scale):
        if relative_to != "absolute":
            each = torch.stack([noise_scale(matrix, relative_to, 2).expand(2, 3) for matrix in stack])
            torch.testing.assert_close(noise_scale(stack, relative_to, 2).expand(2, 2, 3), each)
    assert noise_scale(weight, "tile-absmax", 2).tolist() == [[3.0, 3.0, 2.0], [3.0, 3.0, 2.0]]
    assert noise_scale(weight, "tile-absmax", 1).tolist() == weight.abs().tolist()
    torch.testing.assert_close(noise_scale(weight, "tile-std", 8)[0, 0], noise_scale(weight, "tensor-std")[0, 0])


@pytest.mark.parametrize("relative_to", get_args(Scale))
def test_additive_noise_has_the_moments_of_its_formula(relative_to: Scale) -> None:
    weight, strength = rows_of_growing_size(), 0.07
    noise = additive(weight, strength, relative_to, seeded()) - weight
    sigma = strength * noise_scale(weight, relative_to).expand(MILLION)
    normalised = noise / sigma
    assert abs(normalised.mean().item()) < 5e-3
    assert normalised.std().item() == pytest.approx(1, rel=0.01)
    assert (normalised**4).mean().item() == pytest.approx(3, rel=0.02), "Gaussian tails"
    # Level dependence: none. Small and large weights get noise of the same size, row by row.
    rank = weight.abs().argsort(1)
    small, large = normalised.gather(1, rank[:, :500]), normalised.gather(1, rank[:, 500:])
    assert small.std().item() == pytest.approx(large.std().item(), rel=0.01)
    # What it is relative to decides which rows get more.
    first, last = noise[:100].std().item(), noise[-100:].std().item()
    expected = sigma[-100:].square().mean().sqrt() / sigma[:100].square().mean().sqrt()
    assert last / first == pytest.approx(expected.item(), rel=0.01)
    assert (last / first > 2) == relative_to.startswith(("channel", "tile"))


def test_proportional_noise_has_the_moments_of_its_formula() -> None:
    weight, strength = rows_of_growing_size(), 0.07
    weight[:, ::10] = 0.0
    noisy = proportional(weight, strength, seeded())
    assert torch.equal(noisy == 0, weight == 0), "zeros stay exact, and nothing else becomes zero"
    alive = weight != 0
    factor = noisy[alive].double() / weight[alive].double() - 1
    assert abs(factor.mean().item()) < 5e-4
    assert factor.std().item() == pytest.approx(strength, rel=0.01)
    # Level dependence: the noise is as large as the weight it falls on.
    noise, size = (noisy - weight)[alive], weight[alive].abs()
    for low, high in ((0.1, 0.3), (0.5, 1.0), (2.0, 4.0)):
        level = (size > low) & (size < high)
        expected = strength * size[level].square().mean().sqrt().item()
        assert noise[level].std().item() == pytest.approx(expected, rel=0.02)


def test_log_normal_noise_has_the_moments_of_its_formula() -> None:
    weight, strength = rows_of_growing_size(), 0.3
    noisy = log_normal(weight, strength, seeded())
    assert torch.equal(noisy.sign(), weight.sign())
    logarithm = (noisy.double() / weight.double()).log()
    assert abs(logarithm.mean().item()) < 5e-3 * strength
    assert logarithm.std().item() == pytest.approx(strength, rel=0.01)


def draws(model: nn.Module, method: AdditiveNoise | ProportionalNoise, where: object) -> dict[str, torch.Tensor]:
    sites = select(model, where)
    clean = {site.name: weight_of(model, site).clone() for site in sites}
    with method.apply(model):
        return {site.name: weight_of(model, site) - clean[site.name] for site in sites}


@pytest.mark.parametrize("kind", [AdditiveNoise, ProportionalNoise, LogNormalNoise])
def test_a_draw_depends_on_seed_and_site_only(kind: type, llama: nn.Module) -> None:
    everywhere = draws(llama, kind(strength=0.1, seed=7), "linear,!head")
    downs = draws(llama, kind(strength=0.1, seed=7, select="mlp.down"), "mlp.down")
    assert len(downs) == 2
    for name, noise in downs.items():
        assert torch.equal(noise, everywhere[name]), "another selection in another order draws the same chip"
    other = draws(llama, kind(strength=0.1, seed=8), "linear,!head")
    assert not any(torch.equal(other[name], noise) for name, noise in everywhere.items())


def test_sites_and_seeds_are_independent() -> None:
    model = nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 400))
    noise = AdditiveNoise(strength=1.0, seed=7, relative_to="absolute")
    first, second = draws(model, noise, "linear").values()
    (other,) = draws(model, AdditiveNoise(strength=1.0, seed=8, relative_to="absolute", layers=0), "0").values()
    for a, b in ((first, second), (first, other)):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()
        assert abs(correlation) < 5 / 400, "within five standard errors of zero"


def test_the_same_chip_in_another_process() -> None:
    lines = (
        "import torch; from torch import nn; from hardy.hardware import AdditiveNoise",
        "torch.manual_seed(99); torch.rand(5); model = nn.Sequential(nn.Linear(16, 4), nn.Linear(4, 4))",
        "model[0].weight.data = torch.arange(64.0).reshape(4, 16)",
        "AdditiveNoise(strength=0.1, seed=3, layers=0).apply(model)",
        "print([x.hex() for x in model[0].weight.flatten().tolist()])",
    )
    source = Path(__file__).parents[2] / "src"
    out = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env={"PYTHONPATH": str(source), "PYTHONHASHSEED": "5"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    model = nn.Sequential(nn.Linear(16, 4))
    model[0].weight.data = torch.arange(64.0).reshape(4, 16)
    AdditiveNoise(strength=0.1, seed=3).apply(model)
    assert out.stdout.strip() == str([x.hex() for x in model[0].weight.flatten().tolist()])


@given(strength=st.floats(0.001, 10), factor=st.sampled_from([2.0, 0.5, 8.0]))
def test_relative_noise_scales_with_the_weights(strength: float, factor: float) -> None:
    weight = torch.randn(3, 8, generator=seeded(2))
    for relative_to in get_args(Scale):
        one = additive(weight, strength, relative_to, seeded()) - weight
        many = additive(factor * weight, strength, relative_to, seeded()) - factor * weight
        expected = one if relative_to == "absolute" else factor * one
        torch.testing.assert_close(many, expected, rtol=1e-3, atol=1e-4 * strength + 1e-5)


def test_zero_strength_keeps_the_sign_of_zero() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[-0.0, 1.0]])
    for noise in (AdditiveNoise(strength=0), ProportionalNoise(strength=0), LogNormalNoise(strength=0)):
        noise.apply(model)
        assert torch.signbit(model[0].weight).tolist() == [[True, False]]


def test_bfloat16_gets_the_same_chip_rounded() -> None:
    exact, rounded = build("llama"), build("llama", dtype=torch.bfloat16)
    exact.load_state_dict({name: tensor.float() for name, tensor in rounded.state_dict().items()})
    noise = AdditiveNoise(strength=0.1)
    noise.apply(exact)
    noise.apply(rounded)
    for name, tensor in rounded.state_dict().items():
        assert torch.equal(tensor, exact.state_dict()[name].bfloat16())


@pytest.mark.parametrize("relative_to", ["max", "", None])
def test_what_it_is_relative_to_must_be_named(relative_to: object) -> None:
    with pytest.raises(InputError, match="relative_to must be absolute, tensor-absmax"):
        AdditiveNoise(strength=0.1, relative_to=relative_to)


def test_a_draw_costs_little_more_than_its_random_numbers() -> None:
    """Twice them on a matrix of a real model; ten times before errors were summed in pieces. Best of several rounds."""
    model = nn.Sequential(nn.Linear(2048, 2048))
    random, applied = [], []
    for _ in range(7):
        begun = time.thread_time()
        torch.randn_like(model[0].weight)
        random.append(time.thread_time() - begun)
        begun = time.thread_time()
        change = AdditiveNoise(strength=0.05, select="linear").apply(model)
        applied.append(time.thread_time() - begun)
        change.undo()
    assert min(applied) < 4 * min(random)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_weight_is_found_and_large_ones_are_not_bad(bad: float) -> None:
    model = nn.Sequential(nn.Linear(600, 600))
    model[0].weight.data.fill_(3e38)  # their sum overflows
    AdditiveNoise(strength=0.0, select="linear").apply(model).undo()
    model[0].weight.data[599, 3] = bad
    with pytest.raises(InputError, match="0 holds 1 NaN or infinite weights of 360000"):
        AdditiveNoise(strength=0.1, select="linear").apply(model)


def test_numbers_of_numpy_are_those_of_python() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    ours, theirs = (
        AdditiveNoise(strength=kind(0.5), seed=whole(3)) for kind, whole in ((float, int), (np.float64, np.int64))
    )
    assert theirs == ours
    assert theirs.to_dict() == ours.to_dict()
    assert type(theirs.seed) is int
    first, second = (draws(model, noise, "linear")["0"] for noise in (ours, theirs))
    assert torch.equal(first, second)
