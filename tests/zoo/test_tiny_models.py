"""The small mixture of experts and the small state space: really trained, and what their cards say."""

import lzma

import pytest
import torch

import hardy
from hardy.zoo.loading import WEIGHTS

NAMES = ("tiny-moe", "tiny-mamba")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_its_card_is_of_this_training(name: str) -> None:
    model, tokenizer = hardy.zoo.load(name)
    card = hardy.zoo.card(name)
    assert sum(path.stat().st_size for path in (WEIGHTS / name).iterdir()) <= 5_000_000
    assert card["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert len(tokenizer) == model.config.vocab_size
    assert card["data"]["tokens_seen"] == card["recipe"]["steps"] * card["recipe"]["batch"] * card["recipe"]["context"]
    assert card["loss_curve"][-1][0] == card["recipe"]["steps"]
    assert card["loss_curve"][-1][2] < card["loss_curve"][0][2]


@pytest.mark.parametrize(("name", "share"), [("tiny-moe", 0.85), ("tiny-mamba", 0.95)])
def test_it_beats_xz_on_modules_it_never_saw(name: str, share: float) -> None:
    model, tokenizer = hardy.zoo.load(name)
    text = hardy.zoo.held_out_text("evaluation")[:60000]
    raw = text.encode()
    xz = 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw)
    assert hardy.evaluate.bits_per_byte(model, tokenizer, text, window=256) < share * xz


def test_the_experts_of_tiny_moe_share_the_work_unevenly() -> None:
    """Every layer uses most of its experts; a few are idle, which is what replacing experts is about."""
    model, tokenizer = hardy.zoo.load("tiny-moe")
    ids = hardy.evaluate.encode(tokenizer, hardy.zoo.held_out_text("calibration"))[:4096].reshape(16, 256)
    assert model.config.num_experts == 16
    with torch.inference_mode():
        routers = model(input_ids=ids, output_router_logits=True).router_logits
    assert len(routers) == model.config.num_hidden_layers
    for logits in routers:
        counts = torch.bincount(logits.topk(model.config.num_experts_per_tok).indices.flatten(), minlength=16)
        assert int((counts > 0.25 * counts.float().mean()).sum()) >= 8
        assert counts.max() < 5 * counts.float().mean()
