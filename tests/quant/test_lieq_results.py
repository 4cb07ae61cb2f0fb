"""The figures in docs/locate.md are those of the committed benchmark."""

import statistics
from pathlib import Path

import pytest

from benchmarks.harness.record import Record

ROOT = Path(__file__).parents[2]
RESULT = Record.read("lieq").raw
PAGE = (ROOT / "docs" / "locate.md").read_text(encoding="utf-8")
ROWS = {
    "effective rank": "effective rank (LieQ v2)",
    "energy gain": "energy gain",
    "all three": "all three (LieQ v1)",
    "perplexity drop": "perplexity drop",
    "harm of 2 bits in one block, measured": "harm of 2 bits in it alone",
}


def correlation(first: str, second: str) -> str:
    rows = [row for row in RESULT["agreement"] if {first, second} == set(row["pair"])]
    return f"{rows[0]['mean']:.2f}" if rows else ""


@pytest.mark.parametrize("shown", ROWS)
def test_the_table_is_that_of_the_results(shown: str) -> None:
    by = ROWS[shown]
    cells = next(line for line in PAGE.splitlines() if line.startswith(f"| {shown} |")).strip("| ").split("|")
    cells = [cell.strip() for cell in cells]
    gains = [row["gain"] for row in RESULT["one_block"]["each"]]
    ends = [statistics.mean(gains[draw[by].index(end(draw[by]))] for draw in RESULT["rankings"]) for end in (max, min)]
    assert cells[1].split(" (")[0] == correlation(by, "perplexity drop")
    assert cells[2] == correlation(by, "harm of 2 bits in it alone")
    assert cells[3] == f"{ends[0]:.2f} / {ends[1]:.2f}"
    assert cells[4] == f"{RESULT['recovery']['area'][by]:.2f}"


def test_the_sentences_are_those_of_the_results() -> None:
    recovery, planes = RESULT["recovery"], RESULT["planes"]
    chance, swapped = recovery["random_area"], planes["random"][1]
    at = recovery["orders"]
    for figure in [
        f"{statistics.mean(chance):.2f} ± {statistics.stdev(chance):.2f}",
        f"the perplexity is {at['perplexity drop'][2]['perplexity']:.1f} by perplexity drop, "
        f"{at['effective rank (LieQ v2)'][2]['perplexity']:.1f} by effective rank, and "
        f"{recovery['uniform'][2]['perplexity']:.1f} for 2 bits everywhere",
        f"3 bits everywhere ({recovery['uniform'][4]['perplexity']:.1f}) are better than the greedy mixture of 2 and 4 "
        f"({at['greedy on calibration text'][4]['perplexity']:.1f})",
        f"save {planes['automatic']['perplexity drop']['gain']:.3f} ± "
        f"{planes['automatic']['perplexity drop']['gain_se']:.3f} nats per token",
        f"they cost {-planes['automatic']['effective rank (LieQ v2)']['gain']:.3f} ± ",
        f"costs {-swapped['gain']:.2f} ± {swapped['sd']:.2f}",
        f"correlation falls to {correlation('effective rank, centred', 'perplexity drop')}",
        f"a score of {min(min(scores) for scores in RESULT['why']['rank_drop'].values()):.1f} for one projection",
    ]:
        assert figure in PAGE, figure


def test_what_the_page_says_holds() -> None:
    """The top of every ranking saves more than a random block and the bottom less; the correlation is below 0.8."""
    one = RESULT["one_block"]
    gains = [row["gain"] for row in one["each"]]
    for by in ROWS.values():
        for draw in RESULT["rankings"]:
            assert gains[draw[by].index(max(draw[by]))] > one["random_mean_gain"] > gains[draw[by].index(min(draw[by]))]
    assert float(correlation("effective rank (LieQ v2)", "perplexity drop")) < 0.8
