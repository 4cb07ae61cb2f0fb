"""Clipped round-to-nearest and absmean trits: published error figures, oracles, and what must be refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from reference.rounding import quantize_group, stored_scale

from hardy.core import InputError, Site
from hardy.quant import AbsmeanTrits, ClippedRoundToNearest, RoundToNearest, absmean

SITE = Site("w", "w", "weight", None, None, None)


def distributions() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    normal, heavy = rng.standard_normal((256, 4096)), rng.standard_t(5, (256, 4096))
    return torch.from_numpy(normal).float(), torch.from_numpy(heavy).float()


@pytest.mark.parametrize(
    ("method", "normal", "heavy"),
    [
        (AbsmeanTrits(), 0.511, 0.601),
        (ClippedRoundToNearest(bits=2), 0.369, 0.431),
        (ClippedRoundToNearest(bits=3), 0.187, 0.243),
        (ClippedRoundToNearest(bits=4), 0.095, 0.127),
    ],
    ids=str,
)
def test_known_errors_on_known_distributions(method, normal: float, heavy: float) -> None:
    for weight, error in zip(distributions(), (normal, heavy), strict=True):
        new, _ = method.edit_weight(weight, SITE)
        assert (new - weight).norm() / weight.norm() == pytest.approx(error, rel=0.02)


@given(
    weight=st_numpy.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.integers(1, 11)), elements=st.floats(-4, 4, width=32)
    ),
    bits=st.integers(2, 4),
    symmetric=st.booleans(),
)
def test_clipping_never_raises_the_error_of_a_group_nor_its_bits(
    weight: np.ndarray, bits: int, symmetric: bool
) -> None:
    fields = {"bits": bits, "group_size": 4, "symmetric": symmetric}
    exact = torch.from_numpy(weight)
    clipped, facts = ClippedRoundToNearest(**fields).edit_weight(exact, SITE)
    full, also = RoundToNearest(**fields).edit_weight(exact, SITE)
    assert facts["bits"] == also["bits"]
    for begin in range(0, weight.shape[1], 4):
        part = slice(begin, begin + 4)
        errors = [(new[:, part] - exact[:, part]).square().sum(-1) for new in (clipped, full)]
        assert (errors[0] <= errors[1] * (1 + 1e-6)).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_clipped_range_is_the_best_of_the_list(symmetric: bool) -> None:
    weights = np.random.default_rng(1).standard_t(3, 24).astype(np.float32)
    new, _ = ClippedRoundToNearest(bits=3, symmetric=symmetric).edit_weight(torch.from_numpy(weights)[None], SITE)
    errors = []
    for percent in range(30, 101, 2):
        # The grid of the shrunk weights is what a copy of them beside the real ones would get.
        shrunk = (np.float32(percent / 100) * weights).tolist()
        points = sorted(set(grid_points(shrunk, symmetric)))
        errors.append(sum(min((w - p) ** 2 for p in points) for w in weights.tolist()))
    error = (new - torch.from_numpy(weights)).square().sum().item()
    assert error == pytest.approx(min(errors), rel=1e-4)


def grid_points(group: list[float], symmetric: bool) -> list[float]:
    """All points of the 3-bit grid of `group`: what finely spaced weights in its range are rounded to."""
    low, high = (-max(map(abs, group)), max(map(abs, group))) if symmetric else (min(group), max(group))
    return quantize_group(np.linspace(low, high, 400, dtype=np.float32).tolist(), 3, symmetric)


@given(weight=st_numpy.arrays(np.float32, (2, 9), elements=st.floats(-4, 4, width=32)))
def test_absmean_like_a_loop(weight: np.ndarray) -> None:
    new, facts = AbsmeanTrits(group_size=4).edit_weight(torch.from_numpy(weight), SITE)
    assert facts["bits"] == 2 * (8 * 2 + 16 * 3)
    for row, rebuilt in zip(weight.tolist(), new.tolist(), strict=True):
        for begin in range(0, 9, 4):
            group = row[begin : begin + 4]
            scale = stored_scale(float(np.float32(sum(map(abs, group)) / len(group))))
            expected = [max(-1, min(1, round(w / scale))) * scale if scale else 0.0 for w in group]
            assert rebuilt[begin : begin + 4] == expected


def test_absmean_refuses_what_it_cannot_store() -> None:
    with pytest.raises(InputError, match=r"a weight of 1e\+06 needs a scale beyond float16 \(65504\)"):
        absmean.fit(torch.tensor([[1e6, 1e6]]))
    with pytest.raises(InputError, match="NaN or infinity"):
        absmean.fit(torch.tensor([[1.0, float("nan")]]))


def test_absmean_counts_weights_too_small_for_a_float16_scale() -> None:
    new, facts = AbsmeanTrits(group_size=2).edit_weight(torch.tensor([[1e-9, 1e-9, 1.0, 0.0]]), SITE)
    assert new.tolist() == [[0, 0, 0.5, 0]]
    assert facts["underflow"] == 2
