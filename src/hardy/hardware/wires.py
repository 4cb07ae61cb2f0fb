"""The voltage lost along the wires of a crossbar: what conductances it seems to have from outside.

Wires and cells are a linear network, so the lost voltage turns one conductance matrix into another, whatever the
inputs: it is found once per programming and costs nothing at use. `exact` solves the network; `first_order` is its
expansion in the wire resistance, for tiles too large to solve. CrossSim and MemTorch solve the network anew for
every input; nothing is gained by that while cells are ohmic.

The network: row i is driven at its left end, column j is read at zero volt at its bottom end; a segment of wire lies
between neighbouring cells, before the first cell of a row, and after the last cell of a column.
"""

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu

LARGEST_EXACT = 16_384
"""Cells of the largest tile that `exact` should be used for: a 128 x 128 array takes seconds."""


def exact(conductance: torch.Tensor, resistance: float) -> torch.Tensor:
    """Effective conductances by solving the nodal equations.

    Args:
        conductance: of the cells, (rows, columns), uS, non-negative; row 0 is farthest from the readout and column 0
            nearest to the drivers.
        resistance: of a segment of wire, ohm, positive.

    Returns:
        (rows, columns), uS: the current into column j per volt on row i.
    """
    cells = conductance.detach().double().cpu().numpy()
    rows, columns = cells.shape
    wire = 1e6 / resistance
    row_node = np.arange(rows * columns).reshape(rows, columns)
    column_node = row_node + rows * columns
    edges = [
        (row_node.ravel(), column_node.ravel(), cells.ravel()),
        (row_node[:, :-1].ravel(), row_node[:, 1:].ravel(), np.full(rows * (columns - 1), wire)),
        (column_node[:-1].ravel(), column_node[1:].ravel(), np.full((rows - 1) * columns, wire)),
    ]
    first, second, value = (np.concatenate(part) for part in zip(*edges, strict=True))
    ends = np.concatenate([row_node[:, 0], column_node[-1]])  # to the drivers and to the converters
    size = 2 * rows * columns
    diagonal = (
        np.bincount(first, value, size) + np.bincount(second, value, size) + np.bincount(ends, minlength=size) * wire
    )
    index = np.arange(size)
    matrix = coo_matrix(
        (
            np.concatenate([-value, -value, diagonal]),
            (np.concatenate([first, second, index]), np.concatenate([second, first, index])),
        ),
        shape=(size, size),
    )
    # The network is symmetric: the voltages on the rows' first nodes for one volt on a converter are the currents into
    # that converter for one volt on the rows. So the smaller side is solved for.
    factors = splu(matrix.tocsc())
    if columns <= rows:
        sources = np.zeros((size, columns))
        sources[column_node[-1], np.arange(columns)] = wire
        effective = wire * factors.solve(sources)[row_node[:, 0]]
    else:
        sources = np.zeros((size, rows))
        sources[row_node[:, 0], np.arange(rows)] = wire
        effective = wire * factors.solve(sources)[column_node[-1]].T
    return torch.from_numpy(effective).to(conductance)


def first_order(conductance: torch.Tensor, resistance: float) -> torch.Tensor:
    """Effective conductances to first order in the wire resistance; arguments and result as of `exact`.

    Each cell loses the voltage that the currents of its row and of its column make along the segments they share with
    it. `G / (1 + r (G A + S G))` rather than `G - r G (G A + S G)`: the same to first order, and never negative.
    """
    rows, columns = conductance.shape
    row, column = (torch.arange(n, device=conductance.device, dtype=conductance.dtype) for n in (rows, columns))
    along_row = torch.minimum(column[:, None], column) + 1
    along_column = rows - torch.maximum(row[:, None], row)
    lost = conductance @ along_row + along_column @ conductance
    return conductance / (1 + 1e-6 * resistance * lost)
