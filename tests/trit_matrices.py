"""Random trit-planes and activations for the tests of the packed form, its product and its layer."""

import numpy as np
import torch

from hardy.ops.trit_matrix import TritMatrix, pack


def random_trits(
    planes: int, rows: int, width: int, group_size: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Trits and scales of a matrix, its padding zero; one scale in eight is zero, some are float16's extremes."""
    rng = np.random.default_rng(seed)
    groups = -(-width // group_size)
    trits = torch.from_numpy(rng.integers(-1, 2, (planes, rows, groups * group_size), dtype=np.int8))
    trits[..., width:] = 0
    scales = torch.from_numpy(rng.random((planes, rows, groups, 1))).half()
    scales[torch.from_numpy(rng.random(scales.shape) < 1 / 8)] = 0
    scales.view(-1)[0], scales.view(-1)[-1] = 2.0**-24, 65504.0
    return trits.unflatten(-1, (groups, group_size)), scales


def activations(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_t(3, (tokens, width))).float()


def matrix_of(planes: int, rows: int, width: int, group_size: int, largest: float = 65504.0) -> TritMatrix:
    """A random matrix with scales of at most `largest`."""
    trits, scales = random_trits(planes, rows, width, group_size)
    return pack(trits, scales.clamp(max=largest), width)
