"""Order, ties, budgets and agreement of rankings."""

import json

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr

from hardy.core import InputError, Ranking

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


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match=f"the score of b by hand is {bad}; scores must be finite"):
        ranking({"a": 1.0, "b": bad})


def test_no_units_and_budgets_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="a ranking by hand needs at least one unit"):
        ranking({})
    r = ranking({"a": 1.0, "b": 2.0})
    for pick in (r.top, r.bottom, lambda k: r.sample(k, 0)):
        for k in (-1, 3):
            with pytest.raises(InputError, match=rf"k must be in 0\.\.2, the units of this ranking, got {k}"):
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
