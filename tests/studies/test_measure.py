from pathlib import Path

import pytest
import torch

import hardy
from hardy.errors import InputError
from hardy.studies.measure import _spread_windows, measure, perplexity_of, read_text, settings_for


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def add(first, second):\n    return first + second\n\n" * 60)
    return path


def test_loss_is_that_of_the_perplexity_function_on_one_window(micro_llama: Path, text: Path) -> None:
    settings = settings_for(str(micro_llama), str(text), tokens=32, window=32)
    loss = measure(settings, {"part": "calibration", "method": None}, 0)["loss"]
    model, tokenizer = hardy.zoo.load(str(micro_llama))
    ids = hardy.evaluate.encode(tokenizer, text.read_text())[:32]
    expected = hardy.evaluate.token_losses(model, ids, window=32).mean()
    assert loss == pytest.approx(float(expected), rel=1e-6)


def test_the_method_is_applied_seeded_and_taken_back(micro_llama: Path, text: Path) -> None:
    settings = settings_for(str(micro_llama), str(text), tokens=64, window=32)
    noise = {"part": "evaluation", "method": hardy.hardware.AdditiveNoise(strength=0.3).to_dict()}
    intact = measure(settings, {"part": "evaluation", "method": None}, 0)
    first, second, other = (measure(settings, noise, seed) for seed in (1, 1, 2))
    assert first == second
    assert first["loss"] != other["loss"]
    assert first["relative_error"] > 0
    assert measure(settings, {"part": "evaluation", "method": None}, 0) == intact


def test_the_parts_of_a_file_are_its_halves(micro_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "halves.txt"
    path.write_text("a" * 400 + "class Second:\n    pass\n" * 18)
    settings = settings_for(str(micro_llama), str(path), tokens=32, window=32)
    losses = {
        part: measure(settings, {"part": part, "method": None}, 0)["loss"] for part in ("calibration", "evaluation")
    }
    assert losses["calibration"] != losses["evaluation"]


def test_windows_are_spread_from_the_first_token_to_the_last() -> None:
    ids = torch.arange(1000)
    windows = _spread_windows(ids, 10, 50, None)
    assert [len(w) for w in windows] == [10] * 5
    assert windows[0][0] == 0
    assert windows[-1][-1] == 999
    with_begin = _spread_windows(ids, 10, 50, torch.tensor([0]))
    assert all(w[0] == 0 for w in with_begin)
    assert with_begin[0].tolist() == list(range(10))
    assert with_begin[-1][-1] == 999


def test_short_text_gives_one_short_window() -> None:
    assert [w.tolist() for w in _spread_windows(torch.arange(5), 10, 50, None)] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"\xff\xfe\x00x", "not UTF-8: byte 0xff at 0"),
        (b"abc\0def", "binary: it holds a NUL byte at 3"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(tmp_path / "bad")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_text(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)


def test_text_shorter_than_one_window_is_refused(micro_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("x = 1")
    with pytest.raises(InputError, match="less than one window of 64"):
        settings_for(str(micro_llama), str(tmp_path / "short"), tokens=64, window=64)


def test_windows_and_token_counts_out_of_range_are_refused(micro_llama: Path) -> None:
    with pytest.raises(InputError, match=r"window must be in 2\.\.64.*got 65"):
        settings_for(str(micro_llama), None, tokens=128, window=65)
    with pytest.raises(InputError, match="at least one window of 64, got 63"):
        settings_for(str(micro_llama), None, tokens=63, window=64)


def test_a_text_that_changed_since_is_noticed(micro_llama: Path, text: Path) -> None:
    settings = settings_for(str(micro_llama), str(text), tokens=32, window=16)
    text.write_text("other " * 200)
    with pytest.raises(InputError, match="has changed"):
        measure(settings, {"part": "evaluation", "method": None}, 0)


def test_perplexity_beyond_float_is_infinite() -> None:
    assert perplexity_of(0.0) == 1.0
    assert perplexity_of(1e6) == float("inf")
