"""Bit budgets: never exceeded, nothing left that the next raise would fit in, more bits for higher scores."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardy.core import InputError
from hardy.quant import allocate
from hardy.quant.bit_budget import nominal_bits, nominal_high

Problem = tuple[dict[str, float], dict[str, int], dict[str, list[int]], float]


@st.composite
def problems(draw: st.DrawFn, most_levels: int = 4) -> Problem:
    """Units of unequal sizes, costs of codes and scales as quantizers have them, a budget that can be met."""
    names = [f"unit {i}" for i in range(draw(st.integers(1, 9)))]
    levels = sorted(draw(st.sets(st.integers(1, 8), min_size=1, max_size=most_levels)))
    scores = {name: draw(st.floats(-10, 10)) for name in names}
    weights, bits = {}, {}
    for name in names:
        rows, width = draw(st.integers(1, 50)), draw(st.integers(1, 300))
        weights[name] = rows * width
        bits[name] = [rows * (width * level + 16 * -(-width // 128)) for level in levels]
    total = sum(weights.values())
    low, high = (sum(costs[i] for costs in bits.values()) / total for i in (0, -1))
    return scores, weights, bits, draw(st.floats(low, high + 1))


def rate(weights: dict[str, int], bits: dict[str, list[int]], levels: dict[str, int]) -> float:
    return sum(bits[name][level] for name, level in levels.items()) / sum(weights.values())


@given(problems())
def test_a_budget_is_never_exceeded_and_higher_scores_never_get_less(problem: Problem) -> None:
    scores, weights, bits, budget = problem
    levels = allocate(scores, weights, bits, budget)
    assert set(levels) == set(scores)
    assert rate(weights, bits, levels) <= budget
    for a, b in itertools.permutations(scores, 2):
        assert scores[a] <= scores[b] or levels[a] >= levels[b]


@given(problems(most_levels=2))
def test_of_two_levels_the_top_of_the_ranking_gets_the_higher_and_one_unit_more_would_exceed(problem: Problem) -> None:
    scores, weights, bits, budget = problem
    levels = allocate(scores, weights, bits, budget)
    order = sorted(scores, key=lambda name: -scores[name])
    raised = [name for name in order if levels[name] == 1]
    assert raised == order[: len(raised)]
    if len(bits[order[0]]) == 2 and len(raised) < len(order):
        assert rate(weights, bits, levels | {order[len(raised)]: 1}) > budget


@given(problems())
def test_some_single_raise_of_more_than_two_levels_would_exceed_too(problem: Problem) -> None:
    scores, weights, bits, budget = problem
    levels = allocate(scores, weights, bits, budget)
    raisable = [name for name in scores if levels[name] + 1 < len(bits[name])]
    assert not raisable or any(rate(weights, bits, levels | {n: levels[n] + 1}) > budget for n in raisable)


@given(problems(), st.floats(0, 1))
def test_more_budget_never_means_less_for_a_unit(problem: Problem, more: float) -> None:
    scores, weights, bits, budget = problem
    first, second = (allocate(scores, weights, bits, b) for b in (budget, budget + more))
    assert all(first[name] <= second[name] for name in scores)


def equal(count: int, *levels: int) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Units of 100 weights at whole bits."""
    return {f"{i}": 100 for i in range(count)}, {f"{i}": [100 * level for level in levels] for i in range(count)}


def test_exactly_the_budget_is_within_it() -> None:
    weights, bits = equal(36, 2, 4)
    scores = {f"{i}": float(i) for i in range(36)}
    levels = allocate(scores, weights, bits, 2 + 2 / 36)
    assert [name for name, level in levels.items() if level] == ["35"]
    assert not any(allocate(scores, weights, bits, 2.05).values())
    assert set(allocate(scores, weights, bits, 4).values()) == {1}
    assert set(allocate(scores, weights, bits, 100).values()) == {1}


def test_ties_go_to_the_first() -> None:
    weights, bits = equal(4, 2, 4)
    assert allocate({"2": 1.0, "0": 1.0, "1": 1.0, "3": 1.0}, weights, bits, 3) == {"2": 1, "0": 1, "1": 0, "3": 0}


def test_the_more_scores_differ_the_further_apart_are_the_levels() -> None:
    """Two bits more, from 2 to 4, save 15/16 of a distortion, from 4 to 6 as much of a sixteenth of it."""
    weights, bits = equal(2, 2, 4, 6)
    assert allocate({"0": 15.0, "1": 1.0}, weights, bits, 4) == {"0": 1, "1": 1}
    assert allocate({"0": 17.0, "1": 1.0}, weights, bits, 4) == {"0": 2, "1": 0}
    assert allocate({"0": 0.0, "1": -5.0}, weights, bits, 4) == {"0": 1, "1": 1}
    assert allocate({"0": 0.0, "1": -5.0}, weights, bits, 5) == {"0": 2, "1": 1}


def test_allocation_of_levels_minimises_the_harm_like_trying_all() -> None:
    """Where the budget is met exactly the greedy allocation is the best of all."""
    scores = {"0": 40.0, "1": 9.0, "2": 3.0, "3": 0.2}
    weights, bits = equal(4, 1, 2, 3, 4)
    for budget in (1.0, 1.25, 1.5, 2.0, 2.25, 3.0, 3.75):
        best = min(
            sum(score * 4.0 ** -(level + 1) for score, level in zip(scores.values(), levels, strict=True))
            for levels in itertools.product(range(4), repeat=4)
            if sum(levels) + 4 <= 4 * budget
        )
        ours = allocate(scores, weights, bits, budget)
        assert sum(scores[name] * 4.0 ** -(level + 1) for name, level in ours.items()) == pytest.approx(best)


def test_what_cannot_be_allocated_is_refused() -> None:
    weights, bits = equal(2, 2, 4)
    scores = {"0": 1.0, "1": 2.0}
    with pytest.raises(InputError, match="budget of 1.9 bits per weight cannot be met: the least is 2.0, with every"):
        allocate(scores, weights, bits, 1.9)
    with pytest.raises(InputError, match="cannot be met"):
        allocate(scores, weights, bits, float("nan"))
    with pytest.raises(InputError, match="the least is 2.333334"):  # rounded up, so that it can be met
        allocate({"a": 1.0}, {"a": 3}, {"a": [7, 9]}, 2)
    with pytest.raises(InputError, match="every unit needs a score, .*; 1 lacks one"):
        allocate({"0": 1.0}, weights, bits, 3)
    with pytest.raises(InputError, match="there are none"):
        allocate({}, {}, {}, 3)
    with pytest.raises(InputError, match="from the fewest bits to the most; 1 takes 400, 200"):
        allocate(scores, weights, bits | {"1": [400, 200]}, 3)
    with pytest.raises(InputError, match="1 takes none"):
        allocate(scores, weights, bits | {"1": []}, 3)
    with pytest.raises(InputError, match="1 has the score inf and 100 weights"):
        allocate(scores | {"1": float("inf")}, weights, bits, 3)
    with pytest.raises(InputError, match="0 has the score 1.0 and 0 weights"):
        allocate(scores, weights | {"0": 0}, bits, 3)


@pytest.mark.parametrize(("layers", "budget", "shown"), [(36, 2.05, 2.06), (28, 2.07, 2.07)])
def test_the_papers_headlines_are_one_layer_at_four_bits(layers: int, budget: float, shown: float) -> None:
    scores = {f"{i}": float(i == 7) for i in range(layers)}
    weights = dict.fromkeys(scores, 1000)
    high = nominal_high(scores, weights, budget)
    assert high == ["7"]
    assert nominal_bits(weights, high) == 2 + 2 / layers
    assert round(nominal_bits(weights, high), 2) == shown


def test_the_papers_rule_rounds_the_share_of_equal_layers() -> None:
    scores = {name: -float(i) for i, name in enumerate("abcdefgh")}
    weights = dict.fromkeys(scores, 10)
    for budget, count in [(2, 0), (2.12, 0), (2.125, 1), (2.3, 1), (2.5, 2), (3, 4), (3.9, 8), (4, 8)]:
        assert nominal_high(scores, weights, budget) == list("abcdefgh")[:count]
    assert nominal_high(scores, weights, 3.0, low=2, high=3) == list("abcdefgh")


@given(
    weights=st.dictionaries(st.text("abc", min_size=1), st.integers(1, 50), min_size=2),
    budget=st.floats(2, 4),
)
def test_the_papers_rule_takes_the_fewest_that_hold_the_share_of_unequal_layers(
    weights: dict[str, int], budget: float
) -> None:
    if len(set(weights.values())) == 1:
        weights = weights | {"d": 51}
    scores = {name: float(size * 7 % 13) for name, size in weights.items()}
    high = nominal_high(scores, weights, budget)
    order = sorted(scores, key=lambda name: -scores[name])
    assert high == order[: len(high)]
    needed = (budget - 2) / 2 * sum(weights.values())
    assert sum(weights[name] for name in high) >= needed
    assert not high or sum(weights[name] for name in high[:-1]) < needed
    assert nominal_bits(weights, high) >= budget - 1e-9


def test_the_papers_rule_refuses() -> None:
    with pytest.raises(InputError, match="between the 2 and 4 bits of the levels, got 4.5"):
        nominal_high({"a": 1.0}, {"a": 1}, 4.5)
    with pytest.raises(InputError, match="a has no size"):
        nominal_high({"a": 1.0}, {}, 3)
