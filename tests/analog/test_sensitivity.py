"""The sensitivity scan: each part alone is noisy, and what it finds is there."""

import pytest
import torch
from models import build, snapshot

from hardy.analog import Deploy, noise_sensitivity
from hardy.core import select
from hardy.errors import InputError
from hardy.evaluate import mean_loss
from hardy.hardware import ProportionalNoise
from hardy.quant import RoundToNearest

NOISE = ProportionalNoise(strength=0.3)


@pytest.mark.parametrize("unit", ["projection", "block", "role"])
def test_each_part_alone(unit, ids: torch.Tensor) -> None:
    model = build("mamba")
    before = snapshot(model)
    ranking = noise_sensitivity(model, [ids], noise=NOISE, unit=unit, seeds=(4,))
    assert snapshot(model).keys() == before.keys()
    name = ranking.top(1)[0]
    linear = {site.name for site in select(model, "linear,!head,!router")}
    alone = tuple(site.name for site in select(model, name) if site.name in linear)
    with torch.inference_mode():
        intact = mean_loss(model, [ids])
        with ProportionalNoise(strength=0.3, seed=4, select=alone).apply(model):
            assert ranking.scores[name] == pytest.approx((mean_loss(model, [ids]) - intact).item(), abs=1e-9)
    covered = {site.name for part in ranking.scores for site in select(model, part)}
    assert covered >= linear


def test_a_part_that_does_nothing_comes_last(ids: torch.Tensor) -> None:
    model = build("mamba")
    name = "backbone.layers.1.mixer.in_proj"
    model.backbone.layers[1].mixer.in_proj.weight.data *= 1e-4
    for measure in ("loss", "divergence"):
        ranking = noise_sensitivity(model, [ids], noise=NOISE, select="ssm.in,head", measure=measure)
        assert abs(ranking.scores[name]) < 1e-4
    assert all(score > -1e-6 for score in ranking.scores.values())
    assert ranking.bottom(1) == [name]


def test_a_chip_is_noise_too(ids: torch.Tensor) -> None:
    ranking = noise_sensitivity(build("mamba"), [ids], noise=Deploy(chip="pcm"), select="ssm.in", measure="divergence")
    assert len(ranking) == 2


def test_what_it_refuses(ids: torch.Tensor) -> None:
    model = build("mamba")
    with pytest.raises(InputError, match="unit must be projection, block or role, got 'blok'; did you mean block"):
        noise_sensitivity(model, [ids], noise=NOISE, unit="blok")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="measure must be loss or divergence, got 'ppl'"):
        noise_sensitivity(model, [ids], noise=NOISE, measure="ppl")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="seeds must hold at least one"):
        noise_sensitivity(model, [ids], noise=NOISE, seeds=())
    with pytest.raises(InputError, match="noise must be Deploy or a noise"):
        noise_sensitivity(model, [ids], noise=RoundToNearest(bits=3))
