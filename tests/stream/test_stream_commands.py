"""`hardy stream`, the report on memory, and a chat that never grows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hardy.cli.main import app
from hardy.errors import InputError
from hardy.quant import Pack, TritPlanes
from hardy.report import Report
from hardy.stream import CompressedCache, KVPolicy, evaluate, memory
from hardy.stream.chat import Chat
from hardy.stream.evaluation import Streams, measure, streamed
from hardy.stream.recall import planted
from hardy.zoo import Subject, load

SMALL = ["--tokens", "32", "--chunk", "8", "--facts", "0", "--budgets", "22", "--seeds", "1"]


def invoke(*words: str, input: str | None = None) -> Any:
    return CliRunner().invoke(app, ["stream", *words], input=input)


def test_evaluate_leaves_a_report_and_goes_on(
    micro_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", str(micro_llama), *SMALL, "--policies", "sliding", "--out", str(tmp_path / "out")]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    report = Report.load(tmp_path / "out")
    names = {row.condition for row in report.select("perplexity")}
    assert names == {"dense", "all, 16 bits", "all, 4 bits"} | {
        f"{name}, 22 tokens, {bits} bits" for name in ("random", "sliding") for bits in (16, 4)
    }
    assert report.value("cache bytes", "sliding, 22 tokens, 16 bits") < report.value("cache bytes", "all, 16 bits")
    for name in ("report.md", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 500
    monkeypatch.setattr("hardy.stream.evaluation.streamed", None)  # nothing is measured again
    assert invoke(*words).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policies", "slidng"], "did you mean sliding"),
        (["--policies", "newest"], "there are: sink-recent, sliding"),
        (["--budgets", "ten"], "budget must be as"),
        (["--budgets", "16"], "less than what"),
        (["--budgets", "2 frames"], "streams of frames"),
        (["--bits", "5"], "bits must be 16, 8, 4 or 2"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_a_model_is_loaded(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardy.stream.evaluation.Subject", None)
    result = invoke("evaluate", *words)
    assert isinstance(result.exception, InputError)
    with pytest.raises(InputError, match=message):
        raise result.exception


def test_bytes_that_do_not_hold_what_is_protected_are_refused_before_anything_is_measured(
    micro_llama: Path, tmp_path: Path
) -> None:
    words = [str(micro_llama), *SMALL, "--budgets", "1MB,2kB", "--bits", "4", "--policies", "sliding"]
    result = invoke("evaluate", *words, "--out", str(tmp_path / "out"))
    with pytest.raises(InputError, match="less than what is protected takes"):
        raise result.exception or AssertionError
    assert not list(tmp_path.rglob("*.json"))


def test_facts_are_where_they_are_said_to_be() -> None:
    _, tokenizer = load("tiny-llama")
    stream = planted(tokenizer, torch.arange(300) % 200 + 100, 3, 0)
    text = tokenizer.decode(stream.ids)
    for question, answer, place in stream.questions:
        fact = tokenizer.decode(torch.cat([question, answer])).strip()
        assert text.count(fact + ".") == 1
        assert 0 < place < 1
    assert planted(tokenizer, torch.arange(300), 3, 1).questions[0][1].tolist() != stream.questions[0][1].tolist()


def test_a_fact_in_the_cache_is_recalled_and_an_evicted_one_is_not() -> None:
    """A model that copies would do; here the answer's loss tells whether the fact was seen at all."""
    model, tokenizer = load("tiny-llama")
    stream = planted(tokenizer, torch.tensor(tokenizer("def f(x):\n    return x\n" * 30)["input_ids"])[:300], 2, 0)
    shared = Streams(model, (stream,), 32)
    whole = measure(shared, {"kind": "all", "bits": 16, "codec": "affine"}, 0)
    dense = measure(shared, {"kind": "dense"}, 0)
    short = measure(shared, {"kind": "sliding", "budget": "24 tokens", "bits": 16, "codec": "affine"}, 0)
    assert whole["loss"] == pytest.approx(dense["loss"], abs=1e-3)
    assert whole["answer_loss"] == pytest.approx(dense["answer_loss"], abs=0.02)
    assert short["loss"] > whole["loss"]
    assert short["answer_loss"] > whole["answer_loss"]
    assert short["bytes"] < whole["bytes"] < dense["bytes"]
    assert streamed is not None


def test_chat_stays_within_its_budget_and_goes_on(micro_llama: Path, tmp_path: Path) -> None:
    words = ["chat", str(micro_llama), "--budget", "22", "--max-new-tokens", "6", "--out", str(tmp_path)]
    result = invoke(*words, input="def add(first, second):\n/stats\n\n    return first + second\n")
    assert result.exit_code == 0, result.output
    assert "kept" in result.output
    first = Report.load(tmp_path)
    again = invoke(*words, input="def add(first):\n/quit\n")
    assert "Going on after 2 turns" in again.output
    report = Report.load(tmp_path)
    assert len(report.select("tokens kept")) == 3
    assert max(row.value for row in report.select("tokens kept")) <= 22
    assert report.value("tokens seen", "turn 3") > first.value("tokens seen", "turn 2")
    other = invoke(*words, "--bits", "16", input="x\n")
    assert isinstance(other.exception, InputError)


def test_a_chat_says_the_same_when_it_was_interrupted(micro_llama: Path, tmp_path: Path) -> None:
    subject, policy = Subject.of(str(micro_llama), window=32), KVPolicy(budget=30, bits=4, protect="turn")
    whole = Chat(subject, policy, max_new_tokens=8)
    said = ["".join(whole.say(text)) for text in ("def add(first", "return second", "first + second")]
    found = []
    for text in ("def add(first", "return second", "first + second"):
        found.append("".join(Chat(subject, policy, max_new_tokens=8, out=tmp_path).say(text)))
    assert found == said
    with pytest.raises(InputError, match="empty"):
        next(whole.say("  "))


def test_packed_weights_and_packed_cache_in_one_model_and_one_account() -> None:
    model, _ = load("tiny-llama")
    ids = torch.arange(300)[None] % 3000
    TritPlanes(planes=2).apply(model)
    with torch.no_grad():
        dense = model(ids).logits
        Pack().apply(model)
        packed = model(ids).logits
        cache = CompressedCache.for_model(model, KVPolicy(bits=8))
        found = torch.cat([model(part, past_key_values=cache).logits for part in ids.split([299, 1], 1)], 1)
    assert float((packed - dense).std() / dense.std()) < 0.2
    assert float((found - packed).std() / packed.std()) < 0.05
    report = memory(model, cache)
    assert report.value("bytes held", "cache") == cache.nbytes
    held, sixteen = (report.value(f"bytes {kind}", "packed weights") for kind in ("held", "in 16 bits"))
    assert 3 < sixteen / held < 6
    assert report.value("bytes in 16 bits", "cache") == 8 * 2 * 2 * 64 * 300 * 2
    assert evaluate is not None
