"""Scorers against their definitions written out, and the choice of what stays."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import kv

from hardy.errors import InputError
from hardy.stream.eviction import places_to_keep
from hardy.stream.scorers import (
    Memory,
    PooledQuery,
    Random,
    SnapKV,
    Stored,
    attention_received,
    key_diversity,
    pooled_queries,
    scorer_of,
)


def generated(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(keys: torch.Tensor, memory: Memory | None = None, *, step: int = 0) -> Stored:
    positions = torch.arange(keys.shape[2], dtype=torch.int32).expand(keys.shape[0], 1, -1)
    return Stored(lambda: (keys, keys), positions, None, memory or Memory(), (0, step))


@pytest.mark.parametrize(("queries", "pool", "special"), [(37, 16, 5), (5, 16, 5), (33, 16, 0), (1, 16, 0)])
def test_pooled_queries_score_as_xstream_does(queries: int, pool: int, special: int) -> None:
    q, k = generated(1, 6, queries, 8), generated(1, 2, 20, 8, seed=1)
    scorer, memory = PooledQuery(pool=pool, special=special), Memory()
    scorer.observe_queries(memory, q, stored(k, memory), 0.3)
    found = scorer.scores(stored(k, memory))[0, 0]
    torch.testing.assert_close(
        found.double(), torch.tensor(kv.pooled_query(q[0], k[0], pool, special)).double(), atol=1e-5, rtol=1e-4
    )


def test_pooled_scores_are_dot_products_with_one_weighted_query() -> None:
    q, k = generated(1, 4, 37, 8), generated(1, 4, 20, 8, seed=1)
    mean = pooled_queries(q, 16, 5).mean(1)
    one = (k.mean(1) @ mean[..., None])[0, :, 0].tolist()
    assert one == pytest.approx(kv.pooled_query(q[0], k[0], 16, 5), abs=1e-5)


def test_attention_received_is_the_softmax_of_what_each_query_sees() -> None:
    q, k = generated(1, 4, 3, 8), generated(1, 2, 7, 8, seed=1)
    places = [0, 3, 4, -1, 9, 10, 11]
    positions = torch.tensor(places).view(1, 1, -1)
    found = attention_received(q, k, positions, 11, 0.5)[0]
    wanted = kv.attention_received(q[0], k[0], places, 11, 0.5)
    torch.testing.assert_close(found.double(), torch.tensor(wanted).double(), atol=1e-5, rtol=1e-4)
    assert float(found[:, 3].sum()) == 0


def test_snapkv_gives_a_token_the_largest_vote_of_its_neighbours() -> None:
    q, k = generated(1, 2, 40, 8), generated(1, 2, 40, 8, seed=1)
    scorer, memory = SnapKV(window=8, kernel=3), Memory()
    for part in q.split([30, 7, 3], 2):  # the window is of the last queries, however they came
        scorer.observe_queries(memory, part, stored(k[:, :, :40], memory), 0.4)
    assert memory.queries is not None
    assert memory.queries.shape[2] == 8
    votes = attention_received(q[:, :, -8:].half().float(), k, stored(k).positions, 39, 0.4)
    padded = torch.nn.functional.pad(votes, (1, 1), value=-1.0)
    wanted = torch.stack([padded[..., i : i + 40] for i in range(3)]).amax(0)
    torch.testing.assert_close(scorer.scores(stored(k, memory)), wanted, atol=1e-4, rtol=1e-3)


def test_diversity_is_distance_from_the_mean_direction() -> None:
    k = generated(1, 1, 12, 8)
    torch.testing.assert_close(
        key_diversity(k)[0, 0].double(), torch.tensor(kv.key_diversity(k[0, 0])).double(), atol=1e-5, rtol=1e-4
    )


def test_lots_are_drawn_anew_and_come_again() -> None:
    k = generated(1, 1, 12, 8)
    first, again, later = (Random(seed=1).scores(stored(k, step=step)) for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, Random(seed=2).scores(stored(k)))


@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 3), st.sampled_from([1, 3]))
def test_the_best_stay_and_rows_keep_step(target: int, packed: int, seed: int, rows: int) -> None:
    scores = generated(rows, 1, 40, seed=seed)
    protected = torch.zeros(rows, 1, 40, dtype=torch.bool)
    protected[..., 39] = True
    padding = torch.zeros_like(protected)
    padding[0, :, 2] = True
    keep = places_to_keep(scores, protected, padding, packed, target)
    assert keep.shape == (rows, 1, target)
    assert (keep.diff(dim=-1) > 0).all()
    assert packed > 39 or (keep == 39).any(-1).all()
    assert len(set((keep < packed).sum(-1).flatten().tolist())) == 1
    if rows == 1:
        rank = scores.masked_fill(padding, -9).masked_fill(protected, 9)[0, 0]
        assert set(keep[0, 0].tolist()) == set(rank.topk(target).indices.tolist())


def test_more_protected_than_may_stay_is_refused() -> None:
    everything = torch.ones(1, 1, 5, dtype=torch.bool)
    with pytest.raises(InputError, match="less than what is protected, 5 tokens"):
        places_to_keep(torch.zeros(1, 1, 5), everything, ~everything, 0, 4)
    with pytest.raises(InputError, match="must be finite"):
        places_to_keep(torch.full((1, 1, 5), float("nan")), ~everything, ~everything, 0, 4)


def test_options_of_scorers_are_checked() -> None:
    assert scorer_of("snapkv") == SnapKV()
    for kind, options in ((SnapKV, {"kernel": 4}), (SnapKV, {"window": 0}), (PooledQuery, {"pool": 0})):
        with pytest.raises(InputError):
            kind(**options)
