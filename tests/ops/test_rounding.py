"""Grouping along the input dimension, and what a float16 scale can hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.ops.rounding import float16_scale, grouped, ungrouped


@given(length=st.integers(1, 40), group_size=st.integers(1, 50), leading=st.lists(st.integers(1, 3), max_size=2))
def test_grouping_loses_nothing_and_pads_with_zeros(length: int, group_size: int, leading: list[int]) -> None:
    weight = torch.arange(1.0, 1 + length).expand(*leading, length)
    groups = grouped(weight, group_size)
    assert groups.shape == (*leading, -(-length // group_size), group_size)
    assert torch.equal(ungrouped(groups, length), weight)
    assert torch.equal(groups.sum((-2, -1)), weight.sum(-1))


@pytest.mark.parametrize(
    ("exact", "stored"),
    [(0.0, 0.0), (1.0, 1.0), (0.1, 0.0999755859375), (1e-9, 2.0**-24), (1e-30, 2.0**-24), (7e4, float("inf"))],
)
def test_scales_as_float16_keeps_them(exact: float, stored: float) -> None:
    assert float16_scale(torch.tensor([exact])).item() == stored
