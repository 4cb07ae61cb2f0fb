"""What carries a behaviour, before and after a change of the weights; a vector on both; a budget spent by both."""

from pathlib import Path
from typing import Any

import models
import pytest
import torch

from hardy.core import Method
from hardy.errors import InputError
from hardy.hardware import ProportionalNoise
from hardy.interp import Pair, Task
from hardy.quant import RoundToNearest
from hardy.studies import circuit_survival, steering_survival
from hardy.studies.circuit_study import METRICS
from hardy.studies.located_budget import blocks_for, located_budget
from hardy.zoo import Subject


def task(n: int = 4) -> Task:
    """A behaviour of a model of random weights: the answers are what it says anyway."""
    g = torch.Generator().manual_seed(2)
    clean = torch.randint(3, 60, (n, 4), generator=g)
    corrupt = clean.clone()
    clean[:, -1], corrupt[:, -1] = 60, 61
    with torch.no_grad():
        said = model()(input_ids=clean).logits[:, -1] - model()(input_ids=corrupt).logits[:, -1]
    right, wrong = said.mean(0).argmax(), said.mean(0).argmin()
    return Task(clean, right.expand(n, 1), wrong.expand(n, 1), corrupt)


def model() -> Any:
    return models.build("llama")


class Words:
    """A tokenizer of the words that the pairs are of."""

    pad_token_id, eos_token_id, bos_token_id = 0, 2, None

    def __call__(self, text: str, **_: Any) -> Any:
        return type("Ids", (), {"input_ids": [3 + len(word) for word in text.split()]})()


def subject() -> Subject:
    return Subject(name="random", model=model(), tokenizer=Words(), window=16)  # pyright: ignore[reportArgumentType]


def test_the_same_model_has_the_same_circuit_and_finished_cells_are_kept(tmp_path: Path) -> None:
    methods: dict[str, Method] = {
        "no noise": ProportionalNoise(strength=0.0), "noise": ProportionalNoise(strength=0.3),
        "2 bits": RoundToNearest(bits=2, group_size=16),
    }  # fmt: skip
    settings: dict[str, Any] = {"methods": methods, "seeds": 1, "steps": 1, "share": 0.2, "k": 3, "out": tmp_path}
    report = circuit_survival(subject(), task(), **settings)
    for metric in ("score_kept", "heads_spearman", "heads_shared", "edges_spearman", "edges_shared"):
        assert report.value(metric, "no noise") == pytest.approx(1, abs=1e-5)
    assert report.value("edges_spearman", "2 bits") < 1
    assert {row.metric for row in report.rows} >= set(METRICS)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    again = circuit_survival(subject(), task(), **settings)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == kept
    assert [row.value for row in again.rows] == [row.value for row in report.rows]
    worse = task()
    with pytest.raises(InputError, match="no behaviour to survive"):
        circuit_survival(subject(), Task(worse.clean, worse.wrong, worse.right, worse.corrupt))


def test_a_vector_is_added_to_the_changed_model_beside_its_own_and_random_ones(tmp_path: Path) -> None:
    pairs = [Pair("a bb ccc", "dddd ee f"), Pair("aa bb cccc", "ddd ee ff"), Pair("a b ccc", "dddd eee f")]
    methods: dict[str, Method] = {
        "no noise": ProportionalNoise(strength=0.0), "much noise": ProportionalNoise(strength=0.5)
    }  # fmt: skip
    settings: dict[str, Any] = {
        "layer": 0, "methods": methods, "seeds": 1, "chances": 1, "scales": (-1, 0, 1), "out": tmp_path
    }  # fmt: skip
    given = pairs, task(), torch.arange(3, 11)[None]
    report = steering_survival(subject(), *given, **settings)
    for metric in ("old vector: effect", "own vector: shift at 1", "random vectors: divergence"):
        before, after = (report.value(metric, name) for name in ("unmodified", "no noise"))
        assert after == pytest.approx(before, abs=1e-5)
        assert abs(before) > 1e-4
    assert report.value("cosine of old and own vector", "no noise") == pytest.approx(1, abs=1e-5)
    assert report.value("cosine of old and own vector", "much noise") < 0.999
    assert report.value("old vector: divergence at 0", "much noise") == 0
    assert (tmp_path / "report.html").is_file()
    again = steering_survival(subject(), *given, **settings)  # what is finished is read
    assert [row.value for row in again.rows] == [row.value for row in report.rows]
    with pytest.raises(InputError, match="0 to 1, got 2|not for 2"):
        steering_survival(subject(), *given, layer=2)


def test_blocks_have_what_their_heads_and_mlps_carry() -> None:
    ranking = blocks_for(subject(), task(), steps=1)
    assert list(ranking.scores) == ["model.layers.0.*", "model.layers.1.*"]
    assert all(score > 0 for score in ranking.scores.values())


def test_budgets_are_spent_by_every_ranking_and_finished_cells_are_kept(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("hardy.studies.located_budget.loss_of", lambda subject: 1.0)
    settings: dict[str, Any] = {"others": (), "group_size": 16, "seeds": 1, "out": tmp_path}
    report = located_budget(subject(), task(), task(6), **settings)
    kept = {row.condition: row.value for row in report.select("score_kept")}
    assert len(kept) == 6  # three budgets, located and random
    copies = [located_budget(subject(), task(), task(6), **settings | {"copies": n, "out": None}) for n in (1, 64)]
    gone = [abs(1 - r.value("score_kept", f"30% noise, {n} copies of half of the blocks: located")) for r, n in
            zip(copies, (1, 64), strict=True)]  # fmt: skip
    protected = abs(1 - kept["30% noise, half of the blocks kept from it: located"])
    assert abs(gone[1] - protected) < abs(gone[0] - protected)  # many copies are as good as no noise
    again = located_budget(subject(), task(), task(6), **settings)
    assert [row.value for row in again.rows] == [row.value for row in report.rows]
