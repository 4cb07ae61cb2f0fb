"""What a quantizer says a weight will cost is what its fit then takes, counted in loops over rows, groups and codes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.core import Site, WeightMethod
from hardy.quant import AbsmeanTrits, ClippedRoundToNearest, RoundToNearest, TritPlanes

SITE = Site("w", "w", "weight", None, None, None)


def counted(method: WeightMethod, shape: tuple[int, ...]) -> int:
    """Row by row, group by group."""
    rows = 1
    for length in shape[:-1]:
        rows *= length
    bits = 0
    for _ in range(rows):
        size = method.group_size or shape[-1]
        groups = len(range(0, shape[-1], size))
        if isinstance(method, RoundToNearest):
            bits += shape[-1] * method.bits + groups * (16 if method.symmetric else 16 + method.bits)
        else:
            planes = method.planes if isinstance(method, TritPlanes) else 1
            bits += planes * (8 * len(range(0, shape[-1], 5)) + 16 * groups)
    return bits


METHODS = st.one_of(
    st.builds(
        RoundToNearest,
        bits=st.integers(2, 8),
        group_size=st.none() | st.integers(1, 40),
        symmetric=st.booleans(),
    ),
    st.builds(TritPlanes, planes=st.integers(1, 3), group_size=st.none() | st.integers(1, 40)),
    st.builds(AbsmeanTrits, group_size=st.none() | st.integers(1, 40)),
)


@given(method=METHODS, shape=st.lists(st.integers(1, 30), min_size=1, max_size=3).map(tuple))
def test_stored_bits_like_a_loop(method: WeightMethod, shape: tuple[int, ...]) -> None:
    assert method.stored_bits(shape) == counted(method, shape)


@pytest.mark.parametrize(
    "method",
    [
        RoundToNearest(bits=3, group_size=7),
        ClippedRoundToNearest(bits=2, group_size=None, symmetric=True),
        AbsmeanTrits(group_size=7),
        TritPlanes(planes=3, group_size=7),
    ],
    ids=str,
)
def test_what_was_said_beforehand_is_what_the_fit_reports(method: WeightMethod) -> None:
    weight = torch.randn(2, 3, 17, generator=torch.Generator().manual_seed(0))
    assert method.edit_weight(weight, SITE)[1]["bits"] == method.stored_bits(weight.shape)
