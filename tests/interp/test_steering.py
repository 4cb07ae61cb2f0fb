"""Vectors and directions in the stream: added, taken out, baked, saved; nothing at zero, to the last bit."""

from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import assert_same, same_bytes, snapshot

import hardy
from hardy import hooks
from hardy.errors import InputError
from hardy.interp import AblatedWeights, BakedVector, DirectionalAblation, Directions, SteeringVector, bake
from hardy.interp.steering import Positions

VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(1))
ARCHITECTURES = ["llama", "gpt2", "gpt_neox", "gemma3", "olmoe", "qwen3", "mamba"]


def build(architecture: str, **options: Any) -> Any:
    return models.build(architecture, **options)


def logits(model: Any, ids: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_vector_is_what_a_patch_of_the_stream_adds(architecture: str, ids: torch.Tensor) -> None:
    model = build(architecture)
    before, plain = snapshot(model), logits(model, ids)
    with torch.no_grad(), hooks.patch(model, {"blocks.0.resid_post": lambda x: x + 2 * VECTOR}):
        expected = logits(model, ids)
    with SteeringVector(vector=VECTOR, layer=0, scale=2).apply(model):
        torch.testing.assert_close(logits(model, ids), expected)
    with SteeringVector(vector=VECTOR, layer=0, scale=0).apply(model):
        assert same_bytes(logits(model, ids), plain)
    assert same_bytes(logits(model, ids), plain)
    assert_same(before, model)


@pytest.mark.parametrize("positions", ["all", "last", "generated"])
def test_positions_with_a_cache_are_those_without(positions: Positions, ids: torch.Tensor) -> None:
    model = build("llama")
    prompt = ids[:1, :5]
    with torch.no_grad(), SteeringVector(vector=VECTOR, layer=0, scale=3, positions=positions).apply(model):
        made = model.generate(prompt, max_new_tokens=4, do_sample=False, eos_token_id=None)
    where = {"all": slice(0, None), "last": slice(4, 5), "generated": slice(4, None)}[positions]

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        new = x.clone()
        new[:, where] += 3 * VECTOR
        return new

    with torch.no_grad(), hooks.patch(model, {"blocks.0.resid_post": by_hand}):
        whole = model(made[:, :-1]).logits
    assert torch.equal(whole[0, 4:].argmax(-1), made[0, 5:])


def test_left_padding_changes_nothing_for_what_is_real(ids: torch.Tensor) -> None:
    model = build("llama")
    short = ids[:1, :5]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), short], 1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    for positions in ("all", "last"):
        with SteeringVector(vector=VECTOR, layer=0, scale=3, positions=positions).apply(model):
            alone = logits(model, short)
            with_padding = logits(model, padded, attention_mask=mask, position_ids=places)
        torch.testing.assert_close(with_padding[:, 3:], alone)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "olmoe", "mamba", "gemma3"])
def test_nothing_of_the_direction_is_left_in_the_stream(architecture: str, ids: torch.Tensor) -> None:
    model = build(architecture)
    plain = logits(model, ids)
    with DirectionalAblation(direction=VECTOR).apply(model):
        with torch.no_grad(), hooks.record(model, "blocks.*.resid_p*") as seen:
            ablated = model(input_ids=ids).logits
        for name, stream in seen.items():
            if name == "blocks.0.resid_pre":
                continue  # cleaned as the block takes it in, which is after anyone looks
            assert (stream @ VECTOR).abs().max() < 1e-4 * stream.norm(dim=-1).max() * VECTOR.norm()
    assert not torch.allclose(ablated, plain)
    assert same_bytes(logits(model, ids), plain)
    with DirectionalAblation(direction=VECTOR, strength=0).apply(model):
        assert same_bytes(logits(model, ids), plain)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "olmoe", "mamba"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_weight_form_gives_the_logits_of_the_activation_form(
    architecture: str, tied: bool, ids: torch.Tensor, tmp_path: Path
) -> None:
    model = build(architecture, tied=tied)
    with DirectionalAblation(direction=VECTOR).apply(model):
        expected = logits(model, ids)
    before = snapshot(model)
    with AblatedWeights(direction=VECTOR).apply(model):
        torch.testing.assert_close(logits(model, ids), expected, rtol=1e-4, atol=1e-5)
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path).eval()
        torch.testing.assert_close(logits(again, ids), expected, rtol=1e-4, atol=1e-5)
    assert_same(before, model)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "opt"])
def test_a_baked_vector_gives_the_same_logits_and_is_stored(
    architecture: str, ids: torch.Tensor, tmp_path: Path
) -> None:
    model = build(architecture)
    steering = SteeringVector(vector=VECTOR, layer=1, scale=2)
    with steering.apply(model):
        expected = logits(model, ids)
    with bake(steering).apply(model):
        torch.testing.assert_close(logits(model, ids), expected, rtol=1e-4, atol=1e-5)
        model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again, ids), expected, rtol=1e-4, atol=1e-5)


def test_a_steered_model_is_saved_and_loaded_with_its_vector(ids: torch.Tensor, tmp_path: Path) -> None:
    model = build("llama")
    SteeringVector(vector=VECTOR, layer=0, scale=2).apply(model)
    expected = logits(model, ids)
    hardy.save(model, tmp_path / "steered")
    assert same_bytes(logits(hardy.load(tmp_path / "steered"), ids), expected)


def test_two_vectors_and_an_ablation_undo_in_any_nesting(ids: torch.Tensor) -> None:
    model = build("llama")
    plain = logits(model, ids)
    with (
        SteeringVector(vector=VECTOR, layer=0).apply(model),
        SteeringVector(vector=VECTOR.flip(0), layer=0).apply(model),
        DirectionalAblation(direction=VECTOR.roll(3)).apply(model),
    ):
        assert not torch.allclose(logits(model, ids), plain)
    assert same_bytes(logits(model, ids), plain)


def test_what_does_not_fit_is_refused(llama: torch.nn.Module) -> None:
    before = snapshot(llama)
    for method, message in (
        (SteeringVector(vector=[1.0] * 31, layer=0), "width 31.*of 32"),
        (SteeringVector(vector=VECTOR, layer=2), "0 to 1, got 2"),
        (DirectionalAblation(direction=[1.0] * 33), "width 33"),
    ):
        with pytest.raises(InputError, match=message):
            method.apply(llama)
    with pytest.raises(InputError, match="norm after the write"):
        AblatedWeights(direction=VECTOR).apply(build("gemma3"))
    with pytest.raises(InputError, match="norm after the write"):
        BakedVector(vector=VECTOR, layer=0).apply(build("olmo2"))
    with pytest.raises(InputError, match="no place for a bias"):
        BakedVector(vector=VECTOR, layer=0).apply(build("qwen2"))
    with pytest.raises(InputError, match="all zero"):
        SteeringVector(vector=[0.0] * 32, layer=0)
    with pytest.raises(InputError, match="finite"):
        SteeringVector(vector=[float("nan")] * 32, layer=0)
    with pytest.raises(InputError, match="all positions"):
        bake(SteeringVector(vector=VECTOR, layer=0, positions="last"))
    assert_same(before, llama)


def test_directions_of_another_architecture_are_refused(llama: torch.nn.Module, tmp_path: Path) -> None:
    made = Directions({1: VECTOR}, "a model", "pca", "llama")
    for kept in (made, -made, made + made, Directions.load(made.save(tmp_path / "v.safetensors"))):
        assert kept.steering(llama, 1).layer == 1
        with pytest.raises(InputError, match="made from a model of type llama, GPT2LMHeadModel is of type gpt2"):
            kept.steering(build("gpt2"), 1)
    assert Directions({1: VECTOR}, architecture="gptneox").steering(build("gpt_neox"), 1).layer == 1
    assert Directions({1: VECTOR}).steering(build("gpt2"), 1).layer == 1
