"""A small published model, end to end: the same logits, perplexity and story as an independent implementation."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.stories import Stories, forward, read_checkpoint, read_vocabulary
from transformers import LlamaConfig, LlamaForCausalLM

from hardy.evaluate.language import token_losses
from hardy.quant import RoundToNearest, TritPlanes

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
)  # fmt: skip


def half_split(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k, (heads * size, in), from adjacent pairs to transformers' convention: evens first, then odds."""
    out, width = weight.shape
    return weight.reshape(heads, out // heads // 2, 2, width).transpose(1, 2).reshape(out, width)


def to_transformers(stories: Stories) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=stories.vocabulary, hidden_size=stories.dim, intermediate_size=stories.hidden,
        num_hidden_layers=stories.layers, num_attention_heads=stories.heads, num_key_value_heads=stories.kv_heads,
        max_position_embeddings=stories.context, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    w = {name: torch.from_numpy(value) for name, value in stories.weights.items()}
    state = {
        "model.embed_tokens.weight": w["embedding"],
        "lm_head.weight": w["embedding"],
        "model.norm.weight": w["norm"],
    }
    for layer in range(stories.layers):
        parts = {
            "input_layernorm": w["norm_attention"], "post_attention_layernorm": w["norm_mlp"],
            "self_attn.v_proj": w["v"], "self_attn.o_proj": w["o"],
            "mlp.gate_proj": w["gate"], "mlp.up_proj": w["up"], "mlp.down_proj": w["down"],
        }  # fmt: skip
        state |= {f"model.layers.{layer}.{name}.weight": stack[layer] for name, stack in parts.items()}
        state[f"model.layers.{layer}.self_attn.q_proj.weight"] = half_split(w["q"][layer], stories.heads)
        state[f"model.layers.{layer}.self_attn.k_proj.weight"] = half_split(w["k"][layer], stories.kv_heads)
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "data" / "lm"
    if not (folder / "stories260K.bin").is_file():
        pytest.skip("stories260K.bin is not in the shared data folder beside the checkout")
    return folder


@pytest.fixture(scope="module")
def stories(folder: Path) -> Stories:
    return read_checkpoint(folder / "stories260K.bin")


@pytest.fixture(scope="module")
def model(stories: Stories) -> LlamaForCausalLM:
    return to_transformers(stories)


def greedy(model: LlamaForCausalLM, tokens: int) -> list[int]:
    with torch.inference_mode():
        return model.generate(torch.tensor([[1]]), max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0].tolist()


def text(folder: Path, ids: list[int]) -> str:
    vocabulary = read_vocabulary(folder / "tok512.bin")
    return b"".join(vocabulary[i] for i in ids[1:]).decode().removeprefix(" ")


def test_the_rotation_tables_in_the_file_are_the_ones_assumed(stories: Stories) -> None:
    size = stories.dim // stories.heads
    angle = np.arange(stories.context)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    np.testing.assert_allclose(stories.weights["cos"], np.cos(angle), atol=1e-4)
    np.testing.assert_allclose(stories.weights["sin"], np.sin(angle), atol=1e-4)


def test_the_same_logits(stories: Stories, model: LlamaForCausalLM) -> None:
    ids = [1, *np.random.default_rng(0).integers(3, stories.vocabulary, 40).tolist()]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].double().numpy()
    np.testing.assert_allclose(logits, forward(stories, ids), atol=1e-4, rtol=1e-4)


def test_the_published_story(folder: Path, stories: Stories, model: LlamaForCausalLM) -> None:
    ids = greedy(model, 60)
    logits = forward(stories, ids[:-1])
    assert logits.argmax(-1).tolist() == ids[1:], "numpy would have told the same story"
    assert text(folder, ids).startswith(STORY)


def test_the_same_perplexity(stories: Stories, model: LlamaForCausalLM) -> None:
    ids = greedy(model, 100)
    logits = forward(stories, ids)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = math.exp(-np.mean([logp[t, ids[t + 1]] for t in range(len(ids) - 1)]))
    losses = token_losses(model, torch.tensor(ids), window=stories.context)
    assert losses.double().mean().exp().item() == pytest.approx(expected, rel=1e-5)
    assert expected < 2, "its own greedy story is easy for it"


def test_rounding_hurts_the_more_the_fewer_the_bits(model: LlamaForCausalLM) -> None:
    ids = torch.tensor(greedy(model, 100))
    clean = token_losses(model, ids, window=512).mean().item()
    losses = []
    for bits in (8, 4, 3, 2):
        with RoundToNearest(bits=bits, group_size=32).apply(model):
            losses.append(token_losses(model, ids, window=512).mean().item())
    assert abs(losses[0] - clean) < 0.01
    assert losses == sorted(losses)
    assert losses[-1] > clean + 1


def test_one_plane_of_trits_collapses_two_are_usable_three_come_near(model: LlamaForCausalLM) -> None:
    ids = torch.tensor(greedy(model, 100))
    clean = token_losses(model, ids, window=512).mean().item()
    losses = []
    for planes in (1, 2, 3):
        with TritPlanes(planes=planes, group_size=32).apply(model):
            losses.append(token_losses(model, ids, window=512).mean().item() - clean)
    assert losses[0] > 1
    assert losses[0] > 4 * losses[1] > 16 * losses[2]
    assert losses[2] < 0.05
