"""Graph networks to be taught: GraNT's flexible GCN, and GCN and GIN of torch-geometric."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.core.rng import derive
from hardy.teach.graphs import GraphSet, geometric

MODELS = ("flexible", "gcn", "gin")


def normalised(edge_index: torch.Tensor, nodes: int) -> torch.Tensor:
    """Weights of the edges of D^(-1/2) A D^(-1/2), without self loops, (edges,)."""
    degree = torch.bincount(edge_index[1], minlength=nodes)
    scale = degree.clamp(min=1).to(torch.get_default_dtype()).rsqrt()
    return scale[edge_index[0]] * scale[edge_index[1]]


def sparse(rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, nodes: int) -> torch.Tensor:
    """A sparse matrix (nodes, nodes) in rows."""
    if len(rows) > 1 and bool((rows[1:] < rows[:-1]).any()):
        rows, order = rows.sort(stable=True)
        columns, values = columns[order], values[order]
    ends = torch.zeros(nodes + 1, dtype=torch.long, device=rows.device)
    ends[1:] = torch.bincount(rows, minlength=nodes).cumsum(0)
    with warnings.catch_warnings():  # that torch calls compressed rows a beta
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state", UserWarning)
        return torch.sparse_csr_tensor(ends, columns, values, (nodes, nodes), check_invariants=False)


class _Propagated(torch.autograd.Function):
    """A x of a sparse A with its transpose at hand, which torch would otherwise make anew in every backward pass."""

    @staticmethod
    def forward(x: torch.Tensor, matrix: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
        return matrix @ x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        _, ctx.matrix, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.transposed @ slopes[0].contiguous(), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return ctx.matrix @ tangents[0]


Propagate = Callable[[torch.Tensor], torch.Tensor]


def propagation(edge_index: torch.Tensor, nodes: int) -> Propagate:
    """x -> A x, (nodes, features), with A normalised and without self loops."""
    weights = normalised(edge_index, nodes)
    source, target = edge_index
    matrix, transposed = sparse(target, source, weights, nodes), sparse(source, target, weights, nodes)

    def propagate(x: torch.Tensor) -> torch.Tensor:
        found: Any = _Propagated.apply(x, matrix, transposed)
        return found

    return propagate


class FlexibleConv(nn.Module):
    """[X, AX, ..., A^(orders - 1) X] W, with A normalised and without self loops.

    GraNT (arXiv 2505.14170) writes it [I, A, ..., A^(orders - 1)] blockdiag(X) W, which is the same
    and takes `orders` times the memory. Computed as X W_0 + A (X W_1 + A (X W_2 + ...)), so that A meets the narrower
    side of a layer that narrows.

    Args:
        in_features, out_features: of a node.
        orders: powers of A, that of 0 included.
    """

    def __init__(self, in_features: int, out_features: int, orders: int) -> None:
        super().__init__()
        self.orders = checks.integer("orders", orders, at_least=1)
        self.weight = nn.Parameter(torch.empty(orders * in_features, out_features))
        nn.init.kaiming_uniform_(self.weight.T)

    def forward(self, x: torch.Tensor, propagate: Propagate) -> torch.Tensor:
        """(nodes, out_features) of (nodes, in_features)."""
        if x.shape[1] <= self.weight.shape[1]:
            powers = [x]
            for _ in range(self.orders - 1):
                powers.append(propagate(powers[-1]))
            return torch.cat(powers, 1) @ self.weight
        parts = (x @ self.weight.view(self.orders, x.shape[1], -1).movedim(0, 1).flatten(1)).chunk(self.orders, 1)
        found = parts[-1]
        for part in reversed(parts[:-1]):
            found = part + propagate(found.contiguous())
        return found


class FlexibleGCN(nn.Module):
    """Flexible convolutions with ReLU between them.

    Args:
        features: of a node.
        widths: of each layer.
        orders: of each layer.
    """

    def __init__(self, features: int, widths: Sequence[int], orders: Sequence[int]) -> None:
        super().__init__()
        sizes = [features, *widths]
        self.layers = nn.ModuleList(
            FlexibleConv(before, after, order) for before, after, order in zip(sizes, widths, orders, strict=False)
        )

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """(nodes, the last width)."""
        propagate = propagation(edge_index, len(x))
        for layer in self.layers:
            x = torch.relu(layer(x, propagate))
        return x


class GraphNetwork(nn.Module):
    """An encoder of nodes, the mean over the nodes of each graph if graphs are judged, and a linear head.

    Args:
        encoder: of (nodes, features) and edges to (nodes, width).
        width: of the encoder's output.
        outputs: of the head.
        graphs: whether whole graphs are judged, or nodes.
    """

    def __init__(self, encoder: nn.Module, width: int, outputs: int, *, graphs: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.graphs = encoder, nn.Linear(width, outputs), graphs

    def forward(self, batch: Any) -> torch.Tensor:
        """(graphs, outputs) or (nodes, outputs) of a PyG batch."""
        nodes = self.encoder(batch.x, batch.edge_index)
        if not self.graphs:
            return self.head(nodes)
        sums = nodes.new_zeros(batch.num_graphs, nodes.shape[1]).index_add(0, batch.batch, nodes)
        counts = nodes.new_zeros(batch.num_graphs).index_add(0, batch.batch, nodes.new_ones(len(nodes)))
        return self.head(sums / counts.clamp(min=1)[:, None])


def network(
    model: str, data: GraphSet, *, width: int = 64, layers: int = 3, orders: Sequence[int] = (3, 2), seed: int = 0
) -> GraphNetwork:
    """A network for `data`, its weights drawn from `seed`.

    Args:
        model: "flexible" (GraNT's), "gcn" or "gin".
        data: whose features, outputs and task it fits.
        width: of hidden layers.
        layers: of GCN and GIN.
        orders: of the flexible GCN's layers, which are as many.
        seed: of the weights.

    Raises:
        InputError: the model is unknown.
    """
    checks.one_of("model", model, MODELS)
    geometric()
    from torch_geometric.nn.models import GCN, GIN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        if model == "flexible":
            encoder: nn.Module = FlexibleGCN(data.features, [width] * len(orders), orders)
        else:
            encoder = (GCN if model == "gcn" else GIN)(data.features, width, layers)
        return GraphNetwork(encoder, width, data.outputs, graphs=data.task.startswith("graph"))
