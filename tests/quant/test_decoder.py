"""Decoding step by step: the logits of transformers, for every family, packed or dense, and any cut of a prompt."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from models import SIZES, build
from torch import nn

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.quant import GPTQ, Pack, RoundToNearest, TritPlanes
from hardy.quant.decoder import FAMILIES, Decoder, obstacle

WIDE = {**SIZES, "head_dim": 16}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**WIDE),
    "llama3 rotation": lambda: hf.LlamaConfig(
        **WIDE,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "mistral with a window": lambda: hf.MistralConfig(**WIDE, sliding_window=7),
    "qwen2": lambda: hf.Qwen2Config(**{**SIZES, "num_attention_heads": 2}),
    "qwen3": lambda: hf.Qwen3Config(**WIDE),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **WIDE, layer_types=["sliding_attention", "full_attention"], sliding_window=8, query_pre_attn_scalar=16
    ),
}


def model_of(name: str, dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(MODELS[name]())
        for parameter in model.parameters():  # norms that are not all ones, biases that are not all zeros
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
    return model.to(dtype).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 64, (1, 40), generator=torch.Generator().manual_seed(0))


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids).logits[0].float()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kernel", ["", "torch"])
def test_every_family_gives_the_logits_of_transformers(
    name: str, kernel: str, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kernels.VARIABLE, kernel)
    model = model_of(name)
    expected = logits_of(model, ids)
    decoder = Decoder(model, capacity=48, head_bits=None)
    tolerance = 4e-3 * float(expected.abs().max())  # keys and values of float16
    torch.testing.assert_close(decoder.read(ids[0, :23]), expected[22], rtol=0, atol=tolerance)
    for at in range(23, 30):
        torch.testing.assert_close(decoder.step(int(ids[0, at])), expected[at], rtol=0, atol=tolerance)
    torch.testing.assert_close(decoder.read(ids[0, 30:]), expected[-1], rtol=0, atol=tolerance)
    assert decoder.position == 40
    assert decoder.rewind(10) == 10
    torch.testing.assert_close(decoder.read(ids[0, 10:20]), expected[19], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "method",
    [
        TritPlanes(planes=2, group_size=16),
        TritPlanes(planes=1, group_size=16, select="mlp.gate"),
        RoundToNearest(bits=4, group_size=16),
        RoundToNearest(bits=8, group_size=16, select=("linear", "head")),
        GPTQ(bits=3, group_size=16, select="attention.q"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_packed_layers_decode_to_the_logits_of_the_packed_model(name: str, method: Any, ids: torch.Tensor) -> None:
    model = model_of(name)
    method.apply(model, [ids])
    Pack().apply(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = logits_of(model, ids)
    decoder = Decoder(model, capacity=64, head_bits=None)
    found = [decoder.read(ids[0, :8]), *(decoder.step(int(token)).clone() for token in ids[0, 8:])]
    for ours, theirs in zip(found, expected[7:], strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    torch.testing.assert_close(logits_of(model, ids), expected)


def test_layers_whose_rows_come_in_64s_become_one_product_without_more_memory() -> None:
    config = hf.LlamaConfig(**{**SIZES, "hidden_size": 128, "num_key_value_heads": 2, "intermediate_size": 128})
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    TritPlanes(planes=2, group_size=64).apply(model)
    Pack().apply(model)
    decoder = Decoder(model, capacity=16)
    attention: Any = model.get_submodule("model.layers.0.self_attn")
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    assert len({layer.matrix().codes.untyped_storage().data_ptr() for layer in layers}) == 1
    decoder.step(5)
    names = [getattr(step, "func", step) for step in decoder._steps]
    assert len(names) == 2 * 8 + 2, (
        "norm, product, attention, product, norm, product, gate, product, twice; then norm and head"
    )


def test_a_dense_head_is_read_in_few_bits_and_stays_as_it_is(ids: torch.Tensor) -> None:
    model = model_of("llama", torch.bfloat16)
    head = model.lm_head.weight.clone()
    exact = Decoder(model, capacity=40, head_bits=None).read(ids[0])
    for bits, largest in ((8, 0.03), (4, 0.3)):
        decoder = Decoder(model, capacity=40, head_bits=bits)
        assert decoder.head == f"bfloat16, read at {bits} bits"
        assert 0 < (decoder.read(ids[0]) - exact).norm() < largest * exact.norm()
    assert torch.equal(model.lm_head.weight, head)


@pytest.mark.parametrize("head_bits", [None, 8])
def test_a_packed_table_that_is_also_the_head_is_decoded(head_bits: int | None, ids: torch.Tensor) -> None:
    config = hf.LlamaConfig(**WIDE, tie_word_embeddings=True)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    RoundToNearest(bits=8, group_size=16, select=("embedding", "mlp")).apply(model)
    Pack().apply(model)
    expected = logits_of(model, ids)
    decoder = Decoder(model, capacity=48, head_bits=head_bits)
    found = [decoder.read(ids[0, :8]), *(decoder.step(int(token)).clone() for token in ids[0, 8:])]
    for ours, theirs in zip(found, expected[7:], strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_long_prompts_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch, ids: torch.Tensor) -> None:
    model = model_of("gemma3")
    whole = Decoder(model, capacity=48, head_bits=None).read(ids[0])
    monkeypatch.setattr("hardy.quant.decoder.CHUNK", 6)
    torch.testing.assert_close(Decoder(model, capacity=48, head_bits=None).read(ids[0]), whole, rtol=1e-4, atol=1e-4)


def test_a_change_of_threads_between_steps_is_heeded() -> None:
    decoder = Decoder(model_of("llama"), capacity=16, head_bits=None)
    first = decoder.step(3).clone()
    torch.set_num_threads(2)
    try:
        decoder.rewind()
        torch.testing.assert_close(decoder.step(3), first)
    finally:
        torch.set_num_threads(1)


def test_what_does_not_fit_is_refused(ids: torch.Tensor) -> None:
    decoder = Decoder(model_of("llama"), capacity=16)
    with pytest.raises(InputError, match="17 tokens do not fit behind 0 in a cache for 16"):
        decoder.read(ids[0, :17])
    with pytest.raises(InputError, match="at least one"):
        decoder.read([])
    decoder.read(ids[0, :16])
    with pytest.raises(InputError, match="the cache is full with 16"):
        decoder.step(3)
    with pytest.raises(InputError, match="position must be an integer"):
        decoder.rewind(17)
    with pytest.raises(InputError, match="capacity must be at most 64"):
        Decoder(model_of("llama"), capacity=65)
    with pytest.raises(InputError, match="head_bits must be 8, 4 or None"):
        Decoder(model_of("llama"), head_bits=3, capacity=16)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [("gpt2", "a gpt2 is not of the families llama"), ("mixtral", "a mixtral is"), ("llama", "its heads are of 8")],
)
def test_other_models_say_why_not(architecture: str, reason: str) -> None:
    model = build(architecture)
    assert (obstacle(model) or "").startswith(reason)
    with pytest.raises(InputError, match=reason):
        Decoder(model)


def test_every_obstacle_is_found() -> None:
    model = model_of("gemma3")
    assert obstacle(model) is None
    assert model.config.model_type in FAMILIES
    for name, value, reason in (
        ("final_logit_softcapping", 30.0, "capped"),
        ("use_bidirectional_attention", True, "both sides"),
        ("hidden_activation", "relu", "relu"),
        ("rope_parameters", {"rope_type": "dynamic"}, "dynamic"),
    ):
        kept = getattr(model.config, name)
        setattr(model.config, name, value)
        assert reason in (obstacle(model) or "")
        setattr(model.config, name, kept)
