"""The model that ships: is it what its card says, and was it really trained?"""

import lzma

import torch

import hardy
from hardy.zoo.loading import WEIGHTS
from hardy.zoo.text import EVALUATION


def test_it_is_small_grouped_query_and_deep_enough_to_rank_layers() -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    config = model.config
    assert 3e6 <= sum(p.numel() for p in model.parameters()) <= 8e6
    assert 1 < config.num_key_value_heads < config.num_attention_heads
    assert config.num_hidden_layers >= 8
    assert len(tokenizer) == config.vocab_size
    assert sum(path.stat().st_size for path in (WEIGHTS / "tiny-llama").iterdir()) <= 10_000_000


def test_it_needs_a_quarter_fewer_bits_than_xz_on_modules_it_never_saw() -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    text = hardy.zoo.held_out_text("evaluation")
    raw = text.encode()
    xz = 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw)
    eighths = [text[len(text) * part // 8 : len(text) * (part + 1) // 8] for part in (1, 5)]
    # Without overlap: an upper bound of the card's.
    bits = hardy.evaluate.bits_per_byte(model, tokenizer, "".join(eighths))
    assert bits < 0.75 * xz
    card = hardy.zoo.card("tiny-llama")["held_out"]
    if card["bytes"] == len(raw):  # the card was made with one version of Python's library
        assert 0.9 * card["bits_per_byte"] < bits < 1.2 * card["bits_per_byte"]
        assert card["bits_per_byte_xz_9e"] == xz


def test_card_says_how_it_was_trained() -> None:
    card = hardy.zoo.card("tiny-llama")
    assert card["data"]["tokens_seen"] == card["recipe"]["steps"] * card["recipe"]["batch"] * card["recipe"]["context"]
    steps = [step for step, _, _ in card["loss_curve"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == card["recipe"]["steps"]
    assert card["loss_curve"][-1][2] < card["loss_curve"][0][2]
    assert "argparse" in EVALUATION


def test_it_writes_python() -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    written = hardy.zoo.generate(model, tokenizer, "import os\nimport sys\n\ndef main(", max_new_tokens=40)
    assert "):" in written
    assert "    " in written


def test_the_snippet_of_the_readme_restores_every_byte() -> None:
    model, _ = hardy.zoo.load("tiny-llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change = hardy.quant.RoundToNearest(bits=3).apply(model)
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert "bits_per_weight" in str(change.report)
    change.undo()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
