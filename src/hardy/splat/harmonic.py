"""Values in a hole that are as smooth as its rim allows: each the mean of its neighbours."""

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve

from hardy.errors import InputError


def harmonic_fill(values: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """`values` with those in the hole replaced by the solution of Laplace's equation; none flows over the border.

    What is linear around the hole is linear in it, too: colors that fade, and the inverse depth of a plane.

    Args:
        values: (height, width) or (height, width, channels); inside the hole they may be anything.
        hole: (height, width) bool.

    Raises:
        InputError: nothing is left outside the hole, or shapes do not fit.
    """
    if hole.shape != values.shape[:2]:
        raise InputError(f"a hole must have the size of its values, got {tuple(hole.shape)}, {tuple(values.shape)}")
    inside = hole.cpu().numpy()
    count = int(inside.sum())
    if not count:
        return values.clone()
    if count == inside.size:
        raise InputError("a hole that covers everything cannot be filled from its rim")
    height, width = inside.shape
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(count)
    known = np.where(inside[..., None], 0.0, values.detach().cpu().double().reshape(height, width, -1).numpy())
    matrix_rows, matrix_columns, entries = [np.arange(count)], [np.arange(count)], [np.zeros(count)]
    given = np.zeros((count, known.shape[-1]))
    y, x = inside.nonzero()
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        there = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        entries[0] += there
        neighbour = np.full(count, -1)
        neighbour[there] = number[(y + dy)[there], (x + dx)[there]]
        rim = there & (neighbour < 0)
        given[rim] += known[(y + dy)[rim], (x + dx)[rim]]
        rows = (neighbour >= 0).nonzero()[0]
        matrix_rows.append(rows)
        matrix_columns.append(neighbour[rows])
        entries.append(np.full(len(rows), -1.0))
    places = (np.concatenate(matrix_rows), np.concatenate(matrix_columns))
    matrix = sparse.csc_matrix((np.concatenate(entries), places), shape=(count, count))
    solution = np.asarray(spsolve(matrix, given)).reshape(given.shape)
    filled = values.detach().clone()
    filled[hole] = torch.from_numpy(solution).to(values).reshape(count, *values.shape[2:])
    return filled
