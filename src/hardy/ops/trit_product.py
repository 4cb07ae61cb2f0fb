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
from typing import Any

import torch

from hardy.errors import InputError
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

    Raises:
        InputError: the last dimension of `x` is not `matrix.width`, or it is not floating or on another device.
    """
    if x.ndim == 0 or x.shape[-1] != matrix.width:
        raise InputError(f"the matrix takes (..., {matrix.width}), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise InputError(f"activations must be floating, got {x.dtype}")
    if x.device != matrix.codes.device:
        raise InputError(f"activations are on {x.device}, the matrix is on {matrix.codes.device}")
    if x.requires_grad and torch.is_grad_enabled():
        return _Product.apply(x, matrix)
    return _forward(x, matrix)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
        ctx.matrix = matrix
        return _forward(x, matrix)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return transposed_product(gradients[0], ctx.matrix), None


def _forward(x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    if x.device.type == "cpu" and (path := kernels.path()) is not None:
        return compiled(x, matrix, path)
    tokens = x.detach().reshape(-1, matrix.width).to(torch.float32)
    if x.device.type == "cuda" and kernels.wanted() != "torch" and (triton := _triton()) is not None:
        result = triton.trit_product_triton(tokens, matrix)
    else:
        result = trit_product_reference(tokens, matrix)
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
            'hardy multiplies on CUDA without its Triton kernels, many times slower: pip install "hardy[cuda]"',
            RuntimeWarning,
            stacklevel=5,
        )
        return None
