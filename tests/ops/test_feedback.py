"""Error feedback against optimal brain surgery one input at a time."""

import numpy as np
import pytest
import torch
from reference import feedback as reference

from hardy.errors import InputError
from hardy.ops.feedback import BLOCK, hessian_root, inverse_factor, quantize_groups, round_columns, visits


def gram_of(inputs: int, tokens: int = 300, seed: int = 0) -> torch.Tensor:
    """Of inputs that depend on each other and have powers of many sizes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, inputs)) @ rng.standard_normal((inputs, inputs)) * rng.uniform(0.2, 3, inputs)
    return torch.from_numpy(x.T @ x)


@pytest.mark.parametrize("inputs", [20, 2 * BLOCK, 4 * BLOCK + 37])
def test_the_factor_is_that_of_the_damped_inverse(inputs: int) -> None:
    gram = gram_of(inputs, tokens=3 * inputs)
    gram[3] = gram[:, 3] = 0
    factor = inverse_factor(gram, 0.01)
    assert torch.equal(factor, factor.triu())
    expected = torch.from_numpy(reference.damped(gram.numpy(), 0.01)).inverse()
    torch.testing.assert_close(factor.T @ factor, expected, rtol=1e-9, atol=1e-12)
    alone = torch.eye(inputs)[3].tolist()
    assert factor[3].tolist() == factor[:, 3].tolist() == alone, "an input that was always zero has no part in others"


def test_without_tokens_all_inputs_stand_alone() -> None:
    assert torch.equal(inverse_factor(torch.zeros(5, 5), 0.01), torch.eye(5).double())


def test_fewer_tokens_than_inputs_need_damping() -> None:
    gram = gram_of(20, tokens=8)
    with pytest.raises(InputError, match="Gram matrix of 20 inputs is singular at damping 0; give more calibration"):
        inverse_factor(gram, 0)
    assert torch.isfinite(inverse_factor(gram, 0.01)).all()


@pytest.mark.parametrize("inputs", [1, 7, BLOCK, 2 * BLOCK + 5])
def test_columns_are_rounded_as_by_surgery(inputs: int) -> None:
    gram = gram_of(inputs)
    weight = torch.randn(3, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rounded, errors = round_columns(weight.T.contiguous(), inverse_factor(gram, 0.01), lambda _, w: (4 * w).round() / 4)
    inverse = np.linalg.inv(reference.damped(gram.numpy(), 0.01))
    hessian = torch.from_numpy(reference.damped(gram.numpy(), 0.01))
    for index, row in enumerate(weight.numpy()):
        _, expected, _, cost = reference.surgery(row, inverse, list(range(inputs)), lambda w: round(4 * w) / 4)
        np.testing.assert_array_equal(rounded[:, index], expected)
        assert errors[:, index].square().sum().item() == pytest.approx(cost, rel=1e-9)
        change = weight[index] - rounded[:, index]
        assert (change @ hessian @ change).item() == pytest.approx(cost, rel=1e-9), "and this is the outputs' error"


@pytest.mark.parametrize("size", [4, 5, 13])
def test_visits(size: int) -> None:
    powers = torch.from_numpy(np.random.default_rng(size).uniform(0, 1, 13))
    for order in ("given", "activation"):
        found = [members.tolist() for _, members in visits(powers, size, order)]
        assert found == reference.visits(powers.numpy(), size, order)
    assert [index for index, _ in visits(powers, size, "given")] == list(range(-(-13 // size)))


def test_the_root_counts_with_inputs_that_make_up_for_the_error() -> None:
    gram = gram_of(12)
    factor = inverse_factor(gram, 0.0)
    root = hessian_root(factor[:5, :5])
    error = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answer = -error @ gram[:5, 5:] @ gram[5:, 5:].inverse()  # what the other inputs do at best
    whole = torch.cat([error, answer])
    cost, scale = whole @ gram @ whole, factor[:5, :5].inverse().square().sum(0).mean()
    assert (error @ root).square().sum().item() == pytest.approx((cost / scale).item(), rel=1e-9)


def test_what_does_not_fit_is_refused() -> None:
    weight, gram = torch.ones(2, 3), torch.eye(3)

    def call(weight: torch.Tensor, gram: torch.Tensor) -> None:
        quantize_groups(weight, gram, 3, 0.01, "given", lambda columns, factor: (columns, columns, None))

    with pytest.raises(InputError, match=r"a weight of 3 inputs needs a Gram matrix of as many, got \(4, 4\)"):
        call(weight, torch.eye(4))
    with pytest.raises(InputError, match="1 weights of 6 are NaN or infinite"):
        call(torch.tensor([[1.0, float("nan"), 1], [1, 1, 1]]), gram)
    with pytest.raises(InputError, match="9 entries of the Gram matrix of 9 are NaN"):
        call(weight, gram * float("inf"))
