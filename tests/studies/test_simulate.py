import dataclasses
import math
from pathlib import Path

import pytest

from hardy.analog import Deploy
from hardy.errors import InputError
from hardy.hardware import Chip
from hardy.report import Report
from hardy.studies import place, simulate
from hardy.studies.chip_study import seconds_of
from hardy.studies.measure import INTACT, measure
from hardy.zoo import Subject


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("def add(first, second):\n    return first + second\n\n" * 60)
    return str(path)


def test_times() -> None:
    times = {"0": 0, "90": 90, "90 s": 90, "15min": 900, "2h": 7200, "1.5d": 129600, "1w": 604800, "1e3s": 1000}
    for time, seconds in times.items():
        assert seconds_of(time) == seconds
    assert seconds_of("1y") == 365.25 * 86400
    assert seconds_of(3600) == 3600
    for bad in ("", "-1", "1 fortnight", "nan", "inf", "1e999"):
        with pytest.raises(InputError, match="time must be a number of at least 0"):
            seconds_of(bad)


def test_perplexities_are_those_of_each_chip_instance(micro_llama: Path, text: str, tmp_path: Path) -> None:
    run = {"chip": "pcm", "times": ["0", "1d"], "n_seeds": 2, "text": text, "tokens": 64, "window": 32, "workers": 1}
    report = simulate(str(micro_llama), out=tmp_path / "study", **run)
    subject = Subject.of(str(micro_llama), text=text, tokens=64, window=32)
    for condition, seconds in (("after 0", 0.0), ("after 1d", 86400.0)):
        arguments = {"part": "evaluation", "method": Deploy(chip="pcm", seconds=seconds).to_dict()}
        values = [math.exp(measure(subject, arguments, seed)["loss"]) for seed in (0, 1)]
        row = report.select("perplexity", condition)[0]
        assert row.value == pytest.approx(math.sqrt(values[0] * values[1])), "of the mean loss"
        assert row.spread == pytest.approx(row.value * abs(math.log(values[0] / values[1])) / 2**0.5)
        assert (row.n, row.seeds, row.baseline) == (2, (0, 1), INTACT)
    assert [figure.title for figure in report.figures] == [
        "Perplexity after programming", "Error after 1d", "What the cells conduct", "Where the energy goes",
    ]  # fmt: skip
    assert report.title.endswith("on the chip pcm")
    shares = [series.y for series in report.figures[2].series]  # pyright: ignore[reportAttributeAccessIssue]
    assert [sum(y) for y in shares] == pytest.approx([1, 1, 1], abs=1e-3)
    parts = [row.value for row in report.rows if row.metric.startswith("energy_of_")]
    assert sum(parts) == pytest.approx(report.value("energy", "all selected weights"))
    worst = [row.value for row in report.select("relative_error")]
    assert 1 < len(worst) <= 8
    assert worst == sorted(worst, reverse=True)
    assert len(report.summary) == 3
    assert report.value("arrays", "all selected weights") == 14
    assert Report.load(tmp_path / "study").rows == report.rows
    assert simulate(str(micro_llama), out=tmp_path / "study", **run).rows == report.rows
    with pytest.raises(InputError, match="holds a different study"):
        simulate(str(micro_llama), out=tmp_path / "study", **{**run, "chip": "hermes"})


def test_a_calibrated_chip_is_calibrated_on_the_calibration_text(micro_llama: Path, text: str) -> None:
    report = simulate(str(micro_llama), chip="pcm-foundation", n_seeds=1, text=text, tokens=64, window=32, workers=1)
    assert not [note for note in report.notes if note.startswith("Failed")]
    assert report.select("perplexity", "after 0")[0].value > 0
    assert "Perplexity after programming" not in [figure.title for figure in report.figures], "there is one time"


def test_an_ideal_chip_is_the_unmodified_model(micro_llama: Path, text: str, tmp_path: Path) -> None:
    dataclasses.replace(Chip.preset("ideal"), tile_rows=8).save(tmp_path / "chip.json")
    run = {"text": text, "tokens": 64, "window": 32, "n_seeds": 1, "workers": 1}
    report = simulate(str(micro_llama), chip=str(tmp_path / "chip.json"), **run)
    assert report.value("perplexity", "after 0") == report.value("perplexity", INTACT)
    assert [row.condition for row in report.rows] == [INTACT, "after 0"] * 2, "perplexities and losses, and no costs"


def test_a_table_of_measured_cells(micro_llama: Path, text: str, tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("level,mean,std\n0,0.2,0.1\n20,20,0.4\n40,39,0.6\n")
    run = {"text": text, "tokens": 64, "window": 32, "n_seeds": 1, "workers": 1}
    report = simulate(str(micro_llama), chip=str(tmp_path / "cells.csv"), **run)
    assert report.settings["chip"]["device"]["fields"]["means"] == (0.2, 20.0, 39.0)
    with pytest.raises(InputError, match="a cell from a table without times is known right after programming only"):
        simulate(str(micro_llama), chip=str(tmp_path / "cells.csv"), times=["1d"], **run)


@pytest.mark.parametrize("select", ["embedding", "linear,norm", "model.layers.0"])
def test_what_a_chip_does_not_take_is_refused_before_anything_is_measured(
    select: str, micro_llama: Path, text: str, tmp_path: Path
) -> None:
    run = {"text": text, "tokens": 64, "window": 32, "n_seeds": 1, "workers": 1, "select": select}
    with pytest.raises(InputError, match="a chip takes nn.Linear|has no weight matrix"):
        simulate(str(micro_llama), out=tmp_path / "study", **run)
    with pytest.raises(InputError, match="a chip takes nn.Linear|has no weight matrix"):
        place(str(micro_llama), out=tmp_path / "study", n_judged=2, **run)
    assert not (tmp_path / "study").exists()


def test_tiles_that_are_too_large_to_solve_are_refused_before_anything_is_measured(
    micro_llama: Path, text: str, tmp_path: Path
) -> None:
    chip = dataclasses.replace(Chip.preset("pcm"), wire_resistance=0.1, wires="exact")
    run = {"text": text, "tokens": 64, "window": 32, "n_seeds": 1, "workers": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hardy.hardware.wires.LARGEST_EXACT", 32)
        with pytest.raises(InputError, match="too large for wires='exact'"):
            simulate(str(micro_llama), chip=chip, out=tmp_path / "study", **run)
    assert not (tmp_path / "study").exists()


def test_bad_inputs() -> None:
    with pytest.raises(InputError, match="times must hold at least one time, got none"):
        simulate("tiny-llama", times=[])
    with pytest.raises(InputError, match="n_seeds must be an integer of at least 1, got 1.5"):
        simulate("tiny-llama", n_seeds=1.5)


def test_a_fixed_range_of_the_converters_and_what_it_clips(micro_llama: Path, text: str) -> None:
    run = {"n_seeds": 2, "text": text, "tokens": 64, "window": 32, "workers": 1}
    tight = simulate(str(micro_llama), chip="reram-wan", adc_range=0.02, **run)  # pyright: ignore[reportArgumentType]
    assert tight.settings["chip"]["adc_range"] == 0.02
    shares = tight.select("clipped_outputs")
    assert shares[0].condition == "all selected weights"
    assert 1 < len(shares) <= 9
    assert shares[0].value > 0.1
    assert [row.value for row in shares[1:]] == sorted((row.value for row in shares[1:]), reverse=True)
    calibrated = simulate(str(micro_llama), chip="reram-wan", **run)  # pyright: ignore[reportArgumentType]
    assert calibrated.value("clipped_outputs", "all selected weights") < 0.01
    row = calibrated.select("perplexity", condition="after 0")[0]
    assert 0 < row.details["share_on_chip"] < 1
