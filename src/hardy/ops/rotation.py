"""Rotation of the last dimension by Hadamard matrices of powers of two, block after block: spreads out what sticks out.

Source: QuaRot (arXiv 2404.00456), whose online transforms these are, here of blocks instead of whole rows. The matrix R
is symmetric and orthogonal, so that it is its own inverse, and W x = (W R)(R x) for any weight: what is quantized is
W R, whose groups have no outliers left, and the layer rotates its input.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.hadamard import hadamard_transform


def check_rotation(size: int) -> None:
    """Raise `InputError` unless `size` is 0, for no rotation, or a power of two."""
    if type(size) is not int or size < 0 or size & (size - 1):
        raise InputError(f"rotation must be a power of two, or 0 for none, got {size!r}")


def rotate(x: torch.Tensor, size: int) -> torch.Tensor:
    """R x for each vector (..., width), where R has blocks of `size` and the powers of two that make up the rest.

    In the dtype of `x`, or float32 if that is less precise; `x` itself for a size of 0. The compiled path, for float32
    on the CPU, has the bits of the reference; elsewhere it is a product with the matrix of a block, one launch instead
    of twenty. For `torch.compile` it is one operator, `torch.ops.hardy.rotate`.
    """
    if not size or not x.numel():
        return x
    if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
        return _operator(x, size)
    return _now(x, size)


def rotate_into(x: torch.Tensor, size: int, output: torch.Tensor) -> None:
    """`rotate` of contiguous float32 on the CPU into `output`, which may be `x`."""
    if (path := kernels.path()) is None:
        output.copy_(rotate_reference(x, size))
    else:
        kernels.extension().rotate(path, x, size, output, torch.get_num_threads())  # pyright: ignore[reportOptionalMemberAccess]


def rotate_reference(x: torch.Tensor, size: int) -> torch.Tensor:
    """`rotate` in torch, in the dtype of `x`, by sums and differences."""
    return _by_block(x, size, lambda part: hadamard_transform(part) * (1 / math.sqrt(part.shape[-1])))


def rotate_by_matrix(x: torch.Tensor, size: int) -> torch.Tensor:
    """`rotate` in torch, in the dtype of `x`, by products with the matrix of a block."""
    return _by_block(x, size, lambda part: part @ _matrix(part.shape[-1], part.dtype, part.device))


def rotate_both(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """R A R for matrices A (..., width, width), with little memory beside the result; A itself for a size of 0."""
    if not size:
        return matrix
    found, begin = rotate_by_matrix(matrix, size), 0
    for count, width in _blocks(matrix.shape[-1], size):
        for _ in range(count):
            rows = found[..., begin : begin + width, :]
            rows.copy_(_matrix(width, rows.dtype, rows.device) @ rows)
            begin += width
    return found


def _by_block(x: torch.Tensor, size: int, turn: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`x` with its blocks, (..., how many, size), turned."""
    shapes = _blocks(x.shape[-1], size)
    parts = x.split([math.prod(shape) for shape in shapes], -1)
    turned = [turn(part.unflatten(-1, shape)).flatten(-2) for part, shape in zip(parts, shapes, strict=True)]
    return turned[0] if len(turned) == 1 else torch.cat(turned, -1)


@functools.lru_cache(64)
def _matrix(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return hadamard_transform(torch.eye(size, dtype=dtype, device=device)) * (1 / math.sqrt(size))


@functools.cache
def _blocks(width: int, size: int) -> list[tuple[int, int]]:
    """Blocks of a row, as (how many, size): of `size`, then of the powers of two that make up the rest."""
    rest = width % size
    found = [(width // size, size)] if width >= size else []
    return found + [(1, 1 << bit) for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def _now(x: torch.Tensor, size: int) -> torch.Tensor:
    x = x.detach() if x.dtype is torch.float64 else x.detach().to(torch.float32)
    if x.device.type != "cpu":
        return rotate_by_matrix(x, size)
    if x.dtype is torch.float64:
        return rotate_reference(x, size)
    output = torch.empty(x.shape)
    rotate_into(x.contiguous(), size, output)
    return output


@torch.library.custom_op("hardy::rotate", mutates_args=())
def _operator(x: torch.Tensor, size: int) -> torch.Tensor:
    return _now(x, size)


@_operator.register_fake
def _(x: torch.Tensor, size: int) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32), memory_format=torch.contiguous_format)


def _keep_size(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, ctx.size = inputs
    ctx.dtype = x.dtype


def _gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    return _operator(gradient, ctx.size).to(ctx.dtype), None


_operator.register_autograd(_gradient, setup_context=_keep_size)
