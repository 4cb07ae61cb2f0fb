"""Products with packed codes on a grid: every path gives the oracle's bits, and rows come back as they were."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import grid_product as reference
from trit_matrices import activations

from hardy.errors import InputError
from hardy.ops import kernels, plane_layout
from hardy.ops.grid_matrix import (
    LONGEST_GROUP,
    GridMatrix,
    pack,
    planes_of,
    round_rows,
    take_rows,
    unpack,
)
from hardy.ops.grid_product import grid_product, grid_product_reference
from hardy.ops.packed_matrix import dequantize
from hardy.ops.packed_product import float_product, transposed_product

PATHS = kernels.paths()
needs_kernels = pytest.mark.skipif(not PATHS, reason="hardy's compiled kernels were not built")


def grid_of(
    bits: int, rows: int, width: int, group_size: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random codes, their padding zero, scales of which one in eight is zero, and zero points."""
    rng = np.random.default_rng(seed)
    groups = -(-width // group_size)
    codes = torch.from_numpy(rng.integers(0, 2**bits, (rows, groups * group_size), dtype=np.uint8))
    codes[:, width:] = 0
    scales = torch.from_numpy(rng.random((rows, groups))).half()
    scales[torch.from_numpy(rng.random(scales.shape) < 1 / 8)] = 0
    zero_points = torch.from_numpy(rng.integers(0, 2**bits, (rows, groups))).half()
    return codes.unflatten(-1, (groups, group_size)), scales, zero_points


def matrix_of(bits: int, rows: int, width: int, group_size: int, seed: int = 0) -> GridMatrix:
    return pack(*grid_of(bits, rows, width, group_size, seed), width, bits)


sizes = st.tuples(st.integers(2, 8), st.integers(1, 36), st.integers(1, 80), st.integers(1, 50))


@given(size=sizes, tokens=st.integers(1, 5), seed=st.integers(0, 1000))
def test_every_path_gives_the_bits_of_the_oracle(size: tuple[int, int, int, int], tokens: int, seed: int) -> None:
    bits, rows, width, group_size = size
    codes, scales, zero_points = grid_of(bits, rows, width, group_size, seed)
    matrix, x = pack(codes, scales, zero_points, width, bits), activations(tokens, width, seed)
    numbers = (codes.numpy(), scales.float().numpy(), zero_points.float().numpy())
    expected = reference.product(x.numpy(), *numbers, width)
    np.testing.assert_array_equal(grid_product_reference(x, matrix).numpy(), expected)
    for path in PATHS:
        np.testing.assert_array_equal(grid_product.compiled(x, matrix, path).numpy(), expected, err_msg=path)


@given(size=sizes, seed=st.integers(0, 1000))
def test_packing_is_undone_whole_and_row_by_row(size: tuple[int, int, int, int], seed: int) -> None:
    bits, rows, width, group_size = size
    grid = grid_of(bits, rows, width, group_size, seed)
    matrix = pack(*grid, width, bits)
    for found, expected in zip(unpack(matrix), grid, strict=True):
        assert torch.equal(found, expected)
    dense = dequantize(matrix)
    wanted = torch.randint(rows, (3, 7), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(take_rows(matrix, wanted), dense[wanted])
    assert take_rows(matrix, wanted[:0]).shape == (0, 7, width)


@needs_kernels
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize(
    ("rows", "width", "group_size"),
    [(100, 130, 4), (64, 256, 64), (70, 515, 128), (17, 1100, 1100), (90, 2500, 1200)],
)
def test_every_path_and_batch_gives_the_bits_of_the_reference(
    bits: int, rows: int, width: int, group_size: int
) -> None:
    """The last two shapes have groups that take several stretches before 16 bits could overflow."""
    matrix, x = matrix_of(bits, rows, width, group_size), activations(50, width)
    expected = grid_product_reference(x, matrix)
    exact = x.double() @ dequantize(matrix).double().T
    assert (expected - exact).norm() < 0.05 * exact.norm()
    for path in PATHS:
        for tokens in (1, 2, 3, 4, 7, 8, 15, 16, 17, 22, 48, 50):
            assert torch.equal(grid_product.compiled(x[:tokens], matrix, path), expected[:tokens]), (path, tokens)


@needs_kernels
@pytest.mark.parametrize("path", PATHS)
def test_the_largest_sums_fit(path: str) -> None:
    for bits in (2, 4, 6, 8):
        codes = torch.full((16, 1, 2048), 2**bits - 1, dtype=torch.uint8)
        matrix = pack(codes, torch.ones(16, 1), torch.zeros(16, 1), 2048, bits)
        x = torch.ones(20, 2048)
        x[::2] = -1
        expected = (2**bits - 1) * 2048.0 * x[:, :16]
        for tokens in (1, 4, 20):
            torch.testing.assert_close(
                grid_product.compiled(x[:tokens], matrix, path), expected[:tokens], rtol=1e-6, atol=0
            )


@needs_kernels
def test_two_threads_and_parts_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, x = matrix_of(4, 1000, 512, 128), activations(20, 512)
    expected = grid_product_reference(x, matrix)
    torch.set_num_threads(2)
    try:
        assert torch.equal(grid_product(x, matrix), expected)
    finally:
        torch.set_num_threads(1)
    part = matrix.rows_at(64, 1000)
    assert torch.equal(grid_product(x, part), expected[:, 64:])
    monkeypatch.setattr(plane_layout, "AT_A_TIME", 128 * 64 * 3)
    assert torch.equal(grid_product_reference(x, matrix), expected)
    assert torch.equal(matrix_of(4, 1000, 512, 128).codes, matrix.codes)


def test_what_is_not_finite_gives_nan_and_touches_no_other_token() -> None:
    matrix, x = matrix_of(4, 20, 100, 32), activations(20, 100)
    clean = grid_product(x, matrix)
    x[3, 99], x[18, 40] = math.nan, math.inf
    result = grid_product(x, matrix)
    wrong = torch.isnan(result)
    assert wrong[[3, 18]].all()
    assert wrong.any(-1).sum() == 2
    assert torch.equal(result[~wrong.any(-1)], clean[~wrong.any(-1)])


def test_gradients_are_those_of_the_dense_product_and_dtypes_are_kept() -> None:
    matrix = matrix_of(4, 40, 100, 32)
    dense = dequantize(matrix)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        x = activations(6, 100).view(2, 3, 100).to(dtype).requires_grad_()
        y = grid_product(x, matrix)
        assert y.dtype == dtype
        gradient = activations(6, 40, seed=1).view(2, 3, 40).to(dtype)
        y.backward(gradient)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, (gradient.float() @ dense).to(dtype), rtol=tolerance, atol=tolerance * 50)
    x = activations(6, 100)
    torch.testing.assert_close(float_product(x, matrix), x @ dense.T, rtol=1e-5, atol=1e-3)
    y = activations(6, 40)
    torch.testing.assert_close(transposed_product(y, matrix), y @ dense, rtol=1e-5, atol=1e-3)
    assert torch.equal(torch.compile(grid_product, backend="eager", fullgraph=True)(x, matrix), grid_product(x, matrix))


@pytest.mark.parametrize(("bits", "largest"), [(8, 0.01), (4, 0.17)])
def test_dense_rows_are_rounded_to_the_nearest(bits: int, largest: float) -> None:
    weight = activations(150, 576)
    weight[7] = 0
    matrix = round_rows(weight, bits, 32)
    error = (dequantize(matrix) - weight).norm() / weight.norm()
    assert error < largest
    assert (dequantize(matrix)[7] == 0).all()
    groups = weight.unflatten(1, (-1, 32))
    steps = (groups.abs().amax(-1) / (2 ** (bits - 1) - 1)).half().float()[..., None]
    off = (dequantize(matrix).view_as(groups) - groups).abs()
    assert (off <= 0.502 * steps + groups.abs() * 1e-3).all()
    assert planes_of(bits) == matrix.planes


def test_what_is_no_such_matrix_is_refused() -> None:
    codes, scales, zero_points = grid_of(4, 20, 100, 32)
    for wrong, message in (
        ((codes.to(torch.int16), scales, zero_points, 100, 4), "codes must be uint8"),
        ((codes, scales[:, :2], zero_points, 100, 4), "100 inputs make 4 groups of 32"),
        ((codes, scales, zero_points, 200, 4), "200 inputs make 7 groups"),
        ((codes, scales, zero_points, 100, 9), "1 to 4 digits"),
    ):
        with pytest.raises(InputError, match=message):
            pack(*wrong)
    matrix = pack(codes, scales, zero_points, 100, 4)
    with pytest.raises(InputError, match="rows are 0..19, got 0 to 20"):
        take_rows(matrix, torch.tensor([0, 20]))
    with pytest.raises(InputError, match=r"the matrix takes \(..., 100\)"):
        grid_product(torch.ones(3, 99), matrix)
    with pytest.raises(InputError, match="must be floating"):
        grid_product(torch.ones(3, 100, dtype=torch.int64), matrix)
    with pytest.raises(InputError, match="at most"):
        pack(torch.zeros(1, 1, LONGEST_GROUP + 1, dtype=torch.uint8), scales[:1, :1], scales[:1, :1], 70000, 8)
