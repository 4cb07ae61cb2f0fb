"""The fast transform against whole matrices: orthogonality, exact integers, widths, refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.hadamard import hadamard_matrix
from scipy.linalg import hadamard

from hardy.core import InputError
from hardy.ops.hadamard import factors, hadamard_transform, order, paley

WIDTHS = [1, 2, 3, 4, 8, 12, 20, 24, 34, 40, 48, 50, 64, 68, 80, 96, 100, 132, 181, 256]


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_the_matrix_and_the_matrix_is_hadamard(width: int) -> None:
    matrix = hadamard_matrix(width)
    assert torch.equal(matrix.T @ matrix, order(width) * torch.eye(width, dtype=torch.int64))
    x = torch.randint(-1000, 1000, (3, 5, width), generator=torch.Generator().manual_seed(0))
    assert torch.equal(hadamard_transform(x), x @ matrix.T)
    assert torch.equal(hadamard_transform(x.int()), (x @ matrix.T).int())
    torch.testing.assert_close(hadamard_transform(x.double()), (x @ matrix.T).double(), atol=1e-9, rtol=0)


def test_powers_of_two_are_sylvesters() -> None:
    assert torch.equal(hadamard_transform(torch.eye(16)).T, torch.from_numpy(hadamard(16)).float())


def test_widths_factor_into_the_largest_order() -> None:
    assert factors(48) == (1, 2, 12)
    assert factors(96) == (1, 3, 12)
    assert factors(256) == (1, 8, 1)
    assert factors(100) == (5, 0, 20)
    assert factors(50) == (25, 1, 1)
    assert factors(181) == (181, 0, 1)
    assert [order(w) for w in (1, 2, 28, 36, 68)] == [1, 2, 4, 12, 68]


@given(st.integers(1, 300), st.integers(0, 100))
def test_a_product_is_kept_and_a_length_grows_by_the_root_of_the_order(width: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, width, generator=random, dtype=torch.float64)
    x = torch.randn(width, generator=random, dtype=torch.float64)
    turned = hadamard_transform(weight) / order(width) @ hadamard_transform(x)
    torch.testing.assert_close(turned, weight @ x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(hadamard_transform(x).norm(), x.norm() * order(width) ** 0.5)
    single = hadamard_transform(weight.float()) / order(width) @ hadamard_transform(x.float())
    torch.testing.assert_close(single, (weight @ x).float(), atol=1e-4, rtol=1e-5)


def test_refusals() -> None:
    with pytest.raises(InputError, match="prime 3 modulo 4 plus 1, got 14"):
        paley(14)
    with pytest.raises(InputError, match="positive integer, got 0"):
        factors(0)
    with pytest.raises(InputError, match="may exceed 127"):
        hadamard_transform(torch.full((16,), 100, dtype=torch.int8))
    with pytest.raises(InputError, match="may exceed"):
        hadamard_transform(torch.full((16,), 2**50))
