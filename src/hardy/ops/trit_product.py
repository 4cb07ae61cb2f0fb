"""Activations times a matrix of trit-planes, which stays packed: nothing of the dense matrix's size is made.

The arithmetic, the same to the last bit in the torch reference here, in the compiled paths and for any number of
threads:

1. The activations of a token in a group are rounded to int8 (see `hardy.ops.packed_product`).
2. For each plane the dot product with the trits, in integers, is exact.
3. In float32, group after group: result += step * (scale_0 * dot_0 + scale_1 * dot_1 + ...), rounded at every
   operation.

So the one approximation is the rounding of the activations (about 6e-3 of the output on Gaussian data);
`packed_product.float_product` is the product without it.
"""

import torch

from hardy.ops import kernels
from hardy.ops.packed_product import PackedProduct, quantize_activations
from hardy.ops.trit_matrix import TritMatrix, unpack

# Sums of codes times trits are integers that float32 holds up to here.
_EXACT_GROUP = 2**24 // 127


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


def _elsewhere(x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    """On CUDA Triton's kernels, where Triton is installed; else the reference."""
    tokens = x.reshape(-1, matrix.width)
    if x.device.type == "cuda" and (triton := kernels.triton("trit_product_triton")) is not None:
        tokens = tokens if x.dtype in triton.DTYPES else tokens.to(torch.float32)
        result = triton.trit_product_triton(tokens, matrix)
    else:
        result = trit_product_reference(tokens.to(torch.float32), matrix)
    return result.to(x.dtype).view(*x.shape[:-1], matrix.rows)


trit_product = PackedProduct("trit_product", TritMatrix, trit_product_reference, _elsewhere)
