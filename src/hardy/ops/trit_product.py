"""Activations times a matrix of trit-planes, which stays packed: nothing of the dense matrix's size is made.

The arithmetic, the same to the last bit in the torch reference here, in the compiled paths and for any number of
threads:

1. The activations of a token in a group are rounded to int8: step = largest magnitude / 127, halves to even.
2. For each plane the dot product with the trits, in integers, is exact.
3. In float32, group after group: result += step * (scale_0 * dot_0 + scale_1 * dot_1 + ...), rounded at every
   operation.

So the one approximation is the rounding of the activations (about 6e-3 of the output on Gaussian data);
`float_product` is the product without it. A group whose largest activation is below 2^-100 counts as zero; a token
with an activation that is NaN or infinite gives NaN.
"""

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

from hardy.errors import InputError, install
from hardy.ops import kernels
from hardy.ops.rounding import grouped
from hardy.ops.trit_matrix import TritMatrix, dequantize, unpack

# Below, 127 / largest would overflow.
SMALLEST = 2.0**-100
# Sums of codes times trits are integers that float32 holds up to here.
_EXACT_GROUP = 2**24 // 127


def trit_product(x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    """(..., width) times the matrix: (..., rows), in the dtype of `x`.

    On CPU the compiled kernels, where there are any; on CUDA Triton's, where Triton is installed; else the reference.
    The gradient with respect to `x` is that of the product with the dense matrix: rounding counts as the identity.
    For `torch.compile` and `torch.export` it is one operator, `torch.ops.hardy.trit_product`.

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
    return _forward(x, matrix)  # an operator costs 15 microseconds more, and a product takes fifty


def _parts(matrix: TritMatrix) -> tuple[torch.Tensor, torch.Tensor, int, int, int, int]:
    return matrix.codes, matrix.scales, matrix.rows, matrix.width, matrix.group_size, matrix.planes


def _matrix(
    codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, group_size: int, planes: int
) -> TritMatrix:
    return TritMatrix(codes=codes, scales=scales, rows=rows, width=width, group_size=group_size, planes=planes)


@torch.library.custom_op("hardy::trit_product", mutates_args=())
def _product(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, group_size: int, planes: int
) -> torch.Tensor:
    return _forward(x, _matrix(codes, scales, rows, width, group_size, planes))


@_product.register_fake
def _(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, *sizes: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], rows)


@torch.library.custom_op("hardy::trit_product_transposed", mutates_args=())
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
    return float_product(gradient, _matrix(*ctx.saved_tensors, *ctx.sizes)), *(None,) * 6


_product.register_autograd(_gradient, setup_context=_keep_matrix)
_transposed.register_autograd(_gradient_of_transposed, setup_context=_keep_matrix)


def _forward(x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    if x.device.type == "cpu" and (path := kernels.path()) is not None:
        return compiled(x, matrix, path)
    tokens = x.detach().reshape(-1, matrix.width)
    if x.device.type == "cuda" and kernels.wanted() != "torch" and (triton := _triton()) is not None:
        tokens = tokens if x.dtype in triton.DTYPES else tokens.to(torch.float32)
        result = triton.trit_product_triton(tokens, matrix)
    else:
        result = trit_product_reference(tokens.to(torch.float32), matrix)
    return result.to(x.dtype).view(*x.shape[:-1], matrix.rows)


def compiled(x: torch.Tensor, matrix: TritMatrix, path: str) -> torch.Tensor:
    """`trit_product` on CPU, on a path of `hardy.ops.kernels.paths()`."""
    module = kernels.extension()
    assert module is not None
    # Every call into torch that does nothing still takes a microsecond, and a product takes fifty.
    x = x.detach() if x.requires_grad else x  # which DLPack refuses
    is_float32 = x.dtype is torch.float32
    activations = x if is_float32 and x.is_contiguous() else x.to(torch.float32).contiguous()
    output = torch.empty((*x.shape[:-1], matrix.rows), dtype=torch.float32)
    module.trit_product(
        path,
        activations,
        matrix.codes,
        matrix.scales,
        matrix.rows,
        matrix.width,
        matrix.group_size,
        matrix.planes,
        output,
        torch.get_num_threads(),
    )
    return output if is_float32 else output.to(x.dtype)


def bound(x: torch.Tensor, matrix: TritMatrix, output: torch.Tensor) -> Callable[[], object]:
    """The product as a call that reads `x` (width,) and writes `output` (rows,), both float32 on CPU, again and again.

    For loops in which the checks and conversions of `trit_product` would be a good part of the time.
    """
    path, module = kernels.path(), kernels.extension()
    if path is None or module is None:
        return lambda: output.copy_(trit_product_reference(x[None], matrix)[0])
    return functools.partial(module.trit_product, path, x, *_parts(matrix), output, torch.get_num_threads())


def quantize_activations(x: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations (tokens, width) float32 as int8 codes (tokens, groups, group_size) and steps (tokens, groups).

    The last group is filled up with zeros. Where an activation is NaN or infinite the step of its group is NaN.
    """
    groups = grouped(x, group_size)
    largest = groups.abs().amax(-1)
    usable = torch.isfinite(largest) & (largest >= SMALLEST)
    # A tensor, since torch turns a division by or of a plain number into a product with a reciprocal.
    limit = torch.full_like(largest, 127)
    steps = torch.where(usable, limit / largest, 0)
    codes = torch.where(usable[..., None], groups * steps[..., None], 0).round().to(torch.int8)
    step = torch.where(usable, largest / limit, 0)
    return codes, torch.where(torch.isfinite(largest), step, torch.nan)


def trit_product_reference(x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    """`trit_product` of (tokens, width) float32 in torch: the same bits as the compiled paths, on any device."""
    codes, steps = quantize_activations(x, matrix.group_size)
    exact = torch.float32 if matrix.group_size <= _EXACT_GROUP else torch.float64
    result = x.new_zeros(len(x), matrix.rows)
    for begin, end in matrix.parts():
        trits, scales = unpack(matrix.rows_at(begin, end))
        part = result[:, begin:end]
        for group in range(codes.shape[1]):
            activations = codes[:, group].to(exact)
            dots = [(activations @ plane[:, group].to(exact).T).to(torch.float32) for plane in trits]
            terms = [scale[:, group, 0].float() * dot for scale, dot in zip(scales, dots, strict=True)]
            sums = terms[0]
            for term in terms[1:]:
                sums = sums + term
            part += steps[:, group, None] * sums
    return result


def float_product(x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    """(..., width) times the matrix in the arithmetic of `x`, without rounding activations: (..., rows)."""
    parts = [x @ dequantize(matrix.rows_at(*part), x.dtype).T for part in matrix.parts()]
    return torch.cat(parts, -1)


def transposed_product(y: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    """(..., rows) times the transposed matrix, (..., width), in float32 without rounding `y`; in the dtype of `y`."""
    result = y.new_zeros(*y.shape[:-1], matrix.width, dtype=torch.float32)
    for begin, end in matrix.parts():
        result = result + y[..., begin:end].float() @ dequantize(matrix.rows_at(begin, end))
    return result.to(y.dtype)


@functools.cache
def _triton() -> Any:
    """The Triton version, or None where Triton is not installed, which is said once."""
    try:
        return importlib.import_module("hardy.ops.trit_product_triton")
    except ImportError:
        warnings.warn(
            f"hardy multiplies on CUDA without its Triton kernels, many times slower: {install('cuda')}",
            RuntimeWarning,
            stacklevel=5,
        )
        return None
