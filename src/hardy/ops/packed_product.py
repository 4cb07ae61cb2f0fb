"""What all products with a packed matrix share: checks, the operator for torch, gradients, the compiled paths.

Activations are rounded to int8 for each token and group: step = largest magnitude / 127, halves to even. A group whose
largest activation is below 2^-100 counts as zero; a token with an activation that is NaN or infinite gives NaN.
"""

import functools
from collections.abc import Callable
from typing import Any, Generic

import torch

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.packed_matrix import Matrix, PackedMatrix, dequantize
from hardy.ops.rounding import grouped

# Below, 127 / largest would overflow.
SMALLEST = 2.0**-100


class PackedProduct(Generic[Matrix]):
    """`product(x, matrix)`: (..., width) times the matrix, (..., rows), in the dtype of `x`.

    The gradient with respect to `x` is that of the product with the dense matrix: rounding counts as the identity. For
    `torch.compile` and `torch.export` it is one operator, `torch.ops.hardy.NAME`.

    Args:
        name: of the operator, and of the compiled kernel.
        kind: the class of its matrices.
        reference: (tokens, width) float32 times a matrix in torch, with the bits of the compiled kernel.
        elsewhere: `x`, detached, times a matrix that is not on the CPU; by default with the dense matrix in the dtype
            of `x`.

    Raises:
        InputError: the last dimension of `x` is not `matrix.width`, or it is not floating or on another device.
    """

    def __init__(
        self,
        name: str,
        kind: type[Matrix],
        reference: Callable[[torch.Tensor, Matrix], torch.Tensor],
        elsewhere: Callable[[torch.Tensor, Matrix], torch.Tensor] | None = None,
    ) -> None:
        self.name, self.reference, self.elsewhere = name, reference, elsewhere or float_product
        self.operator = _operator(name, kind, self.now)

    def __call__(self, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        if x.ndim == 0 or x.shape[-1] != matrix.width:
            raise InputError(f"the matrix takes (..., {matrix.width}), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise InputError(f"activations must be floating, got {x.dtype}")
        if x.device != matrix.codes.device:
            raise InputError(f"activations are on {x.device}, the matrix is on {matrix.codes.device}")
        if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
            return self.operator(x, *_parts(matrix))
        return self.now(x, matrix)  # an operator costs 15 microseconds more, and a product takes fifty

    def now(self, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        """The product without checks and gradients."""
        if x.device.type != "cpu":
            return self.elsewhere(x.detach(), matrix)
        path = kernels.path()
        if path is not None:
            return self.compiled(x, matrix, path)
        tokens = x.detach().reshape(-1, matrix.width).to(torch.float32)
        return self.reference(tokens, matrix).to(x.dtype).view(*x.shape[:-1], matrix.rows)

    def compiled(self, x: torch.Tensor, matrix: Matrix, path: str) -> torch.Tensor:
        """The product on CPU, on a path of `hardy.ops.kernels.paths()`."""
        kernel = getattr(kernels.extension(), self.name)
        # Every call into torch that does nothing still takes a microsecond.
        x = x.detach() if x.requires_grad else x  # which DLPack refuses
        is_float32 = x.dtype is torch.float32
        activations = x if is_float32 and x.is_contiguous() else x.to(torch.float32).contiguous()
        output = torch.empty((*x.shape[:-1], matrix.rows), dtype=torch.float32)
        kernel(path, activations, *_parts(matrix), output, torch.get_num_threads())
        return output if is_float32 else output.to(x.dtype)

    def bound(self, x: torch.Tensor, matrix: Matrix, output: torch.Tensor) -> Callable[[], object]:
        """The product as a call that reads `x` (width,) and writes `output` (rows,), float32 on CPU, again and again.

        For loops in which checks and conversions would be a good part of the time.
        """
        path, module = kernels.path(), kernels.extension()
        if path is None or module is None:
            return lambda: output.copy_(self.reference(x[None], matrix)[0])
        kernel = getattr(module, self.name)
        return functools.partial(kernel, path, x, *_parts(matrix), output, torch.get_num_threads())


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


def float_product(x: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
    """(..., width) times the matrix in the arithmetic of `x`, without rounding activations: (..., rows)."""
    parts = [x @ dequantize(matrix.rows_at(*part), x.dtype).T for part in matrix.parts()]
    return torch.cat(parts, -1)


def transposed_product(y: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
    """(..., rows) times the transposed matrix, (..., width), in float32 without rounding `y`; in the dtype of `y`."""
    result = y.new_zeros(*y.shape[:-1], matrix.width, dtype=torch.float32)
    for begin, end in matrix.parts():
        result = result + y[..., begin:end].float() @ dequantize(matrix.rows_at(begin, end))
    return result.to(y.dtype)


def _parts(matrix: PackedMatrix) -> tuple[torch.Tensor, torch.Tensor, int, int, int, int]:
    return matrix.codes, matrix.scales, matrix.rows, matrix.width, matrix.group_size, matrix.planes


def _operator(
    name: str, kind: type[Matrix], act: Callable[[torch.Tensor, Matrix], torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """`torch.ops.hardy.NAME`, its transpose, and the gradients of both."""

    def matrix_of(
        codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, group_size: int, planes: int
    ) -> Matrix:
        return kind(codes=codes, scales=scales, rows=rows, width=width, group_size=group_size, planes=planes)

    @torch.library.custom_op(f"hardy::{name}", mutates_args=())
    def product(
        x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, group_size: int, planes: int
    ) -> torch.Tensor:
        return act(x, matrix_of(codes, scales, rows, width, group_size, planes))

    @product.register_fake
    def _(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, *sizes: int) -> torch.Tensor:
        return x.new_empty(*x.shape[:-1], rows)

    @torch.library.custom_op(f"hardy::{name}_transposed", mutates_args=())
    def transposed(
        y: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, group_size: int, planes: int
    ) -> torch.Tensor:
        return transposed_product(y, matrix_of(codes, scales, rows, width, group_size, planes))

    @transposed.register_fake
    def _(
        y: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, rows: int, width: int, *sizes: int
    ) -> torch.Tensor:
        return y.new_empty(*y.shape[:-1], width)

    def keep_matrix(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, codes, scales, *ctx.sizes = inputs
        ctx.save_for_backward(codes, scales)

    def gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return transposed(gradient, *ctx.saved_tensors, *ctx.sizes), *(None,) * 6

    def gradient_of_transposed(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return float_product(gradient, matrix_of(*ctx.saved_tensors, *ctx.sizes)), *(None,) * 6

    product.register_autograd(gradient, setup_context=keep_matrix)
    transposed.register_autograd(gradient_of_transposed, setup_context=keep_matrix)
    return product
