"""The committed benchmark of the chip says what the project claims of it."""

import pytest

from benchmarks.harness.record import Record
from hardy.hardware import Chip
from hardy.report import Report


@pytest.fixture(scope="module")
def report() -> Report:
    return Record.read("chip").report


def test_every_preset_is_within_one_percent_of_its_formula(report: Report) -> None:
    assert report.settings["cells"] >= 1_000_000
    for metric in ("std_error", "mean_error"):
        assert {row.condition for row in report.select(metric)} == set(Chip.presets()) - {"ideal"}
        assert all(row.value < 0.01 for row in report.select(metric))
    assert all(row.n == report.settings["cells"] for row in report.select("conductance"))


def test_one_process_and_many_give_the_same_chip(report: Report) -> None:
    assert report.value("same", "four chip instances") == 4
    assert report.value("different", "four chip instances") == 4


def test_overhead(report: Report) -> None:
    ratios = {row.condition: row.value for row in report.select("ratio_of_median")}
    assert report.notes == ()
    assert ratios["hardy: additive weight noise at every forward"] <= 1.3
    assert ratios["hardy: pcm (converters, tiles of 256, level-dependent noise)"] <= 2
    full = "converters, tiles of 256, additive noise"
    ours = ratios[f"hardy: reram-wan ({full})"]
    assert ours < ratios[f"aihwkit torch tile: {full}"]
    assert ours < ratios[f"lightning: {full}"]
