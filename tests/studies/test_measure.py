from pathlib import Path

import pytest

import hardy
from hardy.studies.measure import measure, perplexity_of
from hardy.zoo import Subject


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def add(first, second):\n    return first + second\n\n" * 60)
    return path


def test_loss_is_that_of_the_perplexity_function_on_one_window(micro_llama: Path, text: Path) -> None:
    subject = Subject.of(str(micro_llama), text=text, tokens=32, window=32)
    loss = measure(subject, {"part": "calibration", "method": None}, 0)["loss"]
    model, tokenizer = hardy.zoo.load(str(micro_llama))
    ids = hardy.evaluate.encode(tokenizer, text.read_text())[:32]
    expected = hardy.evaluate.token_losses(model, ids, window=32).mean()
    assert loss == pytest.approx(float(expected), rel=1e-6)


def test_the_method_is_applied_seeded_and_taken_back(micro_llama: Path, text: Path) -> None:
    subject = Subject.of(str(micro_llama), text=text, tokens=64, window=32)
    noise = {"part": "evaluation", "method": hardy.hardware.AdditiveNoise(strength=0.3).to_dict()}
    intact = measure(subject, {"part": "evaluation", "method": None}, 0)
    first, second, other = (measure(subject, noise, seed) for seed in (1, 1, 2))
    assert first == second
    assert first["loss"] != other["loss"]
    assert first["relative_error"] > 0
    assert measure(subject, {"part": "evaluation", "method": None}, 0) == intact


def test_the_parts_of_a_file_are_its_halves(micro_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "halves.txt"
    path.write_text("a" * 400 + "class Second:\n    pass\n" * 18)
    subject = Subject.of(str(micro_llama), text=path, tokens=32, window=32)
    losses = {
        part: measure(subject, {"part": part, "method": None}, 0)["loss"] for part in ("calibration", "evaluation")
    }
    assert losses["calibration"] != losses["evaluation"]


def test_perplexity_beyond_float_is_infinite() -> None:
    assert perplexity_of(0.0) == 1.0
    assert perplexity_of(1e6) == float("inf")
