"""Rounding with error feedback: what rounding one input's weights does to the outputs, the inputs after it make up for.

Source: GPTQ (arXiv 2210.17323). H is the Hessian of the squared output error, the Gram matrix of the inputs, and U the
upper triangular factor of its inverse, U'U = H^-1. The output error of a row of rounded weights q is then the sum of
`((w~_i - q_i) / U_ii)^2` over its inputs, w~_i the weight as corrected for all errors before it. Where we differ: U
comes from one Cholesky factorisation of H in reversed order and one triangular inverse, not from three factorisations;
corrections are gathered when a block of inputs is reached, not scattered over all that follow; and groups that share a
scale stay whole in any order of visit, so that the scale is of corrected weights and nothing has to be permuted.

Axes: columns (in, out) is a weight transposed, so that all weights of one input are contiguous; factor (in, in).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch

from hardy.errors import InputError
from hardy.ops import kernels

Order = Literal["given", "activation"]

# Inputs whose corrections are gathered with one matrix product.
BLOCK = 64


def damped_cholesky(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """L, (in, in) lower triangular float64, with LL' = hessian + ridge I; ridge = damping * mean of the diagonal.

    An input that was always zero has neither error nor part in another's: its row and column are those of the identity.

    Raises:
        InputError: the damped matrix is not positive definite, as without damping when there are fewer tokens than
            inputs.
    """
    damped = hessian.double().clone()
    size = len(damped)
    del hessian  # of a wide layer each such matrix is much memory
    diagonal = damped.diagonal()
    dead = diagonal <= 0
    live = int((~dead).sum())
    diagonal += damping * diagonal.sum() / max(1, live)
    diagonal[dead] = 1
    lower, failed = torch.linalg.cholesky_ex(damped)
    pivots = lower.diagonal().square()
    # A singular matrix may pass with pivots of rounding errors.
    if failed.any() or pivots.min() <= size * torch.finfo(torch.float64).eps * pivots.max():
        raise InputError(
            f"the Gram matrix of {size} inputs is singular at damping {damping:g}; "
            "give more calibration tokens than inputs, or a larger damping"
        )
    return lower


def inverse_factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """U, (in, in) upper triangular float64, with U'U the inverse of what `damped_cholesky` factors.

    Raises:
        InputError: as there.
    """
    turned = hessian.flip(-2, -1)
    del hessian
    lower = damped_cholesky(turned, damping)
    del turned
    _invert(lower)
    return lower.flip(-2, -1)


def _invert(lower: torch.Tensor) -> None:
    """Put the inverse of a lower triangular matrix in its place, by halves, so that most of it is matrix products."""
    half = len(lower) // 2
    if half < BLOCK:
        eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    for part in (slice(half), slice(half, None)):
        _invert(lower[part, part])
    lower[half:, :half] = -lower[half:, half:] @ (lower[half:, :half] @ lower[:half, :half])


def compiled_for(columns: torch.Tensor) -> bool:
    """Whether the compiled kernels round these columns: float32 on the CPU, where there are any."""
    return columns.device.type == "cpu" and columns.dtype == torch.float32 and kernels.path() is not None


def corrected(columns: torch.Tensor, errors: torch.Tensor, factor: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """Columns `begin..end` (end - begin, out) with what the errors of all before them ask of them."""
    return torch.addmm(columns[begin:end], factor[:begin, begin:end].mT, errors[:begin], alpha=-1)


def round_columns(
    columns: torch.Tensor, factor: torch.Tensor, nearest: Callable[[int, torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round one input after the other, each corrected for the errors before it.

    Args:
        columns: (in, out).
        factor: of `inverse_factor`, or the block of it that belongs to these inputs; of the dtype of `columns`.
        nearest: `nearest(i, weights)` (out,) -> the rounded weights (out,) of input i.

    Returns:
        The rounded columns and their errors in units of the output, both (in, out): squares of the errors add up to the
        squared error of the outputs.
    """
    rounded, errors = torch.empty_like(columns), torch.empty_like(columns)
    diagonal = factor.diagonal().tolist()
    for begin in range(0, len(columns), BLOCK):
        end = min(begin + BLOCK, len(columns))
        block = corrected(columns, errors, factor, begin, end)
        for i in range(begin, end):
            weights = block[i - begin]
            if i > begin:
                weights = torch.addmv(weights, errors[begin:i].mT, factor[begin:i, i], alpha=-1)
            rounded[i] = nearest(i, weights)
            torch.sub(weights, rounded[i], out=errors[i])
            errors[i] /= diagonal[i]
    return rounded, errors


def visits(powers: torch.Tensor, size: int, order: Order) -> list[tuple[int, torch.Tensor]]:
    """The groups in the order in which they are visited, each with its inputs in theirs.

    "given" is the stored order; "activation" visits the groups of the largest mean power first and in each the inputs
    of the largest power, so that the errors which count most have the most inputs left to make up for them.

    Args:
        powers: (in,), mean square or sum of squares of each input.
        size: inputs of a group; the last may have fewer.
    """
    groups = [(index, part) for index, part in enumerate(torch.arange(len(powers), device=powers.device).split(size))]
    if order == "given":
        return groups
    groups = [(index, part[powers[part].argsort(descending=True, stable=True)]) for index, part in groups]
    return sorted(groups, key=lambda group: -powers[group[1]].mean().item())


def quantize_groups(
    weight: torch.Tensor,
    gram: torch.Tensor,
    size: int,
    damping: float,
    order: Order,
    quantize: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, Any]],
) -> list[tuple[torch.Tensor, Any]]:
    """Quantize group after group, each corrected for the errors of those before it.

    Args:
        weight: (out, in).
        gram: (in, in), sum of x x^T over tokens.
        size: inputs of a group.
        damping: of `inverse_factor`.
        order: of `visits`.
        quantize: takes the group's corrected columns (inputs, out) and its diagonal block of the factor; gives what
            each weight became (..., inputs, out), errors as of `round_columns`, and what else to store for the group.

    Returns:
        For each group, as stored: what the weights became, inputs in the stored order too; and whatever else.

    Raises:
        InputError: a weight or an entry of `gram` is NaN or infinite, they do not fit each other, or `gram` is singular
            and `damping` zero.
    """
    if gram.shape != (weight.shape[1], weight.shape[1]):
        raise InputError(
            f"a weight of {weight.shape[1]} inputs needs a Gram matrix of as many, got {tuple(gram.shape)}"
        )
    for name, values in (("weights", weight), ("entries of the Gram matrix", gram)):
        if not torch.isfinite(values).all():
            raise InputError(f"{int((~torch.isfinite(values)).sum())} {name} of {values.numel()} are NaN or infinite")
    groups = visits(gram.diagonal(), size, order)
    inputs = torch.cat([members for _, members in groups])
    columns = weight.T[inputs].to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    factor = inverse_factor(gram[inputs[:, None], inputs], damping).to(columns.dtype)
    errors = torch.empty_like(columns)
    found: dict[int, tuple[torch.Tensor, Any]] = {}
    begin = 0
    for index, members in groups:
        end = begin + len(members)
        group = corrected(columns, errors, factor, begin, end)
        became, errors[begin:end], rest = quantize(group, factor[begin:end, begin:end].contiguous())
        found[index] = became[..., members.argsort(), :], rest
        begin = end
    return [found[index] for index in range(len(groups))]


def hessian_root(factor: torch.Tensor) -> torch.Tensor:
    """R, (inputs, inputs) float64: an error e (out, inputs) of a group costs `|e R|^2` if all inputs after it adapt.

    The inverse of its block of the factor, in units in which a mean input has power 1.
    """
    eye = torch.eye(len(factor), dtype=torch.float64, device=factor.device)
    root = torch.linalg.solve_triangular(factor.double(), eye, upper=True)
    return root / root.square().sum(0).mean().sqrt()
