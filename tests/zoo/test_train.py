import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import hardy
from hardy.errors import InputError
from hardy.zoo import corpus
from hardy.zoo import train as trainer
from hardy.zoo.recipe import Recipe
from hardy.zoo.recipes import recipe as find_recipe
from hardy.zoo.text import standard_library

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch >= 2.9")


def build(vocab_size: int) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


RECIPE = Recipe(
    name="micro",
    summary="for tests",
    data=corpus.LibraryText,
    build=build,
    vocab_size=400,
    context=32,
    batch=4,
    steps=24,
    decay=0.5,
)


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's own code on two modules instead of the whole library: seconds instead of minutes."""
    documents = [(standard_library() / name).read_text()[:20_000] for name in ("ast.py", "bdb.py")]
    monkeypatch.setattr(corpus, "training_documents", lambda: (documents[:1], documents[1:]))
    monkeypatch.setattr(corpus, "held_out_text", lambda part: "def main(argv):\n    return len(argv)\n" * 8)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / trainer.CHECKPOINT)  # of the whole state: parameters and the optimizers' moments
    assert any(name.startswith("optimizers.0.state") for name in found)
    return found


def test_training_learns_and_leaves_a_model_with_its_card(tmp_path: Path) -> None:
    card = trainer.train(RECIPE, tmp_path / "run", steps=60, validate_every=10)
    log = [json.loads(line) for line in (tmp_path / "run" / trainer.LOG).read_text().splitlines()]
    assert [line["step"] for line in log] == [10, 20, 30, 40, 50, 60]
    assert log[-1]["train_loss"] < math.log(400) - 1  # a nat better than knowing nothing
    assert card["loss_curve"] == [[line["step"], line["train_loss"], line["validation_loss"]] for line in log]
    assert card["data"]["tokens_seen"] == 60 * 4 * 32
    held_out = card["held_out"]
    assert held_out["below_xz"] == pytest.approx(1 - held_out["bits_per_byte"] / held_out["bits_per_byte_xz_9e"])
    model, tokenizer = hardy.zoo.load(str(tmp_path / "run"))
    assert len(tokenizer) == 400
    again = hardy.evaluate.bits_per_byte(model, tokenizer, corpus.held_out_text("evaluation"), stride=16)
    assert again == pytest.approx(held_out["bits_per_byte"], rel=1e-6)


def test_a_run_that_was_killed_ends_as_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer.train(RECIPE, tmp_path / "unbroken", validate_every=6)
    real, calls = trainer._save, []

    def killed_after_second(*arguments: object) -> None:
        real(*arguments)  # pyright: ignore[reportArgumentType]
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save", killed_after_second)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(RECIPE, tmp_path / "killed", validate_every=6)
    monkeypatch.setattr(trainer, "_save", real)
    trainer.train(RECIPE, tmp_path / "killed", validate_every=6)
    first, second = weights(tmp_path / "unbroken"), weights(tmp_path / "killed")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors", "config.json"):
        assert (tmp_path / "unbroken" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_a_tokenizer_that_a_kill_left_without_its_configuration_is_made_again(tmp_path: Path) -> None:
    trainer.train(RECIPE, tmp_path / "run", steps=2)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("tokenizer*")}
    (tmp_path / "run" / "tokenizer_config.json").unlink()
    trainer.train(RECIPE, tmp_path / "run", steps=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("tokenizer*")} == whole
    (tmp_path / "run" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer.json is damaged"):
        trainer.train(RECIPE, tmp_path / "run", steps=2)


def test_a_run_can_be_prolonged_until_its_learning_rate_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_finish", stop)
    real = trainer._save

    def checkpoint_then_stop(*arguments: object) -> None:
        real(*arguments)  # pyright: ignore[reportArgumentType]
        if arguments[2]["step"] == stop_at:  # pyright: ignore[reportIndexIssue]
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save", checkpoint_then_stop)
    stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        trainer.train(RECIPE, tmp_path, validate_every=6)
    stop_at = 18
    with pytest.raises(KeyboardInterrupt):
        trainer.train(RECIPE, tmp_path, steps=30, validate_every=6)
    with pytest.raises(InputError, match="steps=40.*falling"):
        trainer.train(RECIPE, tmp_path, steps=40, validate_every=6)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    trainer.train(RECIPE, tmp_path, steps=2)
    with pytest.raises(InputError, match="belongs to another training .*: seed is 0 there, 1 here"):
        trainer.train(dataclasses.replace(RECIPE, seed=1), tmp_path, steps=2)


def test_a_checkpoint_that_would_need_unpickling_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(InputError, match=r"checkpoint\.pt is a checkpoint that this hardy no longer reads"):
        trainer.train(RECIPE, tmp_path, steps=2)


def test_weights_are_as_readable_as_the_card(tmp_path: Path) -> None:
    trainer.train(RECIPE, tmp_path, steps=2)
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "card.json").stat().st_mode}


def test_every_window_of_a_pass_is_seen_once_and_passes_differ() -> None:
    tokens = torch.arange(32 * 9 + 1, dtype=torch.int32)  # 8 windows and the spare one
    drawn = corpus.Corpus(tokens, tokens, {})
    first = torch.cat([corpus.windows_of(drawn, RECIPE, step, 100) for step in (0, 1)])
    assert first.shape == (8, 33)
    starts = sorted(first[:, 0].tolist())
    assert [b - a for a, b in itertools.pairwise(starts)] == [32] * 7
    second = torch.cat([corpus.windows_of(drawn, RECIPE, step, 100) for step in (2, 3)])
    assert second[:, 0].tolist() != first[:, 0].tolist()


def test_late_steps_are_drawn_from_the_focused_text() -> None:
    everything, focused = torch.zeros(400, dtype=torch.int32), torch.ones(400, dtype=torch.int32)
    drawn = corpus.Corpus(everything, focused, {})
    means = [corpus.windows_of(drawn, RECIPE, step, 9).float().mean().item() for step in range(9)]
    assert means == [0.0] * 4 + [1.0] * 5


def test_focused_text_holds_the_modules_three_times_and_the_tests_once(tmp_path: Path) -> None:
    _, drawn = corpus.corpus_of(RECIPE, tmp_path)
    modules, tests = drawn.facts["library_tokens"], drawn.facts["tests_tokens"]
    assert len(drawn.everything) == modules + tests
    assert torch.equal(drawn.focused[2 * modules :], drawn.everything)


def test_learning_rate_rises_stays_and_ends_at_zero() -> None:
    rates = [RECIPE.learning_rate(step, 100) for step in range(101)]
    assert rates[0] < 1
    assert rates[10:50] == [1.0] * 40
    assert rates[100] == 0
    assert all(a > b for a, b in itertools.pairwise(rates[51:]))


def test_unknown_recipe_is_refused_with_a_near_miss() -> None:
    assert find_recipe("tiny-llama").name == "tiny-llama"
    with pytest.raises(InputError, match="tiny-lama.*did you mean tiny-llama"):
        find_recipe("tiny-lama")
