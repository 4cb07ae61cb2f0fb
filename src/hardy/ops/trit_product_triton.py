"""The trit product on CUDA, in Triton: the same integers and the same order of float operations as elsewhere."""

import torch

from hardy.ops import trit_tiles_triton, trit_vector_triton
from hardy.ops.trit_matrix import TritMatrix

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def trit_product_triton(x: torch.Tensor, matrix: TritMatrix) -> torch.Tensor:
    """(tokens, width) times the matrix, both on one CUDA device (or anywhere in Triton's interpreter).

    Returns:
        (tokens, rows) in the dtype of `x`, which is one of `DTYPES`.
    """
    x = x.contiguous()
    output = torch.empty(len(x), matrix.rows, dtype=x.dtype, device=x.device)
    if len(x) == 0:
        return output
    if trit_vector_triton.takes(len(x), matrix):
        trit_vector_triton.few_tokens(x, matrix, output)
    else:
        trit_tiles_triton.many_tokens(x, matrix, output)
    return output
