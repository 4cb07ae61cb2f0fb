"""Activations times a matrix of codes on a grid, which stays packed: nothing of the dense matrix's size is made.

As `hardy.ops.trit_product`, to the last bit the same in the torch reference here, in the compiled paths and for any
number of threads: activations are rounded to int8 for each token and group, the dot product with the codes is exact in
integers, and in float32, group after group, result += step * (scale * (dot + zero_point * -sum of activations)),
rounded at every operation.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.grid_matrix import GridMatrix, dequantize, unpack
from hardy.ops.trit_product import quantize_activations


def grid_product(x: torch.Tensor, matrix: GridMatrix) -> torch.Tensor:
    """(..., width) times the matrix: (..., rows), in the dtype of `x`.

    On CPU the compiled kernels, where there are any; else, and on every other device, the product of `x` as it is with
    the dense matrix, a few rows of it at a time. The gradient with respect to `x` is that of the product with the dense
    matrix. For `torch.compile` and `torch.export` it is one operator, `torch.ops.hardy.grid_product`.

    Raises:
        InputError: the last dimension of `x` is not `matrix.width`, or it is not floating or on another device.
    """
    if x.ndim == 0 or x.shape[-1] != matrix.width:
        raise InputError(f"the matrix takes (..., {matrix.width}), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise InputError(f"activations must be floating, got {x.dtype}")
    if x.device != matrix.codes.device:
        raise InputError(f"activations are on {x.device}, the matrix is on {matrix.codes.device}")
    if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
        return _product(x, *_parts(matrix))
    return _forward(x, matrix)


def _parts(matrix: GridMatrix) -> tuple[torch.Tensor, torch.Tensor, int, int, int, int]:
    return matrix.codes, matrix.scales, matrix.rows, matrix.width, matrix.group_size, matrix.planes


def _matrix(
    codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, group_size: int, planes: int
) -> GridMatrix:
    return GridMatrix(codes=codes, scales=scales, rows=rows, width=width, group_size=group_size, planes=planes)


@torch.library.custom_op("hardy::grid_product", mutates_args=())
def _product(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, group_size: int, planes: int
) -> torch.Tensor:
    return _forward(x, _matrix(codes, scales, rows, width, group_size, planes))


@_product.register_fake
def _(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, *sizes: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], rows)


@torch.library.custom_op("hardy::grid_product_transposed", mutates_args=())
def _transposed(
    y: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, group_size: int, planes: int
) -> torch.Tensor:
    return transposed_product(y, _matrix(codes, scales, rows, width, group_size, planes))


@_transposed.register_fake
def _(y: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, *sizes: int) -> torch.Tensor:
    return y.new_empty(*y.shape[:-1], width)


def _keep_matrix(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, codes, scales, *ctx.sizes = inputs
    ctx.save_for_backward(codes, scales)


def _gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return _transposed(gradient, *ctx.saved_tensors, *ctx.sizes), *(None,) * 6


def _gradient_of_transposed(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return dense_product(gradient, _matrix(*ctx.saved_tensors, *ctx.sizes)), *(None,) * 6


_product.register_autograd(_gradient, setup_context=_keep_matrix)
_transposed.register_autograd(_gradient_of_transposed, setup_context=_keep_matrix)


def _forward(x: torch.Tensor, matrix: GridMatrix) -> torch.Tensor:
    if x.device.type == "cpu":
        path = kernels.path()
        if path is not None:
            return compiled(x, matrix, path)
        tokens = x.detach().reshape(-1, matrix.width).to(torch.float32)
        return grid_product_reference(tokens, matrix).to(x.dtype).view(*x.shape[:-1], matrix.rows)
    return dense_product(x.detach(), matrix)


def compiled(x: torch.Tensor, matrix: GridMatrix, path: str) -> torch.Tensor:
    """`grid_product` on CPU, on a path of `hardy.ops.kernels.paths()`."""
    module = kernels.extension()
    assert module is not None
    x = x.detach() if x.requires_grad else x  # which DLPack refuses
    is_float32 = x.dtype is torch.float32
    activations = x if is_float32 and x.is_contiguous() else x.to(torch.float32).contiguous()
    output = torch.empty((*x.shape[:-1], matrix.rows), dtype=torch.float32)
    module.grid_product(path, activations, *_parts(matrix), output, torch.get_num_threads())
    return output if is_float32 else output.to(x.dtype)


def bound(x: torch.Tensor, matrix: GridMatrix, output: torch.Tensor) -> Callable[[], object]:
    """The product as a call that reads `x` (width,) and writes `output` (rows,), both float32 on CPU, again and again.

    For loops in which the checks and conversions of `grid_product` would be a good part of the time.
    """
    path, module = kernels.path(), kernels.extension()
    if path is None or module is None:
        return lambda: output.copy_(grid_product_reference(x[None], matrix)[0])
    return functools.partial(module.grid_product, path, x, *_parts(matrix), output, torch.get_num_threads())


def grid_product_reference(x: torch.Tensor, matrix: GridMatrix) -> torch.Tensor:
    """`grid_product` of (tokens, width) float32 in torch: the same bits as the compiled paths."""
    rounded, steps = quantize_activations(x, matrix.group_size)
    sums = rounded.sum(-1, dtype=torch.int32).to(torch.float32)
    result = x.new_zeros(len(x), matrix.rows)
    for begin, end in matrix.parts():
        codes, scales, zero_points = unpack(matrix.rows_at(begin, end))
        part = result[:, begin:end]
        for group in range(matrix.groups):
            dots = rounded[:, group].double() @ codes[:, group].double().T
            shift = zero_points[:, group].float() * -sums[:, group, None]
            part += steps[:, group, None] * (scales[:, group].float() * (dots.to(torch.float32) + shift))
    return result


def dense_product(x: torch.Tensor, matrix: GridMatrix) -> torch.Tensor:
    """(..., width) times the matrix in the arithmetic of `x`, without rounding activations: (..., rows)."""
    parts = [x @ dequantize(matrix.rows_at(*part), x.dtype).T for part in matrix.parts()]
    return torch.cat(parts, -1)


def transposed_product(y: torch.Tensor, matrix: GridMatrix) -> torch.Tensor:
    """(..., rows) times the transposed matrix, (..., width), in float32 without rounding `y`; in the dtype of `y`."""
    result = y.new_zeros(*y.shape[:-1], matrix.width, dtype=torch.float32)
    for begin, end in matrix.parts():
        result = result + y[..., begin:end].float() @ dequantize(matrix.rows_at(begin, end))
    return result.to(y.dtype)
