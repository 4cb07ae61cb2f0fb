"""Activations times a matrix of codes on a grid, which stays packed: nothing of the dense matrix's size is made.

To the last bit the same in the torch reference here, in the compiled paths and for any number of threads: activations
are rounded to int8 for each token and group, the dot product with the codes is exact in integers, and in float32, group
after group, result += step * (scale * (dot + zero_point * -sum of activations)), rounded at every operation. On a
device other than the CPU it is the product of the activations as they are with the dense matrix, a few rows at a time.
"""

import torch

from hardy.ops.grid_matrix import GridMatrix, unpack
from hardy.ops.packed_product import PackedProduct, quantize_activations


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


grid_product = PackedProduct("grid_product", GridMatrix, grid_product_reference)
