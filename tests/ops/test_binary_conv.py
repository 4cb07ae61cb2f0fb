"""The compiled binary convolution is the torch reference to the last bit, and the reference is a plain convolution."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.binary_conv import BinaryMatrix, Grid, Window, binary_conv, compiled, reference
from hardy.ops.packing import pack_codes

SHAPES = {
    "3x3 of 16 channels": ((16, 16, 3, 3), Window(kernel=(3, 3), padding=(1, 1)), (2, 16, 9, 11)),
    "stride and 64 channels": ((9, 64, 3, 3), Window(kernel=(3, 3), padding=(1, 1), stride=(2, 2)), (1, 64, 8, 8)),
    "odd channels": ((7, 5, 3, 1), Window(kernel=(3, 1), padding=(2, 0)), (3, 5, 4, 6)),
    "dilation": ((8, 12, 3, 3), Window(kernel=(3, 3), padding=(2, 2), dilation=(2, 2)), (1, 12, 7, 7)),
    "1x1": ((33, 70, 1, 1), Window(), (1, 70, 3, 5)),
    "5x5 of 3 channels": ((4, 3, 5, 5), Window(kernel=(5, 5), padding=(0, 2), stride=(1, 3)), (1, 3, 8, 9)),
}
GRIDS = [
    Grid(bits=1, step=0.7, zero_point=0.0),
    Grid(bits=1, step=0.7, zero_point=0.5),
    Grid(bits=2, step=0.31, zero_point=2.0),
    Grid(bits=3, step=0.25, zero_point=0.0),
    Grid(bits=4, step=0.11, zero_point=8.0),
    Grid(bits=5, step=0.1, zero_point=0.0),
    Grid(bits=6, step=0.05, zero_point=0.0),
    Grid(bits=7, step=0.02, zero_point=64.0),
    Grid(bits=8, step=0.01, zero_point=0.0),
]


def matrix_of(shape: tuple[int, ...], window: Window, grid: Grid, shifted: bool = False) -> BinaryMatrix:
    random = generator(0, "binary", *shape)
    signs = torch.randint(2, shape, generator=random, dtype=torch.uint8)
    scale, offset, bias = (torch.randn(shape[0], generator=random) for _ in range(3))
    shift = torch.randn(shape[1], generator=random) if shifted else None
    grid = Grid(bits=grid.bits, step=grid.step, zero_point=grid.zero_point, shift=shift)
    return BinaryMatrix(pack_codes(signs.flatten(), 1), shape, scale, offset, bias, grid, window)


def dense(x: torch.Tensor, matrix: BinaryMatrix) -> torch.Tensor:
    """The layer in float64, by its definition."""
    grid, window = matrix.grid, matrix.window
    values = grid.step / grid.factor * (grid.codes(x, 1).double() - grid.zero_code)
    step = grid.step / grid.factor
    levels = matrix.scale.double()[:, None, None, None] * matrix.signs + matrix.offset.double()[:, None, None, None]
    weight = levels / step
    options = (window.stride, window.padding, window.dilation, window.groups)
    return F.conv2d(values, weight, matrix.bias.double(), *options)


@pytest.mark.parametrize("name", SHAPES)
def test_the_reference_is_the_convolution_with_two_levels(name: str) -> None:
    shape, window, size = SHAPES[name]
    x = torch.randn(size, generator=generator(1, "x"))
    for grid in GRIDS:
        matrix = matrix_of(shape, window, grid, shifted=True)
        torch.testing.assert_close(reference(x, matrix).double(), dense(x, matrix), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("path", kernels.paths())
@pytest.mark.parametrize("name", SHAPES)
def test_every_path_gives_the_same_bits(path: str, name: str) -> None:
    shape, window, size = SHAPES[name]
    x = torch.randn(size, generator=generator(1, "x"))
    for grid, shifted in itertools.product(GRIDS, (False, True)):
        matrix = matrix_of(shape, window, grid, shifted)
        expected = reference(x, matrix)
        assert torch.equal(compiled(x, matrix, path, torch.full_like(expected, torch.nan)), expected), grid
        last = x.permute(0, 2, 3, 1).contiguous()
        wanted = expected.permute(0, 2, 3, 1).contiguous()
        found = compiled(last, matrix, path, torch.full_like(wanted, torch.nan), channels_last=True)
        assert torch.equal(found, wanted), grid


def test_threads_do_not_change_a_bit() -> None:
    shape, window, _ = SHAPES["3x3 of 16 channels"]
    matrix, x = matrix_of(shape, window, GRIDS[4]), torch.randn(8, 16, 32, 32, generator=generator(2, "x"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(binary_conv(x, matrix), reference(x, matrix))
    finally:
        torch.set_num_threads(threads)


def test_halves_go_to_even_and_what_is_beyond_the_grid_to_its_ends() -> None:
    matrix = matrix_of((1, 1, 1, 1), Window(), Grid(bits=2, step=0.5, zero_point=0.0))
    x = torch.tensor([-3.0, 0.25, 0.75, 1.25, 9.0]).view(1, 1, 1, 5)
    assert matrix.grid.codes(x, 1).flatten().tolist() == [0, 0, 2, 2, 3]
    assert torch.equal(binary_conv(x, matrix), reference(x, matrix))


def test_groups_are_computed_by_the_reference() -> None:
    window = Window(kernel=(3, 3), padding=(1, 1), groups=8)
    matrix = matrix_of((16, 1, 3, 3), window, GRIDS[3])
    x = torch.randn(2, 8, 6, 6, generator=generator(3, "x"))
    torch.testing.assert_close(binary_conv(x, matrix).double(), dense(x, matrix), rtol=1e-5, atol=1e-4)


def test_what_cannot_be_computed_is_refused() -> None:
    shape, window, _ = SHAPES["3x3 of 16 channels"]
    matrix = matrix_of(shape, window, GRIDS[0])
    with pytest.raises(InputError, match=r"takes \(batch, 16, height, width\) float32, got \(1, 15, 4, 4\)"):
        binary_conv(torch.zeros(1, 15, 4, 4), matrix)
    with pytest.raises(InputError, match="must be finite, got NaN or infinity in 1 of 256"):
        binary_conv(torch.zeros(1, 16, 4, 4).index_fill_(1, torch.tensor([0]), 0).flatten().index_fill_(
            0, torch.tensor([5]), torch.nan).view(1, 16, 4, 4), matrix)  # fmt: skip
    with pytest.raises(InputError, match="smaller than the window"):
        binary_conv(torch.zeros(1, 12, 1, 1), matrix_of((8, 12, 7, 7), Window(kernel=(7, 7)), GRIDS[0]))
    with pytest.raises(InputError, match="step must be a finite number above 0"):
        matrix_of(shape, window, Grid(bits=1, step=-0.1, zero_point=0.0))
