"""Order, ties, budgets and agreement of rankings."""

import copy
import json
import math
import pickle
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr

from hardy.core import InputError, Ranking
from hardy.files import write_json

matplotlib.use("Agg")


def ranking(scores: dict[str, float], by: str = "hand") -> Ranking:
    return Ranking(scores=scores, meaning="increase in loss", unit="nats/token", by=by)


SCORES = st.dictionaries(st.text("abcdef", min_size=1), st.floats(-1e6, 1e6), min_size=1, max_size=12)


def test_order_ties_top_and_bottom() -> None:
    r = ranking({"a": 1.0, "b": 3.0, "c": 1.0, "d": -2.0})
    assert r.order() == ["b", "a", "c", "d"]  # a before c, as given
    assert r.top(2) == ["b", "a"]
    assert r.bottom(3) == ["d", "c", "a"]
    assert r.top(0) == []
    assert len(r) == 4


@given(scores=SCORES, data=st.data())
def test_top_and_bottom_part_the_units(scores: dict[str, float], data: st.DataObject) -> None:
    r = ranking(scores)
    k = data.draw(st.integers(0, len(r)))
    assert r.top(k) + r.bottom(len(r) - k)[::-1] == r.order()
    assert sorted(r.order()) == sorted(scores)
    assert all(scores[a] >= scores[b] for a in r.top(k) for b in r.bottom(len(r) - k))


@given(scores=SCORES, seed=st.integers(0, 99), data=st.data())
def test_a_sample_is_of_k_different_units_and_repeats(scores: dict[str, float], seed: int, data: st.DataObject) -> None:
    r = ranking(scores)
    k = data.draw(st.integers(0, len(r)))
    names = r.sample(k, seed)
    assert len(set(names)) == k
    assert set(names) <= set(scores)
    assert r.sample(k, seed) == names


@given(scores=SCORES, seed=st.integers(0, 99))
def test_controls_deal_the_same_scores_to_other_units(scores: dict[str, float], seed: int) -> None:
    r = ranking(scores)
    assert r.reversed().order() == r.order()[::-1]
    assert r.shuffled(seed).order() == r.sample(len(r), seed)
    for control in (r.reversed(), r.shuffled(seed)):
        assert sorted(control.scores) == sorted(scores)
        assert sorted(control.scores.values()) == sorted(scores.values())
        assert control.by != r.by


def test_controls_of_a_seed_stay_what_they_were() -> None:
    r = ranking({letter: float(i % 4) for i, letter in enumerate("abcdefghij")})
    assert r.order() == list("dhcgbfjaei")
    assert r.sample(4, 3) == list("ceda")
    assert r.shuffled(7).order() == list("abigcdefjh")
    assert r.reversed().scores == dict(zip("ieajfbgchd", (3, 3, 2, 2, 1, 1, 1, 0, 0, 0), strict=True))


def test_a_ranking_says_what_it_is_in_few_words() -> None:
    assert str(ranking({"a": 1.0, "b": 2.0})) == "2 units by hand"


def test_samples_of_different_seeds_are_fair() -> None:
    r = ranking({str(i): float(i) for i in range(10)})
    counts = [0] * 10
    for seed in range(2000):
        for name in r.sample(3, seed):
            counts[int(name)] += 1
    assert all(abs(count - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5 for count in counts)


@given(
    pairs=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=20).filter(
        lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))
    )
)
def test_agreement_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one = ranking({str(i): float(a) for i, (a, _) in enumerate(pairs)})
    two = ranking({str(i): float(b) for i, (_, b) in reversed(list(enumerate(pairs)))} | {"only here": 99.0}, "other")
    expected = spearmanr(*zip(*pairs, strict=True))
    agreement = one.agreement(two)
    assert agreement.spearman == pytest.approx(expected.statistic, abs=1e-12)
    assert agreement.p_value == pytest.approx(expected.pvalue, nan_ok=True)
    assert agreement.n == len(pairs)
    assert two.agreement(one).spearman == pytest.approx(agreement.spearman)


def test_agreement_by_hand() -> None:
    one = ranking({"a": 1, "b": 2, "c": 3, "d": 4})
    assert one.agreement(ranking({"a": 10, "b": 200, "c": 3000, "d": 40000})).spearman == pytest.approx(1)
    assert one.agreement(ranking({"d": 1, "c": 2, "b": 3, "a": 4})).spearman == pytest.approx(-1)
    # Ranks 1 2 3 4 against 2 1 3 4: 1 - 6 * 2 / (4 * 15).
    assert one.agreement(ranking({"a": 2, "b": 1, "c": 3, "d": 4})).spearman == pytest.approx(0.8)


def test_agreement_needs_three_units_and_differences() -> None:
    one = ranking({"a": 1, "b": 2, "c": 3})
    with pytest.raises(InputError, match="needs 3 common units, hand and other have 2"):
        one.agreement(ranking({"a": 1, "b": 2, "x": 3}, "other"))
    with pytest.raises(InputError, match="flat gives all 3 common units the same score"):
        one.agreement(ranking({"a": 1, "b": 1, "c": 1, "x": 3}, "flat"))


@given(scores=SCORES)
def test_through_json_and_back(scores: dict[str, float]) -> None:
    r = ranking(scores)
    back = Ranking(**json.loads(json.dumps(r.to_dict())))
    assert back == r
    assert back.order() == r.order()
    assert hash(back) == hash(r)


def test_a_ranking_does_not_change_when_its_dictionary_does() -> None:
    scores = {"a": 1.0, "b": 2.0}
    r = ranking(scores)
    scores["a"] = 9.0
    assert r.order() == ["b", "a"]
    with pytest.raises(TypeError):
        r.scores["a"] = 9.0


def test_equal_whatever_the_order_and_the_library() -> None:
    one = ranking({"a": 1, "b": np.float32(0.5), "c": 0.0})
    two = ranking({"c": -0.0, "b": 0.5, "a": True})
    assert one == two == pickle.loads(pickle.dumps(one)) == copy.deepcopy(one)
    assert one.scores == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert len({hash(one), hash(two), hash(pickle.loads(pickle.dumps(one)))}) == 1
    assert one != ranking({"a": 1.0, "b": 0.5, "d": 0.0})
    assert one != ranking({"a": 1.0, "b": 0.25, "c": 0.0})
    assert [type(score) for score in one.scores.values()] == [float] * 3
    assert dict(one.scores) == dict(one.scores.items()) == {name: one.scores[name] for name in one.scores}
    assert "a" in one.scores
    assert "x" not in one.scores
    with pytest.raises(ValueError, match="read-only"):
        one._scores.array[0] = 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_from_an_array(dtype: torch.dtype) -> None:
    scores = torch.tensor([1, 3, 2]).to(dtype)
    facts = {"meaning": "increase in loss", "unit": "nats/token", "by": "hand"}
    r = Ranking.from_array(scores, **facts)
    assert r == ranking({"0": 1, "1": 3, "2": 2})
    scores[0] = 9
    assert r.order() == ["1", "2", "0"]
    assert Ranking.from_array([1, 3, 2], iter("abc"), **facts) == ranking({"a": 1, "b": 3, "c": 2})
    for wrong, message in (
        ((torch.ones(2, 2),), r"must be \(units,\), got \(2, 2\)"),
        (([],), "needs at least one unit"),
        (([1, 2], "a"), "2 scores by hand need as many different names, got 1, 1 of them different"),
        (([1, 2], "aa"), "got 2, 1 of them different"),
        (([1, math.nan],), "the score of 1 by hand is nan"),
        ((["high"],), "scores by hand must be numbers"),
    ):
        with pytest.raises(InputError, match=message):
            Ranking.from_array(*wrong, **facts)


@given(scores=SCORES)
def test_files_hold_the_ranking_exactly(scores: dict[str, float], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ranking")
    r = ranking(scores)
    assert Ranking.load(r.save(folder / "a.json")) == r
    write_json(folder / "b.json", r.to_dict())
    assert Ranking.load(folder / "b.json") == r


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a ranking"),
        ('{"format": "hardy-report", "scores": {}}', "is not a ranking"),
        ('{"format": "hardy-ranking", "version": 2, "scores": []}', "of version 2; this hardy reads version 1"),
        ('{"scores": {"a": 1}, "meaning": "m", "unit": "u"}', "is damaged: it lacks 'by'"),
        ('{"scores": {"a": "x"}, "meaning": "m", "unit": "u", "by": "b"}', "a.json: the score of a by b is 'x'"),
        ('{"scores": [1, 2], "names": ["a"], "meaning": "m", "unit": "u", "by": "b"}', "a.json: 2 scores"),
        ('{"scores": 5, "meaning": "m", "unit": "u", "by": "b"}', "is damaged"),
        ("{", "is damaged"),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Ranking.load(tmp_path / "a.json")
    with pytest.raises(InputError, match="no ranking at"):
        Ranking.load(tmp_path / "b.json")


def test_a_million_units_are_ranked_printed_and_compared_at_once() -> None:
    random = np.random.default_rng(0)
    one, two = (
        Ranking.from_array(random.standard_normal(10**6), meaning="m", unit="u", by=by) for by in ("one", "two")
    )
    begun = time.process_time()
    best = one.top(10)
    assert len(best) == 10
    console = Console(width=80)
    with console.capture() as capture:
        console.print(one.table())
    assert "and 999900 more" in capture.get()
    assert abs(one.agreement(two).spearman) < 0.01
    hash(one)
    assert len(pickle.dumps(one)) < 20e6
    assert time.process_time() - begun < 2.5  # about 0.6 s where nothing else runs; 5 s with a dictionary


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match=f"the score of b by hand is {bad}; scores must be finite"):
        ranking({"a": 1.0, "b": bad})


def test_no_units_and_budgets_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="a ranking by hand needs at least one unit"):
        ranking({})
    r = ranking({"a": 1.0, "b": 2.0})
    for pick in (r.top, r.bottom, lambda k: r.sample(k, 0)):
        for k in (-1, 3, 1.0):
            with pytest.raises(InputError, match=f"k of 2 units must be an integer from 0 to 2, got {k}"):
                pick(k)
    with pytest.raises(InputError, match="the score of a by hand is 'high'"):
        ranking({"a": "high"})


def test_table_and_plot_show_the_first_units() -> None:
    from matplotlib.figure import Figure

    r = ranking({"quiet": 0.5, "loud": 2.25, "middling": 1.0})
    console = Console(width=80)
    with console.capture() as capture:
        console.print(r.table(2))
    text = capture.get()
    assert "by hand: increase in loss" in text
    assert "nats/token" in text
    assert text.index("loud") < text.index("middling")
    assert "quiet" not in text
    axes = Figure().subplots()
    r.plot(axes, 2)
    assert [bar.get_width() for bar in axes.patches] == [1.0, 2.25]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["middling", "loud"]
