"""Text as it is written: the tokens that transformers would take, sampling, streams of whole characters."""

from typing import Any

import pytest
import torch

import hardy
from hardy.errors import InputError
from hardy.quant import Writer
from hardy.quant.writing import pick


@pytest.fixture(scope="module")
def zoo() -> tuple[Any, Any]:
    return hardy.zoo.load("tiny-llama")


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    with torch.inference_mode():
        return model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)[0, len(ids) :].tolist()


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mamba", "tiny-moe"])
@pytest.mark.filterwarnings("ignore:.*")
def test_the_likeliest_tokens_are_those_of_transformers(name: str) -> None:
    model, tokenizer = hardy.zoo.load(name)
    ids = tokenizer("def add(first, second):")["input_ids"]
    writer = Writer(model, tokenizer, context=64, head_bits=None)
    assert ("step by step" in writer.how) == (name == "tiny-llama")
    found = list(writer.write(ids, max_new_tokens=12))
    assert found == [token for token in greedy(model, ids, 12) if token not in writer.stops]
    assert (writer.timing.read, writer.timing.written) == (len(ids), len(found))
    assert "tokens/s" in str(writer.timing)


def test_what_was_read_is_not_read_again(zoo: tuple[Any, Any]) -> None:
    model, tokenizer = zoo
    ids = tokenizer("class Account:\n    def __init__(self")["input_ids"]
    writer = Writer(model, tokenizer, context=64, head_bits=None)
    first = list(writer.write(ids, max_new_tokens=6, ignore_stops=True))
    again = list(writer.write([*ids, *first[:3]], max_new_tokens=3, ignore_stops=True))
    assert again == first[3:]
    assert writer.timing.read == 1
    other = list(writer.write([*ids[:-2], ids[0]], max_new_tokens=3, ignore_stops=True))
    fresh = Writer(model, tokenizer, context=64, head_bits=None)
    assert other == list(fresh.write([*ids[:-2], ids[0]], max_new_tokens=3, ignore_stops=True))


def test_a_stopped_stream_leaves_nothing_behind(zoo: tuple[Any, Any]) -> None:
    model, tokenizer = zoo
    writer = Writer(model, tokenizer, context=64, head_bits=None)
    ids = tokenizer("import os")["input_ids"]
    whole = list(writer.write(ids, max_new_tokens=8, ignore_stops=True))
    stream = writer.write(ids, max_new_tokens=8, ignore_stops=True)
    next(stream), next(stream)
    del stream
    assert list(writer.write(ids, max_new_tokens=8, ignore_stops=True)) == whole


def test_samples_are_of_the_seed_and_leave_the_global_generator_alone(zoo: tuple[Any, Any]) -> None:
    model, tokenizer = zoo
    writer = Writer(model, tokenizer, context=64)
    ids = tokenizer("def ")["input_ids"]
    state = torch.random.get_rng_state()
    options: dict[str, Any] = {"max_new_tokens": 10, "temperature": 1.0, "top_p": 0.95, "ignore_stops": True}
    first, second, other = (list(writer.write(ids, seed=seed, **options)) for seed in (1, 1, 2))
    assert first == second != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sampling_follows_the_probabilities_and_top_p_cuts_them() -> None:
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    random = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([pick(chances.log(), 1.0, 1.0, random) for _ in range(4000)]), minlength=4)
    torch.testing.assert_close(counts / 4000, chances, rtol=0, atol=0.03)
    counts = torch.bincount(torch.tensor([pick(chances.log(), 1.0, 0.7, random) for _ in range(4000)]), minlength=4)
    torch.testing.assert_close(counts / 4000, torch.tensor([0.625, 0.375, 0, 0]), rtol=0, atol=0.03)
    cold = torch.bincount(torch.tensor([pick(chances.log(), 0.5, 1.0, random) for _ in range(4000)]), minlength=4)
    sharper = chances**2 / (chances**2).sum()
    torch.testing.assert_close(cold / 4000, sharper, rtol=0, atol=0.03)
    flat = torch.zeros(5000)  # more than the likeliest that are looked at first
    seen = {pick(flat, 1.0, 0.9, random) for _ in range(300)}
    assert len(seen) > 250
    assert pick(chances, 0.0, 1.0, random) == 0
    with pytest.raises(InputError, match="not finite"):
        pick(torch.tensor([0.0, float("nan")]), 0.0, 1.0, random)


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return bytes(ids).decode(errors="replace")


def test_text_comes_in_whole_characters(zoo: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(zoo[0], zoo[1], context=64)
    writer.tokenizer = Bytes()  # pyright: ignore[reportAttributeAccessIssue]
    for text in ("héllo wörld €5 🙂!", "abc", "日本語", ""):
        monkeypatch.setattr(writer, "write", lambda ids, text=text, **_: iter(text.encode()))
        pieces = list(writer.text([1]))
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)
    monkeypatch.setattr(writer, "write", lambda ids, **_: iter("né".encode()[:2]))
    assert "".join(writer.text([1])) == "n\ufffd"  # cut in the middle of a character: said, not dropped


def test_what_cannot_be_written_is_refused_before_anything_is_read(zoo: tuple[Any, Any]) -> None:
    writer = Writer(*zoo, context=16)
    for ids, options, message in (
        ([], {}, "the prompt is empty"),
        ([1, 2], {"max_new_tokens": 15}, "2 tokens of prompt and 15 new ones exceed the context of 16"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
        ([1], {"temperature": -1}, "temperature must be a finite number of at least 0"),
        ([1], {"top_p": 0}, "top_p must be a finite number above 0"),
    ):
        with pytest.raises(InputError, match=message):
            writer.write(ids, **options)
