"""Sets of graphs with labels: text files, tables of SMILES, PyG folders, and those that GraNT generates.

Source of the generator: GraNT's code (arXiv 2505.14170): a product graphon, uniform features, and labels of a random
two-layer graph convolution, so that the labels hold no noise.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError, install
from hardy.reading import check_room, reading

Task: TypeAlias = Literal["graph-regression", "graph-classification", "node-regression", "node-classification"]
TASKS: tuple[Task, ...] = get_args(Task)
RESOLUTION = 1000
"""Places of a node in the graphon."""


@dataclasses.dataclass(frozen=True, eq=False)
class GraphSet:
    """Labelled graphs.

    Attributes:
        name: for titles.
        task: what is predicted.
        graphs: PyG's `Data`, with `x` (nodes, features), `edge_index` (2, edges) both ways, and `y`: (1, outputs) or
            (nodes, outputs) real numbers, NaN where missing, or (1,) or (nodes,) classes from 0. Real numbers of a
            classification are labels of 0 and 1 each, several of which may hold.
        outputs: numbers that a network must give for each label.
        names: of the graphs (SMILES), or none.
        notes: what was left out when they were read.
    """

    name: str
    task: Task
    graphs: list[Any]
    outputs: int
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        """Of a node."""
        return self.graphs[0].x.shape[1]

    def __len__(self) -> int:
        return len(self.graphs)

    def split(self, test: float, seed: int) -> tuple[list[int], list[int]]:
        """Ids of a random training and test part: graphs, or the nodes of a graph that is alone, as Cora is.

        Raises:
            InputError: there is but one graph, whose label is one.
        """
        alone = len(self) == 1
        if alone and self.task.startswith("graph"):
            raise InputError(f"{self.name} is one graph; at least 2 are needed to train on some and test on others")
        size = len(self.graphs[0].y) if alone else len(self)
        count = min(size - 1, max(1, round(test * size)))
        order = torch.randperm(size, generator=generator(seed, "split")).tolist()
        return order[count:], order[:count]


def geometric() -> Any:
    """The package torch_geometric.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch_geometric
        import torch_geometric.data
    except ImportError as error:
        raise InputError(f"graphs need torch-geometric: {install('graph')} ({error})") from None
    return torch_geometric


def consecutive(labels: Iterable[int]) -> tuple[list[int], tuple[int, ...]]:
    """Class labels renumbered from 0 without gaps, and what each stood for: [0, 2] -> [0, 1], (0, 2)."""
    labels = list(labels)
    known = tuple(sorted(set(labels)))
    places = {label: place for place, label in enumerate(known)}
    return [places[label] for label in labels], known


def read(path: str | Path, *, task: Task | None = None, target: str | None = None) -> GraphSet:
    """The graphs at `path`.

    Args:
        path: a text file (the number of graphs, then for each "nodes label" and a line "tag degree neighbour ..." per
            node), a .csv with a column of SMILES, or a folder of a PyG data set with processed/data.pt.
        task: what is predicted; by default classification of whole graphs for text, regression for .csv.
        target: column of a .csv that is predicted, or several by commas; the last numeric one by default.

    Raises:
        InputError: nothing is there, or a line, row or file cannot be read; it says which.
    """
    path = Path(path)
    if task is not None:
        checks.one_of("task", task, TASKS)
    if not path.exists():
        raise InputError(f"no graphs at {path}")
    geometric()
    with reading(path):
        if path.is_dir():
            return _read_folder(path, task)
        return _read_table(path, task, target) if path.suffix == ".csv" else _read_text(path, task)


def _read_text(path: Path, task: Task | None) -> GraphSet:
    lines = path.read_text(encoding="utf-8").splitlines()
    place = 0

    def numbers(least: int) -> list[int]:
        nonlocal place
        place += 1
        try:
            values = [int(word) for word in lines[place - 1].split()]
            if len(values) < least:
                raise ValueError(f"{least} numbers are needed")
        except (IndexError, ValueError) as error:
            raise InputError(f"{path}, line {place}: {error}") from None
        return values

    tags, edges, labels = [], [], []
    for _ in range(numbers(1)[0]):
        nodes, label = numbers(2)[:2]
        begun = place
        rows = [numbers(2) for _ in range(nodes)]
        for offset, row in enumerate(rows):
            if len(row) < 2 + row[1] or not all(0 <= other < nodes for other in row[2 : 2 + row[1]]):
                raise InputError(
                    f"{path}, line {begun + offset + 1}: its {row[1]} neighbours are not nodes of the graph"
                )
        tags.append([row[0] for row in rows])
        edges.append([(node, other) for node, row in enumerate(rows) for other in row[2 : 2 + row[1]]])
        labels.append(label)
    if not any(tags):
        raise InputError(f"{path} holds no graph with nodes")
    kinds, known_tags = consecutive(tag for each in tags for tag in each)
    places, known = consecutive(labels)
    check_room(
        f"{path}: a column for each of {len(known_tags)} tags of {len(kinds)} nodes", 12 * len(kinds) * len(known_tags)
    )
    task = task or "graph-classification"
    features = torch.nn.functional.one_hot(torch.tensor(kinds), len(known_tags)).float()
    graphs, first = [], 0
    for graph, each in enumerate(tags):
        if not each:
            raise InputError(f"{path}: graph {graph} has no nodes")
        y: torch.Tensor = torch.tensor([places[graph]])
        if task == "graph-regression":
            y = torch.tensor([[float(labels[graph])]])
        graphs.append(_data(features[first : first + len(each)], edges[graph], y))
        first += len(each)
    if task.startswith("node"):
        raise InputError(f"{path} has labels of graphs, not of nodes: the task cannot be {task}")
    return GraphSet(path.stem, task, graphs, 1 if task == "graph-regression" else len(known))


def _read_table(path: Path, task: Task | None, target: str | None) -> GraphSet:
    try:
        from rdkit import Chem, rdBase
        from torch_geometric.utils import from_smiles
    except ImportError as error:
        raise InputError(f"SMILES need rdkit: {install('graph')} ({error})") from None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise InputError(f"{path} has no rows")
    smiles = next((name for name in rows[0] if name and name.lower() == "smiles"), None)
    numeric = [name for name in rows[0] if name != smiles and _number(rows[0][name]) is not None]
    if smiles is None or not numeric:
        raise InputError(f"{path} needs a column smiles and one of numbers; it has {', '.join(map(str, rows[0]))}")
    columns = [numeric[-1]]
    if target is not None:
        known = [name for name in rows[0] if name]
        whole = target in known  # a name may hold a comma
        columns = [checks.one_of("target", name, known) for name in ([target] if whole else target.split(","))]
    data = []
    with rdBase.BlockLogs():
        for line, row in enumerate(rows, 2):
            if not row[smiles] or Chem.MolFromSmiles(row[smiles]) is None:
                raise InputError(f"{path}, line {line}: {row[smiles]!r} is no SMILES")
            values = [_value(row[column], f"{path}, line {line}: {column}") for column in columns]
            graph = from_smiles(row[smiles])
            data.append(_data(graph.x.float(), graph.edge_index, torch.tensor([values])))
    labels = torch.cat([graph.y for graph in data])
    for place, column in enumerate(columns):
        if labels[:, place].isnan().all():
            raise InputError(f"{path}: {column} has no value")
    kind = task or "graph-regression"
    if kind.startswith("node"):
        raise InputError(f"{path} has labels of molecules, not of atoms: the task cannot be {kind}")
    if kind == "graph-classification":
        _check_binary(labels, path)
    found = GraphSet(path.stem, kind, data, len(columns), tuple(row[smiles] for row in rows))
    return _labelled(found, ~labels.isnan().all(1))


def _labelled(data: GraphSet, there: torch.Tensor) -> GraphSet:
    """Without the graphs that have no label at all, and a note of their number."""
    if there.all():
        return data
    kept = there.nonzero().flatten().tolist()
    note = f"{len(data) - len(kept)} of {len(data)} graphs have no label and were left out"
    names = tuple(data.names[place] for place in kept) if data.names else ()
    return dataclasses.replace(data, graphs=[data.graphs[place] for place in kept], names=names, notes=(note,))


def _value(text: str | None, where: str) -> float:
    """A number, NaN where there is none."""
    value = float("nan") if not (text or "").strip() else _number(text)
    if value is None or math.isinf(value):
        raise InputError(f"{where} is {text!r}, not a number")
    return value


def _check_binary(labels: torch.Tensor, path: Path) -> None:
    known = labels[~labels.isnan()]
    if not ((known == 0) | (known == 1)).all():
        raise InputError(f"{path}: labels must be 0, 1 or missing for classification")


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _read_folder(path: Path, task: Task | None) -> GraphSet:
    """A data set that PyG processed, never unpickled: only tensors and PyG's own records of them are read."""
    from torch_geometric.data.data import Data, DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    file = path / "processed" / "data.pt"
    if not file.is_file():
        raise InputError(f"{path} is no PyG data set: it has no processed/data.pt")
    try:
        with torch.serialization.safe_globals([Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]):
            stored = torch.load(file, weights_only=True)
        whole: Any = stored[0]
        slices: Any = stored[1]
        whole = Data.from_dict(whole) if isinstance(whole, dict) else whole
    except Exception as error:
        raise InputError(f"{file} cannot be read without unpickling, which may run code: {error!s:.200}") from None
    from torch_geometric.data.separate import separate

    counts = len(slices["x"]) - 1 if slices else 1
    graphs: list[Any] = [whole] if not slices else [
        separate(Data, whole, idx=index, slice_dict=slices, decrement=False) for index in range(counts)
    ]  # fmt: skip
    for place, graph in enumerate(graphs):
        _check_graph(graph, task, f"{file}: graph {place}")
    if task is None:
        level = "graph" if len(graphs[0].y) == 1 else "node"
        kind = "regression" if graphs[0].y.is_floating_point() else "classification"
        task = checks.one_of("task", f"{level}-{kind}", TASKS)
    several = graphs[0].y.is_floating_point() and graphs[0].y.numel() > 1 and task == "graph-classification"
    if several:
        _check_binary(torch.cat([graph.y.flatten() for graph in graphs]), file)
    if task.endswith("classification") and not several:
        if any(graph.y.is_floating_point() and not graph.y.isfinite().all() for graph in graphs):
            raise InputError(f"{file}: a class is missing; leave such graphs out")
        places, known = consecutive(int(label) for graph in graphs for label in graph.y.flatten())
        labels = iter(places)
        data = [_data(g.x.float(), g.edge_index, torch.tensor([next(labels) for _ in g.y.flatten()])) for g in graphs]
        return GraphSet(path.name, task, data, len(known))
    rows = [g.y.reshape(1 if task == "graph-regression" else len(g.x), -1).float() for g in graphs]
    data = [_data(g.x.float(), g.edge_index, y) for g, y in zip(graphs, rows, strict=True)]
    there = torch.stack([~y.isnan().all() for y in rows])
    if not there.any():
        raise InputError(f"{file}: no graph has a label")
    return _labelled(GraphSet(path.name, task, data, rows[0].shape[1]), there)


def _check_graph(graph: Any, task: Task | None, where: str) -> None:
    if graph.x is None or graph.y is None:
        raise InputError(f"{where} needs x and y")
    nodes, edges = len(graph.x), graph.edge_index
    if not nodes:
        raise InputError(f"{where} has no nodes")
    if edges is not None and edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
        raise InputError(f"{where} has {nodes} nodes, and edges of nodes {int(edges.min())} to {int(edges.max())}")
    if not graph.x.isfinite().all() or graph.y.isinf().any():
        raise InputError(f"{where} has features or labels that are not finite")
    if task is not None and task.startswith("node") and len(graph.y) != nodes:
        raise InputError(f"{where} has {nodes} nodes and {len(graph.y)} labels: the task cannot be {task}")


def _data(x: torch.Tensor, edges: Any, y: torch.Tensor) -> Any:
    from torch_geometric.data import Data

    x = x.reshape(len(x), -1)
    edges = [] if edges is None else edges
    if not isinstance(edges, torch.Tensor):
        edges = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T.contiguous()
    return Data(x=x, edge_index=edges, y=y)


def generated(
    task: Task, count: int = 3000, *, nodes: tuple[int, int] = (50, 149), features: int = 40, noise: float = 0.0,
    seed: int = 0, progress: Callable[[int], object] | None = None,
) -> GraphSet:  # fmt: skip
    """Graphs of a product graphon: nodes u and v of places in (0, 1) are joined with probability u v.

    Labels are those of a random graph convolution of two layers, features -> 20 -> 10 with weights from N(0, 1): for
    nodes its output, of which each graph's is divided by its norm, or the largest of its ten, each in standard
    deviations over all nodes (as they are, one is the largest at 94 of 100 nodes, and where the rest is no edge is);
    for graphs the mean over nodes, as a number in standard deviations, or which of two outputs is larger, in equal
    shares.

    Args:
        task: what is predicted.
        count: graphs.
        nodes: the least and most of a graph.
        features: of a node, uniform in [0, 1).
        noise: of labels: a standard deviation for numbers, the share of wrong ones for classes.
        seed: of everything.
        progress: called with the number of graphs made.
    """
    geometric()
    checks.one_of("task", task, TASKS)
    checks.integer("count", count, at_least=2)
    checks.integer("the most nodes", nodes[1], at_least=checks.integer("the least nodes", nodes[0], at_least=1))
    checks.number("noise", noise, at_least=0)
    teacher = generator(seed, "teacher")
    weights = torch.randn(features, 20, generator=teacher), torch.randn(20, 10, generator=teacher)
    readout = torch.randn(10, generator=teacher)
    found, truths = [], []
    for index in range(count):
        random = generator(seed, "graph", index)
        size = int(torch.randint(nodes[0], nodes[1] + 1, (), generator=random))
        places = (torch.randint(RESOLUTION, (size,), generator=random) + 0.5) / RESOLUTION
        joined = (torch.rand(size, size, generator=random) < places[:, None] * places).triu(1)
        adjacency = (joined | joined.T).float()
        scale = adjacency.sum(1).clamp(min=1).rsqrt()
        spread = scale[:, None] * adjacency * scale
        x = torch.rand(size, features, generator=random)
        truths.append(spread @ torch.relu(spread @ x @ weights[0]) @ weights[1])
        found.append((x, adjacency.nonzero().T.contiguous()))
        if progress is not None:
            progress(index + 1)
    labels = _labels(task, truths, readout)
    random = generator(seed, "noise")
    outputs = {"graph-regression": 1, "graph-classification": 2, "node-regression": 1, "node-classification": 10}[task]
    if noise:
        for place, y in enumerate(labels):
            if y.is_floating_point():
                labels[place] = y + noise * torch.randn(y.shape, generator=random)
            else:
                wrong = torch.rand(y.shape, generator=random) < noise
                shift = torch.randint(1, outputs, y.shape, generator=random)
                labels[place] = torch.where(wrong, (y + shift) % outputs, y)
    data = [_data(x, edges, y) for (x, edges), y in zip(found, labels, strict=True)]
    return GraphSet(f"generated {task}", task, data, outputs)


def _labels(task: Task, truths: list[torch.Tensor], readout: torch.Tensor) -> list[torch.Tensor]:
    if task == "node-classification":
        whole = torch.cat(truths)
        return [((truth - whole.mean(0)) / whole.std(0)).argmax(1) for truth in truths]
    if task == "node-regression":
        values = [truth @ readout[:, None] for truth in truths]
        return [value / value.norm().clamp(min=1e-12) for value in values]
    pooled = torch.stack([truth.mean(0) for truth in truths]) @ readout
    if task == "graph-regression":
        return list(((pooled - pooled.mean()) / pooled.std()).reshape(-1, 1, 1))
    return list((pooled > pooled.median()).long()[:, None])
