"""Round-to-nearest against a loop-written oracle, published error figures and exact counts of bits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from reference.rounding import round_to_nearest
from torch import nn

from hardy.core import InputError, Site
from hardy.quant import RoundToNearest

SITE = Site("w", "w", "weight", None, None, None)


def applied(weight: torch.Tensor, **fields: object) -> tuple[torch.Tensor, dict[str, float]]:
    new, facts = RoundToNearest(**fields).edit_weight(weight, SITE)
    return new, dict(facts)


def relative_error(weight: torch.Tensor, bits: int) -> float:
    new, _ = applied(weight, bits=bits, group_size=128)
    return ((new - weight).norm() / weight.norm()).item()


@pytest.mark.parametrize(("bits", "gaussian", "student"), [(2, 0.503, 0.597), (3, 0.216, 0.284), (4, 0.101, 0.133)])
def test_known_errors_on_known_distributions(bits: int, gaussian: float, student: float) -> None:
    rng = np.random.default_rng(0)
    normal = torch.from_numpy(rng.standard_normal((256, 4096))).float()
    heavy = torch.from_numpy(rng.standard_t(5, (256, 4096))).float()
    assert relative_error(normal, bits) == pytest.approx(gaussian, rel=0.02)
    assert relative_error(heavy, bits) == pytest.approx(student, rel=0.02)


@given(
    weight=st_numpy.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 11)),
        elements=st.floats(-4, 4, width=32) | st.floats(-(2.0**-20), 2.0**-20, width=32) | st.just(0.0),
    ),
    bits=st.integers(2, 8),
    group_size=st.none() | st.integers(1, 12),
    symmetric=st.booleans(),
)
def test_like_the_oracle(weight: np.ndarray, bits: int, group_size: int | None, symmetric: bool) -> None:
    expected, stored = round_to_nearest(weight, bits, group_size, symmetric)
    new, facts = applied(torch.from_numpy(weight), bits=bits, group_size=group_size, symmetric=symmetric)
    np.testing.assert_array_equal(new.numpy(), expected)
    assert facts["bits"] == stored


@given(
    weight=st_numpy.arrays(np.float32, (2, 16), elements=st.floats(-4, 4, width=32)),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
)
def test_the_error_is_at_most_about_half_a_step(weight: np.ndarray, bits: int, symmetric: bool) -> None:
    new, _ = applied(torch.from_numpy(weight), bits=bits, group_size=8, symmetric=symmetric)
    for group, rounded in zip(weight.reshape(-1, 8), new.numpy().reshape(-1, 8), strict=True):
        largest = 2 ** (bits - 1) - 1
        step = abs(group).max() / largest if symmetric else (max(group.max(), 0) - min(group.min(), 0)) / (2**bits - 1)
        # The stored scale is off by at most 2^-11 of itself, which clipping can turn into 2^bits times as much; the
        # zero point is off by at most half a step more.
        slack = step * 2.0**-11 * 2**bits + 2.0**-24 * 2**bits
        assert abs(rounded - group).max() <= step * (0.5 if symmetric else 1.0) + slack


def test_bits_are_counted_to_the_last_one() -> None:
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    assert applied(weight, bits=4)[1]["bits"] / weight.numel() == 4 + 20 / 128
    assert applied(weight, bits=3, symmetric=True)[1]["bits"] / weight.numel() == 3 + 16 / 128
    assert applied(weight, bits=2, group_size=None)[1]["bits"] / weight.numel() == 2 + 18 / 256
    # 130 = 128 + 2: the short group pays for its own scale and zero point, and for no padding.
    assert applied(weight[:, :130], bits=4)[1]["bits"] == 8 * (130 * 4 + 2 * 20)


def test_the_report_says_bits_per_weight(llama: nn.Module) -> None:
    report = RoundToNearest(bits=4, group_size=16).apply(llama).report
    assert report.value("bits_per_weight", "all selected weights") == 4 + 20 / 16
    assert report.value("bits_per_weight", "model.layers.0.mlp.down_proj") == 4 + 20 / 16


def test_a_stack_of_experts_is_rounded_row_by_row() -> None:
    stack = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    new, facts = applied(stack, bits=3, group_size=16)
    each = [applied(matrix, bits=3, group_size=16) for matrix in stack]
    assert torch.equal(new, torch.stack([matrix for matrix, _ in each]))
    assert facts["bits"] == sum(f["bits"] for _, f in each)


@pytest.mark.parametrize("symmetric", [False, True])
def test_groups_of_zeros_and_of_one_value(symmetric: bool) -> None:
    weight = torch.cat([torch.zeros(1, 8), torch.full((1, 8), 0.75), torch.full((1, 8), -0.3)], dim=1)
    new, facts = applied(weight, bits=4, group_size=8, symmetric=symmetric)
    assert torch.equal(new[:, :8], torch.zeros(1, 8))
    torch.testing.assert_close(new, weight, rtol=2.0**-11, atol=0)
    assert "underflow" not in facts


def test_weights_too_small_for_a_float16_scale_are_counted() -> None:
    weight = torch.cat([torch.full((1, 8), 1e-9), torch.full((1, 8), 1e-6), torch.zeros(1, 8), torch.ones(1, 8)], dim=1)
    new, facts = applied(weight, bits=4, group_size=8)
    assert torch.equal(new[:, :8], torch.zeros(1, 8))
    assert facts["underflow"] == 8
    # 1e-6 / 15 is near float16's smallest number: coarse, but not nothing.
    assert (new[:, 8:16] - 1e-6).abs().max() < 0.3e-6
    model = nn.Sequential(nn.Linear(32, 1, bias=False))
    model[0].weight.data = weight
    assert RoundToNearest(bits=4, group_size=8).apply(model).report.value("underflow_per_weight", "0") == 0.25


def test_weights_too_large_for_a_float16_scale_are_refused() -> None:
    with pytest.raises(InputError, match=r"a weight of 1e\+06 needs a scale beyond float16 \(65504\) at 2 bits"):
        applied(torch.tensor([[1e6, 0.0]]), bits=2)
    torch.testing.assert_close(
        applied(torch.tensor([[1e6, 0.0]]), bits=8)[0], torch.tensor([[1e6, 0.0]]), rtol=1e-3, atol=0
    )


def test_rounding_twice_changes_nothing_more() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    once, _ = applied(weight, bits=4, group_size=16, symmetric=True)
    torch.testing.assert_close(applied(once, bits=4, group_size=16, symmetric=True)[0], once, rtol=1e-6, atol=0)
