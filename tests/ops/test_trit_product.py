"""Products with packed trit-planes: every path gives the oracle's bits, for any shape, batch and number of threads."""

import concurrent.futures
import math
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import trit_product as reference
from trit_matrices import activations, matrix_of, random_trits

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.packed_matrix import dequantize
from hardy.ops.packed_product import float_product, quantize_activations, transposed_product
from hardy.ops.trit_matrix import TritMatrix, pack
from hardy.ops.trit_product import trit_product, trit_product_reference

PATHS = kernels.paths()
needs_kernels = pytest.mark.skipif(not PATHS, reason="hardy's compiled kernels were not built")


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def all_results(x: torch.Tensor, matrix: TritMatrix) -> dict[str, torch.Tensor]:
    return {"torch": trit_product_reference(x, matrix)} | {
        path: trit_product.compiled(x, matrix, path) for path in PATHS
    }


sizes = st.tuples(st.integers(1, 3), st.integers(1, 36), st.integers(1, 80), st.integers(1, 50))


@given(size=sizes, tokens=st.integers(1, 5), seed=st.integers(0, 1000))
def test_every_path_gives_the_bits_of_the_oracle(size: tuple[int, int, int, int], tokens: int, seed: int) -> None:
    trits, scales = random_trits(*size, seed=seed)
    x = activations(tokens, size[2], seed)
    expected = reference.product(x.numpy(), trits.numpy(), scales[..., 0].float().numpy())
    for name, result in all_results(x, pack(trits, scales, size[2])).items():
        np.testing.assert_array_equal(result.numpy(), expected, err_msg=name)


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize(
    ("rows", "width", "group_size"),
    [(100, 130, 4), (33, 300, 42), (64, 256, 64), (70, 515, 128), (17, 1100, 1100), (90, 2500, 1200)],
)
def test_every_path_and_batch_gives_the_bits_of_the_reference(
    planes: int, rows: int, width: int, group_size: int
) -> None:
    """The last two shapes have groups that take several stretches before 16 bits could overflow."""
    matrix = matrix_of(planes, rows, width, group_size)
    x = activations(70, width)
    expected = trit_product_reference(x, matrix)
    dense = dequantize(matrix).double()
    error = (expected - x.double() @ dense.T).norm() / (x.double() @ dense.T).norm()
    assert error < 0.05  # the rounding of the activations; see `test_the_error_is_that_of_the_activations`
    for path in PATHS:
        for tokens in (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 18, 22, 48, 50, 70):
            assert torch.equal(trit_product.compiled(x[:tokens], matrix, path), expected[:tokens]), (path, tokens)


@needs_kernels
@pytest.mark.parametrize("path", PATHS)
def test_the_largest_sums_fit(path: str) -> None:
    for planes in (1, 2, 3):
        for group_size in (128, 2048):
            trits = torch.ones(planes, 16, 2, group_size, dtype=torch.int8)
            trits[:, ::2] = -1
            matrix = pack(trits, torch.ones(planes, 16, 2, 1), 2 * group_size)
            x = torch.ones(20, 2 * group_size)
            x[::2] = -1
            expected = 2 * group_size * planes * torch.ones(20, 16)
            expected[:, ::2] *= -1
            expected[::2] *= -1
            for tokens in (1, 4, 20):
                torch.testing.assert_close(
                    trit_product.compiled(x[:tokens], matrix, path), expected[:tokens], rtol=1e-6, atol=0
                )


def test_the_error_is_that_of_the_activations() -> None:
    """On Gaussian data 6.6e-3 of the output; the dot products and the scales add nothing."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((16, 1024))).float()
    matrix = matrix_of(2, 256, 1024, 128, largest=1)
    exact = float_product(x.double(), matrix)
    torch.testing.assert_close(float_product(x, matrix).double(), exact, rtol=1e-5, atol=1e-3)
    error = ((trit_product(x, matrix) - exact).norm() / exact.norm()).item()
    assert error == pytest.approx(6.6e-3, rel=0.1)
    codes, steps = quantize_activations(x, 128)
    rounded = (codes * steps[..., None]).flatten(1).double()
    torch.testing.assert_close(trit_product(x, matrix).double(), float_product(rounded, matrix), rtol=1e-5, atol=1e-3)


@needs_kernels
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("path", PATHS)
def test_two_threads_give_the_same_bits(path: str) -> None:
    matrix = matrix_of(2, 1000, 512, 128)
    for tokens in (4, 5, 40):
        x = activations(tokens, 512)
        expected = trit_product_reference(x, matrix)
        for _ in range(5):
            assert torch.equal(trit_product.compiled(x, matrix, path), expected)


@needs_kernels
@pytest.mark.usefixtures("two_threads")
def test_many_callers_at_once_get_their_own_results() -> None:
    matrix = matrix_of(2, 1000, 512, 128)
    inputs = [activations(8, 512, seed) for seed in range(12)]
    expected = [trit_product_reference(x, matrix) for x in inputs]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            found = list(pool.map(lambda x: trit_product(x, matrix), inputs))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


_FORKED = """
import os, torch
from hardy.ops.trit_matrix import pack
from hardy.ops.trit_product import trit_product
torch.set_num_threads(2)
trits = (torch.arange(2 * 1024 * 512) % 3 - 1).to(torch.int8).view(2, 1024, 4, 128)
matrix, x = pack(trits, torch.ones(2, 1024, 4, 1), 512), torch.linspace(-1, 1, 8 * 512).view(8, 512)
before = trit_product(x, matrix)
child = os.fork()
if child == 0:
    os._exit(0 if all(torch.equal(trit_product(x, matrix), before) for _ in range(20)) else 1)
assert torch.equal(trit_product(x, matrix), before)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@needs_kernels
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", _FORKED], check=True, timeout=60)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_output_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    matrix = matrix_of(2, 24, 100, 32, largest=1)
    x = activations(6, 100).to(dtype)
    result = trit_product(x.view(2, 3, 100), matrix)
    assert result.dtype == dtype
    assert torch.equal(result, trit_product_reference(x.float(), matrix).to(dtype).view(2, 3, 24))


def test_inputs_of_any_shape_and_stride() -> None:
    matrix = matrix_of(1, 20, 33, 16)
    x = activations(12, 33)
    expected = trit_product_reference(x, matrix)
    assert torch.equal(trit_product(x[0], matrix), expected[0])
    assert torch.equal(trit_product(x.T.contiguous().T, matrix), expected)
    assert torch.equal(trit_product(x[::2], matrix), expected[::2])
    assert torch.equal(trit_product(x.view(3, 2, 2, 33), matrix), expected.view(3, 2, 2, 20))
    assert torch.equal(trit_product(x[:1].expand(5, 33), matrix), expected[:1].expand(5, 20))
    assert trit_product(x[:0], matrix).shape == (0, 20)
    assert trit_product(x.new_empty(3, 0, 33), matrix).shape == (3, 0, 20)


def test_what_is_not_finite_gives_nan_and_touches_no_other_token() -> None:
    matrix = matrix_of(2, 20, 100, 32)
    x = activations(20, 100)
    clean = all_results(x, matrix)
    for bad in (math.nan, math.inf, -math.inf):
        spoiled = x.clone()
        spoiled[3, 99] = spoiled[18, 40] = bad
        for name, result in all_results(spoiled, matrix).items():
            wrong = torch.isnan(result)
            assert wrong[[3, 18]].all(), name
            assert torch.equal(result[~wrong.any(-1)], clean[name][~wrong.any(-1)])
            assert wrong.any(-1).sum() == 2


def test_zeros_and_the_smallest_and_largest_numbers() -> None:
    trits, _ = random_trits(2, 20, 96, 32)
    matrix = pack(trits, torch.full((2, 20, 3, 1), 2.0**-10), 96)
    x = activations(4, 96)
    x[0, :32], x[1, :32] = 0, 2.0**-101
    x[2] *= 1e-29 / x[2].abs().max()
    x[3] *= torch.finfo(torch.float32).max / x[3].abs().max()
    without = x[:2].clone()
    without[:, :32] = 0
    for name, result in all_results(x, matrix).items():
        assert torch.equal(result[:2], all_results(without, matrix)[name])
        exact = x.double() @ dequantize(matrix).double().T
        assert torch.isfinite(result).all()
        assert ((result - exact).norm(dim=-1) < 0.03 * exact.norm(dim=-1)).all(), name


def test_halves_round_to_even() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    codes, steps = quantize_activations(x, 8)
    assert codes.tolist() == [[[127, 0, 2, 2, 0, -2, -2, 126]]]
    assert steps.tolist() == [[1.0]]
    matrix = pack(torch.eye(8, dtype=torch.int8).view(1, 8, 1, 8), torch.ones(1, 8, 1, 1), 8)
    for result in all_results(x, matrix).values():
        assert result[0].tolist() == codes[0, 0].tolist()


def test_gradients_reach_the_input_and_are_those_of_the_dense_product() -> None:
    matrix = matrix_of(2, 40, 100, 32, largest=1)
    dense = dequantize(matrix)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        x = activations(6, 100).view(2, 3, 100).to(dtype).requires_grad_()
        y = activations(6, 40, seed=1).view(2, 3, 40).to(dtype)
        (trit_product(x, matrix) * y).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype
        torch.testing.assert_close(x.grad.float(), y.float() @ dense, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(transposed_product(y.float(), matrix), y.float() @ dense)
    # Twice, as an adapter before and after the layer needs it; and not at all where none is asked for.
    (gradient,) = torch.autograd.grad((trit_product(x, matrix) * y.requires_grad_()).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), y)
    torch.testing.assert_close(second.float(), dense.sum(1).expand_as(second), rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        assert not trit_product(x, matrix).requires_grad


def test_is_one_operator_for_compilers() -> None:
    """Its shapes are known without running it, it has gradients, and it changes none of its inputs."""
    matrix = matrix_of(2, 40, 100, 32, largest=1)
    sizes = (matrix.codes, matrix.scales, matrix.rows, matrix.width, matrix.group_size, matrix.planes)
    for dtype in (torch.float32, torch.bfloat16):
        x = activations(6, 100).view(2, 3, 100).to(dtype).requires_grad_()
        torch.library.opcheck(torch.ops.hardy.trit_product.default, (x, *sizes))
    y = activations(6, 40).requires_grad_()
    torch.library.opcheck(torch.ops.hardy.trit_product_transposed.default, (y, *sizes))


def test_compiles_without_a_graph_break() -> None:
    matrix = matrix_of(2, 40, 100, 32, largest=1)

    def product(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(trit_product(x, matrix))

    compiled_product = torch.compile(product, fullgraph=True, backend="aot_eager")  # a break would be an error
    x = activations(6, 100).requires_grad_()
    assert torch.equal(compiled_product(x), product(x))
    (found,) = torch.autograd.grad(compiled_product(x).sum(), x)
    (expected,) = torch.autograd.grad(product(x).sum(), x)
    torch.testing.assert_close(found, expected)


def test_refuses_what_it_cannot_take() -> None:
    matrix = matrix_of(2, 20, 100, 32)
    for x, message in (
        (torch.zeros(3, 99), r"the matrix takes \(\.\.\., 100\), got \(3, 99\)"),
        (torch.tensor(1.0), r"the matrix takes \(\.\.\., 100\), got \(\)"),
        (torch.zeros(3, 100, dtype=torch.int64), "activations must be floating, got torch.int64"),
        (torch.zeros(3, 100, device="meta"), "activations are on meta, the matrix is on cpu"),
    ):
        with pytest.raises(InputError, match=message):
            trit_product(x, matrix)
