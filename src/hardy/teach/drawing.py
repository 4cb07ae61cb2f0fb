"""Graphs and molecules as pictures, for the page of `hardy teach`."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from hardy.report.pictures import Pictures
from hardy.teach.graphs import GraphSet

SIZE = 220
"""Pixels of a side."""
MOST_NODES = 400
"""That are drawn; the places of more would take their square in memory."""


def chosen(data: GraphSet, arm: str, values: Mapping[str, float], count: int) -> Pictures:
    """The examples of highest and of lowest score: `values` has their ids as "first 0", "last 0", and their scores."""
    count = sum(f"first {rank}" in values for rank in range(count))
    arrays, told = [], []
    for end in ("first", "last"):
        ids = [int(values[f"{end} {rank}"]) for rank in range(count)]
        arrays.append([drawn(data, graph) for graph in ids])
        scores = [values[f"{end} {rank} score"] for rank in range(count)]
        told.append(", ".join(f"{graph} ({score:.3g})" for graph, score in zip(ids, scores, strict=True)))
    return Pictures.of(
        "What was chosen",
        f"Graphs that teach the most and the least at the last choice of {arm}, first seed; number in the data and "
        f"score: {told[0]}; {told[1]}.",
        ("most", "least"),
        tuple(str(rank + 1) for rank in range(count)),
        arrays,
    )


def drawn(data: GraphSet, graph: int) -> np.ndarray:
    """A molecule as chemists draw it, any other graph by its edges, (SIZE, SIZE, 3), 0 to 1."""
    if data.names:
        from rdkit import Chem
        from rdkit.Chem import Draw

        picture = Draw.MolToImage(Chem.MolFromSmiles(data.names[graph]), size=(SIZE, SIZE))
    else:
        picture = _picture(data.graphs[graph].edge_index, data.graphs[graph].num_nodes)
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def _picture(edges: torch.Tensor, nodes: int) -> Image.Image:
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2, 2.2), dpi=SIZE / 2.2)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if nodes > MOST_NODES:
        axes.text(0.5, 0.5, f"{nodes} nodes\n{edges.shape[1]} edges", ha="center", va="center")
    else:
        places = layout(edges, nodes).numpy()
        axes.add_collection(LineCollection(list(places[edges.T.numpy()]), colors="#8c959f", linewidths=0.8, zorder=1))
        axes.scatter(places[:, 0], places[:, 1], s=max(4, 240 / nodes), color="#0072b2", zorder=2)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


def layout(edges: torch.Tensor, nodes: int, steps: int = 60) -> torch.Tensor:
    """Places of nodes in the plane, (nodes, 2): joined ones attract, all repel each other (Fruchterman, Reingold)."""
    places = torch.rand(nodes, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joined = torch.zeros(nodes, nodes, dtype=torch.float64)
    joined[edges[0], edges[1]] = 1.0
    length = nodes**-0.5
    for step in range(steps):
        apart = places[:, None] - places
        distance = apart.norm(dim=2).clamp(min=0.01)
        force = length**2 / distance**2 - joined * distance / length
        shift = (apart * force[..., None]).sum(1)
        reach = 0.1 * (1 - step / steps)
        places += shift / shift.norm(dim=1, keepdim=True).clamp(min=1e-9) * reach
    return places
