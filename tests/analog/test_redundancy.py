"""Redundancy: independent copies, noise that falls with the root of their number, a shortcut that is exact."""

import dataclasses

import pytest
import torch
from models import build
from torch import nn

from hardy.analog import AnalogLinear, Deploy, Redundancy, equivalent_noise
from hardy.analog.redundancy import RedundantLinear
from hardy.core import select
from hardy.errors import InputError
from hardy.hardware import AdditiveNoise, Chip, LogNormalNoise, ProportionalNoise, model_cost
from hardy.hardware.device import AdditiveDevice, ProportionalDevice

ADDITIVE = Chip(device=AdditiveDevice(program=0.05))
PROPORTIONAL = Chip(device=ProportionalDevice(program=0.2))


def _layer() -> nn.Sequential:
    layer = nn.Sequential(nn.Linear(64, 48, device="meta"))
    random = torch.Generator().manual_seed(0)
    layer[0].weight = nn.Parameter(torch.randn(48, 64, generator=random))
    layer[0].bias = nn.Parameter(torch.randn(48, generator=random))
    return layer


def _deviations(chip: Chip, copies: int, seeds: range) -> torch.Tensor:
    """What chip instances hold on average over the copies, minus the weight, (seeds, 48, 64)."""
    found = []
    for seed in seeds:
        layer = _layer()
        clean = layer[0].weight.detach().clone()
        Redundancy(copies=copies, select="0").apply(layer)
        Deploy(chip=chip, seed=seed, select="linear").apply(layer)
        assert isinstance(layer[0], RedundantLinear)
        found.append(layer[0].weight.detach() - clean)
    return torch.stack(found)


@pytest.mark.parametrize("chip", [ADDITIVE, PROPORTIONAL], ids=["additive", "proportional"])
@pytest.mark.parametrize("copies", [2, 4])
def test_noise_falls_with_the_square_root_as_the_shortcut_says(chip: Chip, copies: int) -> None:
    once, several = (_deviations(chip, count, range(20)) for count in (1, copies))
    assert (several.std() / once.std()).item() == pytest.approx(copies**-0.5, rel=0.02)
    shortcut = equivalent_noise(Deploy(chip=chip), copies)
    assert isinstance(shortcut, Deploy)
    single = _deviations(shortcut.chip, 1, range(100, 120))
    assert (single.std() / several.std()).item() == pytest.approx(1, rel=0.02)
    # Not only the size: the two distributions agree at several quantiles, and level by level.
    quantiles = torch.tensor([0.05, 0.25, 0.75, 0.95])
    close = 0.03 * several.std().item()
    torch.testing.assert_close(single.quantile(quantiles), several.quantile(quantiles), atol=close, rtol=0)
    large = _layer()[0].weight.detach().abs() > 1.5
    assert (single[:, large].std() / several[:, large].std()).item() == pytest.approx(1, rel=0.05)


def test_the_copies_are_independent() -> None:
    layer = _layer()
    clean = layer[0].weight.detach().clone()
    Redundancy(copies=2, select="0").apply(layer)
    Deploy(chip=ADDITIVE, select="linear").apply(layer)
    first, second = ((copy.stored_weight().detach() - clean).flatten() for copy in layer[0].copies)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.06  # 3,072 weights


def test_stuck_cells_are_averaged_by_real_copies_only() -> None:
    faulty = dataclasses.replace(Chip(device=AdditiveDevice()), stuck_high=0.01)
    several = _deviations(faulty, 4, range(10))
    once = _deviations(faulty, 1, range(10))
    assert ((several != 0).double().mean() / (once != 0).double().mean()).item() == pytest.approx(4, rel=0.1)
    assert several.abs().max() < once.abs().max()


def test_each_copy_has_converters_of_its_own() -> None:
    layer = _layer()
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    expected = layer(x)
    Redundancy(copies=3, select="0").apply(layer)
    torch.testing.assert_close(layer(x), expected)
    coarse = dataclasses.replace(ADDITIVE, adc_bits=6, dac_bits=8)
    Deploy(chip=coarse, seed=1, select="linear").apply(layer)
    redundant: RedundantLinear = layer[0]  # pyright: ignore[reportAssignmentType]
    by_hand = sum(copy(x) for copy in redundant.copies) / 3 + redundant.bias
    torch.testing.assert_close(layer(x), by_hand)
    assert (layer(x) - expected).abs().max() > 0


def test_a_model_keeps_its_names_and_pays_for_its_copies(ids: torch.Tensor) -> None:
    model, plain = build("llama"), build("llama")
    before = model_cost(model, Chip.preset("reram-wan"), select="mlp").value("arrays", "all selected weights")
    Redundancy(copies=3, select="mlp", layers="0").apply(model)
    after = model_cost(model, Chip.preset("reram-wan"), select="mlp").value("arrays", "all selected weights")
    assert (before, after) == (6, 12)
    assert model.state_dict().keys() == plain.state_dict().keys()
    names = [site.name for site in select(model, "mlp.down")]
    assert names == [*(f"model.layers.0.mlp.down_proj.copies.{i}" for i in range(3)), "model.layers.1.mlp.down_proj"]
    Deploy(chip="pcm", select="mlp").apply(model)
    assert isinstance(model.get_submodule(names[1]), AnalogLinear)
    assert torch.isfinite(model(ids).logits).all()


def test_weight_noise_falls_on_each_copy_apart() -> None:
    model = _layer()
    clean = model[0].weight.detach().clone()
    Redundancy(copies=4, select="0").apply(model)
    AdditiveNoise(strength=0.1, select="linear").apply(model)
    deviation = (model[0].weight - clean) / clean.abs().amax(1, keepdim=True)
    assert deviation.std().item() == pytest.approx(0.05, rel=0.1)


def test_the_shortcut_refuses_what_is_not_one_draw() -> None:
    assert equivalent_noise(ProportionalNoise(strength=0.2), 4) == ProportionalNoise(strength=0.1)
    refused = {
        "LogNormalNoise is not Gaussian": LogNormalNoise(strength=0.1),
        "converters": Deploy(chip=Chip.preset("reram-wan")),
        "stuck cells": Deploy(chip=dataclasses.replace(ADDITIVE, stuck_low=0.01)),
        "wires": Deploy(chip=dataclasses.replace(ADDITIVE, wire_resistance=1.0)),
        "cells of PCM": Deploy(chip=Chip.preset("pcm").without_periphery()),
        "read noise in proportion": Deploy(chip=Chip(device=ProportionalDevice(program=0.1, read=0.1))),
    }
    for reason, noise in refused.items():
        with pytest.raises(InputError, match=f"no single draw is the mean of 2 copies: .*{reason}"):
            equivalent_noise(noise, 2)
    with pytest.raises(InputError, match="copies must be an integer of at least 1, got 0"):
        equivalent_noise(ProportionalNoise(strength=0.2), 0)


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match=r"experts.gate_up_proj is a MixtralExperts; it takes whole nn.Linear"):
        Redundancy().apply(build("mixtral"))
    model = build("llama")
    Deploy(chip="ideal", select="mlp").apply(model)
    with pytest.raises(InputError, match="is a AnalogLinear; apply Redundancy before it"):
        Redundancy(select="mlp").apply(model)
