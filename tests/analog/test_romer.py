"""ROMER: who replaces whom, what calibrated logits are, and that no repair ends worse than the noise it is for."""

import dataclasses
import functools
from typing import Any

import pytest
import torch
import transformers as hf
from models import SIZES, assert_same, build, snapshot

import hardy
from hardy.analog import Deploy, ExpertReplacement, RandomReplacement, RouterCalibration
from hardy.analog.experts import RepairedRouter, blocks, routing
from hardy.analog.romer import affine_of, replace, replacements
from hardy.core import chain
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.evaluate import mean_loss
from hardy.hardware import AdditiveNoise, Chip, ProportionalNoise

NOISE = AdditiveNoise(strength=0.15, select="experts,attention")


def _qwen() -> torch.nn.Module:
    sizes = {**SIZES, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = hf.Qwen2MoeConfig(**sizes, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1)
        return hf.Qwen2MoeForCausalLM(config).eval()


BUILD = {"olmoe": lambda: build("olmoe"), "mixtral": lambda: build("mixtral"), "qwen2_moe": _qwen}
every = pytest.mark.parametrize("architecture", BUILD)


@functools.cache
def _calibration() -> list[torch.Tensor]:
    tokenizer = hardy.zoo.load("tiny-moe")[1]
    return hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text("calibration"), window=256, tokens=1024)


def _noisy_loss(model: Any, noise: Any, batches: list[torch.Tensor]) -> float:
    with torch.inference_mode(), noise.apply(model):
        return mean_loss(model, batches).item()


def test_idle_experts_are_replaced_by_busy_ones_in_turn() -> None:
    counts = torch.tensor([100.0, 0.0, 40.0, 3.0, 90.0, 1.0])
    assert replacements(counts, threshold=0.25, share=1.0) == [(1, 0), (5, 4), (3, 2)]
    assert replacements(counts, threshold=0.25, share=0.34) == [(1, 0), (5, 4)]
    assert replacements(torch.tensor([9.0, 0.0, 0.0, 0.0]), threshold=1.0, share=1.0) == [(1, 0), (2, 0), (3, 0)]
    assert replacements(torch.ones(4), threshold=0.25, share=1.0) == []


def test_calibrated_logits_have_the_clean_percentiles_expert_by_expert() -> None:
    random = torch.Generator().manual_seed(0)
    clean, noisy = (torch.randn(500, 3, generator=random) * torch.tensor([1.0, 2.0, 5.0]) + 1 for _ in range(2))
    noisy = 3 * noisy - torch.tensor([4.0, 0.0, 1.0])
    scale, shift = affine_of(clean, noisy, (5.0, 50.0, 95.0))
    found, wanted = (torch.quantile(q, torch.tensor([0.05, 0.5, 0.95]), dim=0) for q in (scale * noisy + shift, clean))
    torch.testing.assert_close(found[1], wanted[1])
    torch.testing.assert_close(found[2] - found[0], wanted[2] - wanted[0])


@every
def test_one_affine_for_all_experts_leaves_the_choice_as_it_is(architecture: str, ids: torch.Tensor) -> None:
    model: Any = BUILD[architecture]()
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    for block in blocks(model):
        router: Any = model.get_submodule(block.router)
        same = RepairedRouter(router)
        for ours, theirs in zip(same(hidden), router(hidden), strict=True):
            torch.testing.assert_close(ours, theirs)
        scaled = RepairedRouter(router, scale=torch.full((4,), 1.7), shift=torch.full((4,), -0.4))
        torch.testing.assert_close(scaled(hidden)[0], 1.7 * router(hidden)[0] - 0.4, atol=1e-6, rtol=1e-5)
        assert torch.equal(scaled(hidden)[2], router(hidden)[2])
        apart = RepairedRouter(router, shift=torch.tensor([5.0, 0.0, 0.0, 0.0]))
        assert bool((apart(hidden)[2] == 0).any(1).all())
        assert not torch.equal(apart(hidden)[2].sort(1).values, router(hidden)[2].sort(1).values)


@every
@pytest.mark.parametrize("mode", ["alias", "copy", "keep"])
def test_replacing_an_expert(architecture: str, mode, ids: torch.Tensor) -> None:
    model: Any = BUILD[architecture]()
    before = snapshot(model)
    block = blocks(model)[0]
    router, experts = model.get_submodule(block.router), model.get_submodule(block.experts)
    old = {name: getattr(experts, name).detach().clone() for name in block.stacks}
    rows = router.weight.detach().clone()
    edits = Edits(model)
    replace(model, edits, block, ((1, 2),), mode)
    for name in block.stacks:
        assert torch.equal(getattr(experts, name)[1], old[name][2])
        assert torch.equal(getattr(experts, name)[[0, 2, 3]], old[name][[0, 2, 3]])
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    _, weights, chosen = model.get_submodule(block.router)(hidden)
    if mode == "copy":
        assert torch.equal(router.weight[1], rows[2])
    elif mode == "keep":
        assert torch.equal(router.weight, rows)
    else:  # whoever is sent to 2 is sent to 1 and 2 at half the weight, and to 1 in no other way
        both = (chosen == 1) & (weights > 0)
        assert torch.equal(both.sum(1), ((chosen == 2) & (weights > 0)).sum(1))
        torch.testing.assert_close((weights * (chosen == 1)).sum(1), (weights * (chosen == 2)).sum(1))
    assert torch.isfinite(model(ids).logits).all()
    edits.undo()
    assert_same(before, model)


def test_an_alias_without_noise_is_the_model_without_the_idle_expert(ids: torch.Tensor) -> None:
    model: Any = build("mixtral")
    block = blocks(model)[1]
    router = model.get_submodule(block.router)
    edits = Edits(model)
    edits.set_module(block.router, RepairedRouter(router, shift=torch.tensor([0.0, -1e4, 0.0, 0.0])))
    expected = model(ids).logits
    edits.undo()
    replace(model, Edits(model), block, ((1, 3),), "alias")
    torch.testing.assert_close(model(ids).logits, expected)


def test_shared_experts_stay(ids: torch.Tensor) -> None:
    model = _qwen()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "shared" in name}
    assert before
    RandomReplacement(count=2).apply(model)
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("mode", ["alias", "copy", "keep"])
def test_neither_step_ends_worse_than_noise_on_the_calibration_data(mode) -> None:
    model: Any = hardy.zoo.load("tiny-moe")[0]
    noise = dataclasses.replace(NOISE, seed=3)
    start = _noisy_loss(model, noise, _calibration())
    steps = [ExpertReplacement(noise=NOISE, seeds=(3,), mode=mode, threshold=1.0)]
    steps += [RouterCalibration(noise=NOISE, seeds=(3,))] if mode == "alias" else []
    for step in steps:
        with step.apply(model, _calibration()) as change:
            loss = _noisy_loss(model, noise, _calibration())
            assert loss == pytest.approx(change.report.value("calibration_loss", "repaired"), abs=1e-6)
            assert loss <= start + 1e-9
            assert change.report.value("calibration_loss", "noisy") == pytest.approx(start, abs=1e-6)
        assert _noisy_loss(model, noise, _calibration()) == pytest.approx(start, abs=1e-9)


def test_both_steps_in_a_chain_and_the_chip_after_them(ids: torch.Tensor) -> None:
    model: Any = hardy.zoo.load("tiny-moe")[0]
    chip = Deploy(chip=Chip.preset("reram-wan").without_periphery(), seed=2, select="linear,router")
    before = snapshot(model)
    repair = chain(
        ExpertReplacement(noise=chip, seeds=(2,), threshold=1.0), RouterCalibration(noise=chip, seeds=(2,)), chip
    )
    noisy = _noisy_loss(model, chip, _calibration())
    with repair.apply(model, _calibration()):
        with torch.inference_mode():
            assert mean_loss(model, _calibration()).item() <= noisy + 1e-9
        with pytest.raises(InputError, match="a model with ExpertReplacement cannot be stored: scales, shifts"):
            hardy.save(model, "nowhere")
    assert_same(before, model)


def test_noise_on_the_router_is_seen_and_the_router_goes_on_a_chip(ids: torch.Tensor) -> None:
    model: Any = build("olmoe")
    name = blocks(model)[0].router
    clean = model.get_submodule(name).weight.detach().clone()
    with Deploy(chip=Chip.preset("pcm").without_periphery(), select="router").apply(model) as change:
        assert torch.equal(model.get_submodule(name).weight, clean)
        noisy = routing(model, [ids], blocks(model))[0][0]
        assert change.report.value("relative_error", name) > 0
    assert not torch.allclose(noisy, routing(model, [ids], blocks(model))[0][0], rtol=1e-3)


def test_routing_counts_what_is_used(ids: torch.Tensor) -> None:
    model: Any = build("olmoe")
    logits, counts = routing(model, [ids], blocks(model))
    for block, q, used in zip(blocks(model), logits, counts, strict=True):
        assert q.shape == (18, 4)
        assert torch.equal(used, torch.bincount(q.topk(block.top_k).indices.flatten(), minlength=4).double())


def test_what_it_refuses(ids: torch.Tensor) -> None:
    noise = ProportionalNoise(strength=0.1)
    with pytest.raises(InputError, match="LlamaForCausalLM has no mixture of experts"):
        RouterCalibration(noise=noise).apply(build("llama"), [ids])
    for method in (ExpertReplacement(noise=noise), RouterCalibration(noise=noise)):
        with pytest.raises(InputError, match=f"{type(method).__name__} needs calibration batches"):
            method.apply(build("olmoe"))
    with pytest.raises(InputError, match="count must be at most half of the 4 experts, got 3"):
        RandomReplacement(count=3).apply(build("olmoe"))
