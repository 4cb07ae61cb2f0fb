from pathlib import Path

import pytest
import torch

import hardy
from hardy.core import Ranking
from hardy.errors import InputError
from hardy.quant import effective_rank, layer_importance
from hardy.studies import locate
from hardy.zoo import Subject


def test_locate_runs_the_locator_on_the_calibration_text(micro_llama: Path) -> None:
    name = str(micro_llama)
    windows = Subject.of(name, tokens=128, window=64).batches("calibration")
    assert [window.shape for window in windows] == [(1, 64), (1, 64)]
    model, tokenizer = hardy.zoo.load(name)
    text = hardy.evaluate.encode(tokenizer, hardy.zoo.held_out_text("calibration"))
    assert torch.equal(windows[0][0], text[:64])
    sites = locate(name, by="effective-rank", unit="projection", seeds=(0, 1), select="mlp", tokens=128, window=64)
    assert sites == effective_rank(model, windows, select="mlp", unit="projection", seeds=(0, 1))
    assert locate(name, by="lieq-v1", tokens=128, window=64) == layer_importance(model, windows)


def test_a_file_gives_its_first_half(micro_llama: Path, tmp_path: Path) -> None:
    path, first = tmp_path / "text.txt", "def first():\n    return 1\n" * 40

    def ranked(text: str) -> Ranking:
        path.write_text(text)
        return locate(str(micro_llama), by="perplexity-drop", text=str(path), tokens=128, window=64)

    ranking = ranked(first + "class Second:\n    pass\n" * 40)
    assert ranked(first + "class Others:\n    pass\n" * 40) == ranking
    assert ranked(first.replace("first", "third") + "class Second:\n    pass\n" * 40) != ranking


def test_locate_refuses_what_a_diagnostic_cannot_use(micro_llama: Path) -> None:
    name = str(micro_llama)
    with pytest.raises(InputError, match="'efective-rank'.*did you mean effective-rank"):
        locate(name, by="efective-rank")
    with pytest.raises(InputError, match="locator perplexity-drop: unit must be block, got 'projection'"):
        locate(name, by="perplexity-drop", unit="projection")
    with pytest.raises(InputError, match="too short"):
        locate(name, by="effective-rank", tokens=16, window=16)
    with pytest.raises(InputError, match="unit must be block or projection, got 'head'"):
        locate(name, by="energy-gain", unit="head")
