"""Perplexity and bits per byte against a slow oracle, however the text is cut and batched."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import build
from reference import language as reference
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from hardy.core import InputError
from hardy.evaluate import batches, bits_per_byte, context_length, encode, perplexity
from hardy.evaluate.language import token_losses, windows

TEXT = "the cat sat on the mat; the dog, too, sat: äöü"


def tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """One token for each byte of the letters used here, 64 at most."""
    alphabet = sorted({character for word, _ in ByteLevel(False).pre_tokenize_str(TEXT) for character in word})
    vocabulary = {"<s>": 0} | {character: i for i, character in enumerate(alphabet, start=1)}
    raw = Tokenizer(BPE(vocabulary, []))
    raw.pre_tokenizer, raw.decoder = ByteLevel(False), ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=raw, **({"bos_token": "<s>"} if bos else {}))


def random_ids(length: int) -> torch.Tensor:
    return torch.randint(0, 64, (length,), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", [2, 16, 17, 33])
@pytest.mark.parametrize(("window", "stride"), [(16, None), (16, 15), (16, 7), (3, 1), (2, 1), (64, 10)])
def test_like_the_oracle(llama: nn.Module, length: int, window: int, stride: int | None) -> None:
    ids = random_ids(length)
    losses = token_losses(llama, ids, window=window, stride=stride)
    expected = reference.token_losses(llama, ids.tolist(), window, window - 1 if stride is None else stride)
    assert losses.shape == (length - 1,)
    torch.testing.assert_close(losses.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


@given(length=st.integers(2, 200), window=st.integers(2, 40), data=st.data())
def test_every_token_but_the_first_is_predicted_once_with_enough_context(
    length: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window - 1))
    cuts = windows(length, window, stride)
    assert [token for _, end, first in cuts for token in range(first, end)] == list(range(1, length))
    for begin, end, first in cuts:
        assert end - begin <= window
        assert first - begin >= min(first, window - stride)


@pytest.mark.parametrize("batch_tokens", [1, 16, 40, 10_000])
def test_batching_does_not_matter(llama: nn.Module, batch_tokens: int) -> None:
    ids = random_ids(61)
    one = token_losses(llama, ids, window=16, stride=5, batch_tokens=16)
    other = token_losses(llama, ids, window=16, stride=5, batch_tokens=batch_tokens)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bos", [False, True])
def test_perplexity_and_bits_per_byte_of_a_text(llama: nn.Module, bos: bool) -> None:
    words = tokenizer(bos)
    ids = encode(words, TEXT).tolist()
    assert len(ids) == len(TEXT.encode()) + bos, "one token per byte, and the beginning where there is one"
    assert words.decode(ids[bos:]) == TEXT
    losses = reference.token_losses(llama, ids, 16, 8)
    assert perplexity(llama, words, TEXT, window=16, stride=8) == pytest.approx(reference.perplexity(losses), rel=1e-4)
    nats = sum(losses) + (0 if bos else math.log(len(words)))
    expected = nats / math.log(2) / len(TEXT.encode())
    assert bits_per_byte(llama, words, TEXT, window=16, stride=8) == pytest.approx(expected, rel=1e-4)
    longest = reference.perplexity(reference.token_losses(llama, ids, 64, 63))
    assert perplexity(llama, words, TEXT) == pytest.approx(longest, rel=1e-4), "the context length by default"


def test_a_model_that_knows_nothing_pays_for_every_choice() -> None:
    model = build("llama")
    nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, tokenizer(), TEXT) == pytest.approx(64)


def test_a_model_that_is_sure_and_wrong_has_infinite_perplexity(llama: nn.Module) -> None:
    class Sure(nn.Module):
        config = llama.config

        def __init__(self) -> None:
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
            logits = torch.zeros(*input_ids.shape, 64)
            logits[..., 0] = 1e4
            return type("Output", (), {"logits": logits})

    assert perplexity(Sure(), tokenizer(), TEXT) == math.inf


def test_bfloat16_models_are_evaluated_in_float32(llama: nn.Module) -> None:
    losses = token_losses(build("llama", dtype=torch.bfloat16), random_ids(40), window=16)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, token_losses(llama, random_ids(40), window=16), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("architecture", "limit"), [("llama", 64), ("gpt2", 64), ("gpt_neox", 64), ("opt", 64), ("mamba", None)]
)
def test_context_length(architecture: str, limit: int | None) -> None:
    assert context_length(build(architecture)) == limit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 65}, "window must be at most the model's context of 64 tokens, got 65"),
        ({"window": 1}, "window must be at least 2 tokens, got 1"),
        ({"window": 0}, "window must be at least 2 tokens, got 0"),
        ({"window": 16, "stride": 16}, r"stride must be in 1\.\.15 \(window - 1 means no overlap\), got 16"),
        ({"window": 16, "stride": 0}, r"stride must be in 1\.\.15 .*got 0"),
    ],
)
def test_windows_out_of_range_are_refused(llama: nn.Module, options: dict[str, int], message: str) -> None:
    for metric in (perplexity, bits_per_byte):
        with pytest.raises(InputError, match=message):
            metric(llama, tokenizer(), TEXT, **options)


def test_texts_too_short_are_refused(llama: nn.Module) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        perplexity(llama, tokenizer(), "")
    with pytest.raises(InputError, match="perplexity needs at least 2 tokens, got 1"):
        perplexity(llama, tokenizer(), "t")
    assert perplexity(llama, tokenizer(bos=True), "t") > 1


@pytest.mark.parametrize("bos", [False, True])
def test_batches_are_windows_spread_over_the_text(bos: bool) -> None:
    ids = encode(tokenizer(bos), TEXT)
    body = 7 if bos else 8
    found = batches(tokenizer(bos), TEXT, window=8, tokens=30, batch_size=2)
    assert [tuple(batch.shape) for batch in found] == [(2, 8), (1, 8)]
    rows = torch.cat(found)
    assert not bos or not rows[:, 0].any(), "each begins with the beginning-of-sequence token"
    text = ids[8 - body :]
    assert rows[0, 8 - body :].tolist() == text[:body].tolist()
    assert rows[-1, 8 - body :].tolist() == text[-body:].tolist()
    everything = batches(tokenizer(bos), TEXT, window=8, tokens=10**6, batch_size=100)
    assert everything[0].shape == (len(text) // body, 8)


def test_batches_refuse_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="window must be at least 2 tokens, got 1"):
        batches(tokenizer(True), TEXT, window=1)
    with pytest.raises(InputError, match="tokens must be at least one window of 16, got 8"):
        batches(tokenizer(), TEXT, window=16, tokens=8)
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        batches(tokenizer(), TEXT, window=16, batch_size=0)
    with pytest.raises(InputError, match="the text has [0-9]+ tokens, less than one window of 512; give more"):
        batches(tokenizer(), TEXT)
