"""Rotation by Hadamard matrices, block after block: against the matrix itself, compiled as in torch, in graphs."""

import math

import pytest
import scipy.linalg
import torch

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.rotation import check_rotation, rotate, rotate_both, rotate_by_matrix, rotate_into, rotate_reference


def matrix(*sizes: int) -> torch.Tensor:
    """R for blocks of these sizes, float64."""
    return torch.block_diag(*(torch.from_numpy(scipy.linalg.hadamard(n)).double() / math.sqrt(n) for n in sizes))


@pytest.mark.parametrize(
    ("width", "size", "blocks"),
    [(8, 8, [8]), (32, 8, [8] * 4), (37, 16, [16, 16, 4, 1]), (7, 16, [4, 2, 1]), (576, 128, [128] * 4 + [64])],
)
def test_is_the_product_with_the_matrix_and_its_own_inverse(width: int, size: int, blocks: list[int]) -> None:
    x = torch.randn(3, 5, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = x @ matrix(*blocks)
    torch.testing.assert_close(rotate(x, size), expected)
    torch.testing.assert_close(rotate(rotate(x, size), size), x)
    assert rotate(x, 0) is x
    torch.testing.assert_close(rotate_by_matrix(x, size), expected)
    torch.testing.assert_close(rotate(x.float(), size), expected.float())
    square = x[:1].mT @ x[:1]
    torch.testing.assert_close(rotate_both(square, size), matrix(*blocks) @ square @ matrix(*blocks))
    turned = rotate(x.bfloat16(), size)
    assert turned.dtype == torch.float32, "more would be lost than bfloat16 already has"
    torch.testing.assert_close(turned, expected.float(), atol=0.1, rtol=0)


@pytest.mark.parametrize("width", [1, 64, 100, 896])
def test_the_compiled_path_has_the_bits_of_the_reference(width: int) -> None:
    if not kernels.paths():
        pytest.skip("hardy's compiled kernels were not built")
    x = 1e3 * torch.randn(9, width, generator=torch.Generator().manual_seed(1))
    expected = rotate_reference(x, 128)
    assert torch.equal(rotate(x, 128), expected)
    assert torch.equal(rotate(x.T.contiguous().T, 128), expected), "in any order in memory"
    rotate_into(x, 128, x)
    assert torch.equal(x, expected), "in place"


def test_gradients_and_graphs() -> None:
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, 8), (x,))
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, 8).square(), (x,))
    half = x.detach().bfloat16().requires_grad_()
    rotate(half, 8).sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    compiled = torch.compile(lambda x: rotate(x, 8) + 1, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), rotate(x, 8) + 1)


def test_other_sizes_are_refused() -> None:
    check_rotation(0)
    for size in (-1, 3, 96, 8.0, True):
        with pytest.raises(InputError, match="rotation must be a power of two, or 0 for none, got"):
            check_rotation(size)  # pyright: ignore[reportArgumentType]
