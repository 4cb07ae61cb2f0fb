"""The committed benchmark of the chip says what the project claims of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from hardy.hardware import Chip


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "chip.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_preset_is_within_one_percent_of_its_formula(result: dict[str, Any]) -> None:
    assert result["cells"] >= 1_000_000
    assert {row["preset"] for row in result["formulas"]} == set(Chip.presets()) - {"ideal"}
    for row in result["formulas"]:
        assert row["std_error"] < 0.01, row["preset"]
        assert row["mean_error"] < 0.01, row["preset"]


def test_one_process_and_many_give_the_same_chip(result: dict[str, Any]) -> None:
    assert result["same_chip"] == {"seeds": 4, "same": True, "different_seeds_differ": True}


def test_overhead(result: dict[str, Any]) -> None:
    ratios = {row["layer"]: row["ratio_of_median"] for row in result["speed"]["rows"]}
    assert result["speed"]["missing"] == []
    assert ratios["hardy: additive weight noise at every forward"] <= 1.3
    assert ratios["hardy: pcm (converters, tiles of 256, level-dependent noise)"] <= 2
    full = "converters, tiles of 256, additive noise"
    ours = ratios[f"hardy: reram-wan ({full})"]
    assert ours < ratios[f"aihwkit torch tile: {full}"]
    assert ours < ratios[f"lightning: {full}"]
