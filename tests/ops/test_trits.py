"""The alternating solver of trit-planes against loop-written oracles."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from reference import trits as reference

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.trits import (
    LARGEST_CONDITION,
    candidates,
    fit_trits,
    magnitude_start,
    nearest_trits,
    ridge_scales,
    sign_start,
)

# Eighths, so that sums are exact and ties are many.
eighths = st.integers(-24, 24).map(lambda n: n / 8)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_candidates_are_one_of_each_pair_in_the_order_of_ties(planes: int) -> None:
    order = candidates(planes)
    both = {c for half in order for c in (half, tuple(-t for t in half))}
    assert len(order) == (3**planes + 1) // 2
    assert both == set(itertools.product((-1, 0, 1), repeat=planes))
    assert order == [c for c in reference.candidates(planes) if c in set(order)]


@given(
    weights=st.lists(eighths, min_size=1, max_size=9),
    scales=st.lists(st.lists(eighths, min_size=2, max_size=2), min_size=1, max_size=3),
)
def test_the_search_is_exhaustive_and_settles_ties_like_the_oracle(
    weights: list[float], scales: list[list[float]]
) -> None:
    groups = torch.tensor([weights, weights], dtype=torch.float64)
    found = nearest_trits(groups, torch.tensor(scales, dtype=torch.float64)[..., None])
    for group in range(2):
        expected = [reference.nearest(w, [s[group] for s in scales]) for w in weights]
        assert [tuple(t) for t in found[:, group].T.tolist()] == expected


@given(
    trits=st.integers(1, 3).flatmap(lambda k: st_numpy.arrays(np.int8, (k, 11), elements=st.integers(-1, 1))),
    seed=st.integers(0, 100),
)
def test_scales_solve_the_ridge_regression_also_where_planes_depend_on_each_other(trits: np.ndarray, seed: int) -> None:
    weights = gaussian(11, seed=seed)
    expected, raised = reference.ridge_scales(weights.tolist(), [tuple(t) for t in trits.T.tolist()], 1e-8)
    scales, ridge = ridge_scales(weights[None], torch.from_numpy(trits)[:, None], torch.full((1,), 1e-8).double())
    np.testing.assert_allclose(scales.flatten(), expected, rtol=1e-9, atol=1e-9)
    assert ridge.item() == pytest.approx(raised, rel=1e-12)


def test_equal_planes_share_their_scale_to_the_last_bit() -> None:
    """Or the pinned order of ties would not be what breaks their symmetry."""
    groups = gaussian(50, 128)
    for planes in (2, 3):
        scales, ridge = ridge_scales(groups, sign_start(groups, planes), torch.full((50,), 1e-8).double())
        assert all(torch.equal(scales[0], other) for other in scales)
        torch.testing.assert_close(scales.sum(0).squeeze(), groups.abs().mean(-1), rtol=1e-5, atol=0)
        assert ((ridge > 1e-8) & (ridge < 1e-2)).all()
        gram = 128 * torch.ones(planes, planes).double() + ridge[0] * torch.eye(planes)
        assert torch.linalg.matrix_norm(gram) * torch.linalg.matrix_norm(gram.inverse()) <= LARGEST_CONDITION


@pytest.mark.parametrize("start", [sign_start, magnitude_start])
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_the_objective_falls_while_the_ridge_is_unchanged(start, planes: int) -> None:
    groups = gaussian(40, 64, seed=planes)
    trits, ridge = start(groups, planes), torch.full((40,), 1e-8).double()
    before, steps = torch.full((40,), torch.inf).double(), 0
    for _ in range(20):
        old = ridge
        scales, ridge = ridge_scales(groups, trits, old)
        solved, trits = trits, nearest_trits(groups, scales)
        for step in (solved, trits):
            error = (groups - (step * scales).sum(0)).square().sum(-1)
            objective = error + ridge * scales.square().sum((0, -1))
            assert (objective <= before + 1e-12)[ridge == old].all()
            steps += int((ridge == old).sum())
            before = objective
    assert steps > 1000


@pytest.fixture(params=["compiled", "torch"])
def solver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setenv(kernels.VARIABLE, "torch")
    elif not kernels.paths():
        pytest.skip("hardy's compiled kernels were not built")


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("starts", [("sign",), ("magnitude",), ("sign", "magnitude")])
@pytest.mark.parametrize("iterations", [1, 2, 50])
def test_fits_like_the_oracle(planes: int, starts: tuple, iterations: int) -> None:
    groups = gaussian(6, 13, seed=iterations) * torch.tensor([1, 1, 1e-3, 30, 1, 1])[:, None]
    trits, scales, converged = fit_trits(groups, torch.tensor([13]), planes, starts, iterations)
    for index, weights in enumerate(groups.tolist()):
        expected = reference.fit_group(weights, planes, starts, iterations)
        assert [tuple(t) for t in trits[:, index].T.tolist()] == expected[0]
        assert scales[:, index, 0].tolist() == expected[1]
        assert converged[index] == expected[2]


def _in_torch(groups: torch.Tensor, *rest, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    with monkeypatch.context() as patch:
        patch.setenv(kernels.VARIABLE, "torch")
        return fit_trits(groups, *rest)


WEIGHTS = {
    "gaussian": lambda random: random.standard_normal((60, 128)),
    "heavy tails": lambda random: random.standard_t(3, (60, 42)),
    "float32": lambda random: random.standard_normal((60, 64)).astype(np.float32),
    "sparse": lambda random: (random.standard_normal((60, 64)) * (random.random((60, 64)) < 0.1)).astype(np.float32),
    "four bits": lambda random: (random.integers(-8, 8, (60, 128)) * random.random((60, 1))).astype(np.float32),
    "ternary": lambda random: (random.integers(-1, 2, (60, 32)) * 0.37).astype(np.float32),
    "zeros": lambda random: np.zeros((2, 16)),
    "one weight": lambda random: random.standard_normal((20, 1)),
    "a long row": lambda random: random.standard_normal((3, 1100)),
    "beyond float16": lambda random: random.standard_normal((20, 16)) * 1e5,
    "below float16": lambda random: random.standard_normal((20, 16)) * 1e-8,
}


@pytest.mark.skipif(not kernels.paths(), reason="hardy's compiled kernels were not built")
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_compiled_solver_finds_what_torch_finds(kind: str, planes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where many weights lie half way between two levels, as those of few bits do."""
    groups = torch.from_numpy(WEIGHTS[kind](np.random.default_rng(planes)))
    lengths = torch.tensor([groups.shape[-1]])
    for starts in (("sign",), ("magnitude",), ("sign", "magnitude")):
        found = fit_trits(groups, lengths, planes, starts)
        expected = _in_torch(groups, lengths, planes, starts, monkeypatch=monkeypatch)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.skipif(not kernels.paths(), reason="hardy's compiled kernels were not built")
def test_two_threads_and_several_parts_give_the_same_trits(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, lengths = gaussian(700, 32), torch.tensor([32])
    expected = fit_trits(groups, lengths, 2)
    monkeypatch.setattr("hardy.ops.trits._AT_A_TIME_ON_MANY_CORES", 5000)
    torch.set_num_threads(2)
    try:
        found = fit_trits(groups, lengths, 2)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_scale_beyond_float16_is_infinite_and_loses_to_a_start_without() -> None:
    groups = torch.tensor([[1e6, 0.0], [3.0, 1.0]])
    trits, scales, _ = fit_trits(groups, torch.tensor([2]), 2)
    assert torch.isinf(scales[:, 0]).any()
    assert torch.equal(((trits * scales).sum(0))[1], groups[1])


@given(weights=st_numpy.arrays(np.float64, 5, elements=eighths))
def test_one_plane_is_the_best_there_is(weights: np.ndarray) -> None:
    trits, scales, _ = fit_trits(torch.from_numpy(weights)[None], torch.tensor([5]), 1)
    error = (torch.from_numpy(weights) - (trits * scales).sum(0)).square().sum().item()
    best = (weights**2).sum()
    for plane in itertools.product((-1, 0, 1), repeat=5):
        if any(plane):
            best = min(best, (weights**2).sum() - (weights @ plane) ** 2 / np.abs(plane).sum())
    assert error == pytest.approx(best, rel=1e-6, abs=1e-5)  # of which the scale's rounding to float16 is the cause


def test_padding_has_no_part_in_the_fit() -> None:
    groups = gaussian(4, 2, 16)
    groups[:, 1, 10:] = 0
    trits, scales, converged = fit_trits(groups, torch.tensor([16, 10]), 2)
    alone = fit_trits(groups[:, 1:, :10], torch.tensor([10]), 2)
    assert torch.equal(trits[:, :, 1:, :10], alone[0])
    assert torch.equal(scales[:, :, 1:], alone[1])
    assert torch.equal(converged[:, 1:], alone[2])
    assert not trits[:, :, 1, 10:].any()


def test_no_group_depends_on_its_neighbours() -> None:
    groups = gaussian(300, 32)
    together = fit_trits(groups, torch.tensor([32]), 3)
    alone = [fit_trits(group[None], torch.tensor([32]), 3) for group in groups[:20]]
    assert torch.equal(together[0][:, :20], torch.cat([trits for trits, _, _ in alone], 1))
    assert torch.equal(together[1][:, :20], torch.cat([scales for _, scales, _ in alone], 1))


def test_refuses_planes_and_starts_that_there_are_not() -> None:
    with pytest.raises(InputError, match="planes must be 1, 2 or 3, got 4"):
        fit_trits(gaussian(1, 8), torch.tensor([8]), 4)
    for starts in ((), ("random",)):
        with pytest.raises(InputError, match="starts must be one or more of sign, magnitude, got"):
            fit_trits(gaussian(1, 8), torch.tensor([8]), 2, starts)
