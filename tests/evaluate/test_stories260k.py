"""A small trained model, end to end: the same logits, perplexity and story as an independent implementation."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.stories import Stories, forward, read_checkpoint, read_vocabulary
from transformers import LlamaConfig, LlamaForCausalLM

import hardy
from hardy.evaluate.language import token_losses
from hardy.quant import RoundToNearest, TritPlanes
from hardy.zoo import held_out_text

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


def from_transformers(model: LlamaForCausalLM) -> Stories:
    """The other way round: rows of q and k from evens first, then odds, back to adjacent pairs."""
    config = model.config
    w = {name: value.float().numpy() for name, value in model.state_dict().items()}

    def stack(name: str) -> np.ndarray:
        return np.stack([w[f"model.layers.{layer}.{name}.weight"] for layer in range(config.num_hidden_layers)])

    def adjacent(name: str, heads: int) -> np.ndarray:
        stored = stack(name)
        layers, out, width = stored.shape
        return stored.reshape(layers, heads, 2, out // heads // 2, width).swapaxes(2, 3).reshape(layers, out, width)

    weights = {
        "embedding": w["model.embed_tokens.weight"], "norm": w["model.norm.weight"],
        "norm_attention": stack("input_layernorm"), "norm_mlp": stack("post_attention_layernorm"),
        "q": adjacent("self_attn.q_proj", config.num_attention_heads),
        "k": adjacent("self_attn.k_proj", config.num_key_value_heads),
        "v": stack("self_attn.v_proj"), "o": stack("self_attn.o_proj"),
        "gate": stack("mlp.gate_proj"), "up": stack("mlp.up_proj"), "down": stack("mlp.down_proj"),
    }  # fmt: skip
    return Stories(
        config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
        config.num_key_value_heads, config.vocab_size, config.max_position_embeddings, weights, config.rms_norm_eps,
    )  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A trained model twice: as the oracle reads it, and as transformers does."""

    stories: Stories
    model: LlamaForCausalLM
    ids: torch.Tensor
    """Tokens of a text that it does well on; the first one begins a text."""


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "data" / "lm"
    if not (folder / "stories260K.bin").is_file():
        pytest.skip("stories260K.bin is not in the shared data folder beside the checkout")
    return folder


@pytest.fixture(scope="module", params=["tiny-llama", "stories260K"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """The zoo's model, which is always there, and the published one, where its file is."""
    if request.param == "tiny-llama":
        model, tokenizer = hardy.zoo.load("tiny-llama")
        return Subject(from_transformers(model), model, hardy.evaluate.encode(tokenizer, held_out_text())[:300])
    return published(request.getfixturevalue("folder"))


def published(folder: Path) -> Subject:
    stories = read_checkpoint(folder / "stories260K.bin")
    model = to_transformers(stories)
    return Subject(stories, model, torch.tensor(greedy(model, 1, 100)))


def greedy(model: LlamaForCausalLM, first: int, tokens: int) -> list[int]:
    start = torch.tensor([[first]])
    with torch.inference_mode():
        return model.generate(
            start, attention_mask=torch.ones_like(start), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )[0].tolist()


def perplexity(stories: Stories, ids: list[int]) -> float:
    logits = forward(stories, ids)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return math.exp(-np.mean([logp[t, ids[t + 1]] for t in range(len(ids) - 1)]))


def test_the_rotation_tables_in_the_file_are_the_ones_assumed(folder: Path) -> None:
    stories = read_checkpoint(folder / "stories260K.bin")
    size = stories.dim // stories.heads
    angle = np.arange(stories.context)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    np.testing.assert_allclose(stories.weights["cos"], np.cos(angle), atol=1e-4)
    np.testing.assert_allclose(stories.weights["sin"], np.sin(angle), atol=1e-4)


def test_the_same_logits(subject: Subject) -> None:
    ids = [int(subject.ids[0]), *np.random.default_rng(0).integers(3, subject.stories.vocabulary, 40).tolist()]
    with torch.inference_mode():
        logits = subject.model(torch.tensor([ids])).logits[0].double().numpy()
    np.testing.assert_allclose(logits, forward(subject.stories, ids), atol=1e-4, rtol=1e-4)


def test_the_same_continuation(subject: Subject) -> None:
    ids = greedy(subject.model, int(subject.ids[0]), 60)
    assert forward(subject.stories, ids[:-1]).argmax(-1).tolist() == ids[1:], "numpy would have told the same story"


def test_the_published_story(folder: Path) -> None:
    subject, vocabulary = published(folder), read_vocabulary(folder / "tok512.bin")
    ids = subject.ids.tolist()
    assert b"".join(vocabulary[i] for i in ids[1:61]).decode().removeprefix(" ").startswith(STORY)
    assert perplexity(subject.stories, ids) < 2, "its own greedy story is easy for it"


def test_the_same_perplexity(subject: Subject) -> None:
    losses = token_losses(subject.model, subject.ids, window=subject.stories.context)
    expected = perplexity(subject.stories, subject.ids.tolist())
    assert losses.double().mean().exp().item() == pytest.approx(expected, rel=1e-5)


def test_rounding_hurts_the_more_the_fewer_the_bits(subject: Subject) -> None:
    clean = token_losses(subject.model, subject.ids, window=512).mean().item()
    losses = []
    for bits in (8, 4, 3, 2):
        with RoundToNearest(bits=bits, group_size=32).apply(subject.model):
            losses.append(token_losses(subject.model, subject.ids, window=512).mean().item())
    assert abs(losses[0] - clean) < 0.01
    assert losses == sorted(losses)
    assert losses[-1] > clean + 1


def test_one_plane_of_trits_collapses_two_are_usable_three_come_near(folder: Path) -> None:
    subject = published(folder)
    clean = token_losses(subject.model, subject.ids, window=512).mean().item()
    losses = []
    for planes in (1, 2, 3):
        with TritPlanes(planes=planes, group_size=32).apply(subject.model):
            losses.append(token_losses(subject.model, subject.ids, window=512).mean().item() - clean)
    assert losses[0] > 1
    assert losses[0] > 4 * losses[1] > 16 * losses[2]
    assert losses[2] < 0.05
