"""Readers of graphs, networks, and a training that a teacher leads."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from hardy import InputError
from hardy.teach import Teacher, TeacherSampler, graphs, schedules
from hardy.teach.examples import DatasetExamples
from hardy.teach.networks import MODELS, FlexibleConv, network, normalised, propagation
from hardy.teach.training import Training, examples_of, loss_of, measure, train


@pytest.mark.parametrize("task", graphs.TASKS)
def test_graphs_of_all_tasks_are_generated_scored_and_learned(task: graphs.Task) -> None:
    data = graphs.generated(task, 40, nodes=(4, 9), features=5)
    assert all(4 <= graph.num_nodes <= 9 and graph.is_undirected() for graph in data.graphs)
    again = graphs.generated(task, 40, nodes=(4, 9), features=5)
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(data.graphs, again.graphs, strict=True))
    if task == "node-classification":  # as the outputs are, one of them is the largest nearly everywhere
        labels = torch.cat([graph.y for graph in data.graphs])
        shares = labels.bincount(minlength=10) / len(labels)
        assert shares.max() < 0.4
        assert (shares > 0.03).sum() >= 8
    net = network("flexible", data, width=8)
    teacher = Teacher(3, selector="hard", ratio=schedules.Constant(ratio=0.5))
    ids = list(range(30))
    course = train(net, data, ids, range(30, 40), teacher, Training(epochs=3, batch_size=8, checks=3))
    assert course.samples == (15, 30, 45)
    assert course.steps == (2, 4, 6)
    assert all(0 < value < 10 for value in course.metric)
    assert course.selection_seconds > 0


def test_a_node_level_score_is_divided_by_the_nodes() -> None:
    data = graphs.generated("node-regression", 12, nodes=(3, 7), features=5)
    net = network("flexible", data, width=8)
    got = DatasetExamples(net, loss_of(data), data.graphs, batch_size=5).gradient_norms()
    for graph, score in zip(data.graphs, got.tolist(), strict=True):
        with torch.no_grad():
            residual = net(Batch.from_data_list([graph])) - graph.y
        assert score == pytest.approx(2 * residual.norm().item() / graph.num_nodes, rel=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_ids_are_stable_in_a_shuffling_loader_of_pyg(model: str) -> None:
    data = graphs.generated("graph-regression", 50, nodes=(3, 6), features=5)
    for place, graph in enumerate(data.graphs):
        graph.place = place
    net = network(model, data, width=8)
    teacher = Teacher(4, selector="hard", ratio=schedules.Constant(ratio=0.2))
    loader = DataLoader(data.graphs, batch_size=8, sampler=TeacherSampler(data.graphs, teacher))
    teacher.update(net, loss_of(data), data.graphs)
    with torch.no_grad():
        net.eval()
        residual = torch.stack([(net(Batch.from_data_list([g])) - g.y).abs().sum() for g in data.graphs])
    seen = [int(place) for batch in loader for place in batch.place]
    assert sorted(seen) == sorted(residual.argsort(descending=True)[:10].tolist())


@pytest.mark.parametrize("width", [3, 6])  # a layer that narrows is computed in another order than one that widens
def test_both_forms_of_the_flexible_convolution_are_equal(width: int) -> None:
    edges = torch.tensor([[5, 0, 0, 1, 8, 3, 7, 2], [4, 1, 2, 0, 3, 8, 0, 6]])  # one way only, in no order
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    conv = FlexibleConv(4, width, 3)
    adjacency = torch.zeros(9, 9)
    adjacency[edges[1], edges[0]] = normalised(edges, 9)
    powers = torch.cat([torch.eye(9), adjacency, adjacency @ adjacency], 1)
    expected = powers @ torch.block_diag(x, x, x) @ conv.weight
    got = conv(x, propagation(edges, 9))
    assert torch.allclose(got, expected, atol=1e-5)
    slope = torch.randn(9, width, generator=torch.Generator().manual_seed(1))
    leaves = (x, conv.weight)
    pairs = zip(torch.autograd.grad(got, leaves, slope), torch.autograd.grad(expected, leaves, slope), strict=True)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in pairs)


def test_the_papers_protocol_is_full_batch_descent() -> None:
    data = graphs.generated("graph-regression", 21, nodes=(3, 6), features=5)
    nets = [network("flexible", data, width=8) for _ in range(2)]
    for net, size in zip(nets, (21, 8), strict=True):
        how = Training(epochs=4, batch_size=size, protocol="paper", checks=1)
        course = train(net, data, range(21), range(21), Teacher(4, selector="full"), how)
        assert course.steps == (4,)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_metrics_are_pooled() -> None:
    data = graphs.generated("graph-classification", 300, nodes=(3, 5), features=5)
    net = network("flexible", data, width=8)
    from sklearn.metrics import average_precision_score, roc_auc_score

    with torch.no_grad():
        output = net.eval()(Batch.from_data_list(data.graphs))
    truth = torch.cat([graph.y for graph in data.graphs])
    found = measure(net, data, range(300))
    assert found["AUC"] == pytest.approx(roc_auc_score(truth, output[:, 1] - output[:, 0]))
    assert found["AP"] == pytest.approx(average_precision_score(truth, output[:, 1] - output[:, 0]))
    assert found["accuracy"] == pytest.approx((output.argmax(1) == truth).double().mean().item())
    data = graphs.generated("graph-regression", 300, nodes=(3, 5), features=5)
    with torch.no_grad():
        output = net.eval()(Batch.from_data_list(data.graphs))[:, :1]
    net.head = torch.nn.Linear(8, 1)
    with torch.no_grad():
        output = net(Batch.from_data_list(data.graphs))
    truth = torch.cat([graph.y for graph in data.graphs])
    assert measure(net, data, range(300))["MAE"] == pytest.approx((output - truth).abs().mean().item(), rel=1e-5)


def test_several_labels_of_which_some_are_missing_are_learned_and_measured() -> None:
    data = graphs.generated("graph-regression", 40, nodes=(3, 5), features=5)
    random = torch.Generator().manual_seed(0)
    for graph in data.graphs:
        graph.y = (torch.rand(1, 3, generator=random) > 0.5).float()
        graph.y[torch.rand(1, 3, generator=random) > 0.7] = float("nan")
        graph.y[0, 0] = 1.0  # no area without both
    data = dataclasses.replace(data, task="graph-classification", outputs=3)
    net = network("gin", data, width=8)
    course = train(net, data, range(30), range(30, 40), Teacher(2), Training(epochs=2, checks=1))
    with torch.no_grad():
        output = net.eval()(Batch.from_data_list(data.graphs[30:]))
    truth = torch.cat([graph.y for graph in data.graphs[30:]])
    from sklearn.metrics import roc_auc_score

    known = [~truth[:, c].isnan() for c in range(3)]
    areas = [roc_auc_score(truth[known[c], c], output[known[c], c]) for c in (1, 2)]
    assert course.final["AUC"] == pytest.approx(sum(areas) / 2)


def test_the_nodes_of_a_graph_alone_are_examples() -> None:
    data = graphs.generated("node-classification", 2, nodes=(60, 60), features=5)
    data = dataclasses.replace(data, graphs=data.graphs[:1])
    train_ids, test_ids = data.split(0.2, 0)
    assert sorted(train_ids + test_ids) == list(range(60))
    net = network("flexible", data, width=8)
    teacher = Teacher(1, selector="hard", ratio=schedules.Constant(ratio=0.25))
    course = train(net, data, train_ids, test_ids, teacher, Training(epochs=1, batch_size=5, checks=1))
    assert (course.samples, course.steps) == ((12,), (3,))
    assert {"AUC", "AP", "accuracy"} == course.final.keys()
    net = network("flexible", data, width=8).eval()
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(net(data.graphs[0]), data.graphs[0].y, reduction="none")[train_ids]
    part, read = examples_of(data, train_ids)
    assert torch.allclose(DatasetExamples(net, loss_of(data), part, read=read).losses(), losses, atol=1e-6)


def test_text_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "toy.txt"
    file.write_text("3\n2 0\n7 1 1\n9 1 0\n1 2\n7 0\n3 0\n9 2 1 2\n9 1 0\n9 1 0\n")
    data = graphs.read(file)
    assert [graph.y.tolist() for graph in data.graphs] == [[0], [1], [0]]  # 0 and 2: labels with a gap
    assert (len(data), data.features, data.outputs) == (3, 2, 2)
    assert data.graphs[1].edge_index.shape == (2, 0)
    assert data.graphs[2].edge_index.tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]
    for model in MODELS:  # a graph without edges is a graph
        assert network(model, data, width=4)(Batch.from_data_list(data.graphs)).isfinite().all()
    for text, message in (
        ("2\n1 0\n7 0\n", "line 4"),
        ("1\n1 0\n7 x\n", "line 3: invalid literal"),
        ("1\n1 0\n7 1 5\n", "line 3: its 1 neighbours are not nodes"),
        ("1\n0 0\n", "no graph with nodes"),
        ("2\n0 0\n1 0\n7 0\n", "graph 0 has no nodes"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            graphs.read(file)


def test_molecules_are_read_and_bad_rows_are_named(tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    file = tmp_path / "some.csv"
    file.write_text("smiles,toxic,solubility\nCCO,1,-1.5\nc1ccccc1,0,\nC,,2\nCC,,\n")
    data = graphs.read(file)
    assert [graph.num_nodes for graph in data.graphs] == [3, 1]  # methane has no bond
    assert data.graphs[0].y.item() == -1.5
    assert (data.task, data.names) == ("graph-regression", ("CCO", "C"))
    assert data.notes == ("2 of 4 graphs have no label and were left out",)
    both = graphs.read(file, target="toxic,solubility")
    assert [graph.num_nodes for graph in both.graphs] == [3, 6, 1]
    assert both.outputs == 2
    assert both.graphs[1].y.isnan().tolist() == [[False, True]]
    labelled = graphs.read(file, target="toxic", task="graph-classification")
    assert isinstance(loss_of(labelled), torch.nn.BCEWithLogitsLoss)
    with pytest.raises(InputError, match="labels must be 0, 1 or missing"):
        graphs.read(file, task="graph-classification")
    file.write_text("smiles,solubility\nCCO,1\nC(C,2\n")
    with pytest.raises(InputError, match=r"line 3: 'C\(C' is no SMILES"):
        graphs.read(file)
    file.write_text("smiles,solubility\nCCO,1\nCC,much\n")
    with pytest.raises(InputError, match="line 3: solubility is 'much'"):
        graphs.read(file)


class Code:
    pass


def test_a_folder_of_pyg_is_read_but_never_unpickled(tmp_path: Path) -> None:
    from torch_geometric.data import InMemoryDataset

    made = [
        Data(x=torch.ones(n, 2), edge_index=torch.zeros(2, 1, dtype=torch.long), y=torch.tensor([n])) for n in (2, 5)
    ]
    (tmp_path / "processed").mkdir()
    InMemoryDataset.save(made, str(tmp_path / "processed" / "data.pt"))
    data = graphs.read(tmp_path)
    assert [graph.num_nodes for graph in data.graphs] == [2, 5]
    assert [graph.y.item() for graph in data.graphs] == [0, 1]
    one, edge = torch.ones(2, 1), torch.tensor([[0], [1]])
    InMemoryDataset.save([Data(x=one[:, 0], y=torch.ones(1))] * 2, str(tmp_path / "processed" / "data.pt"))
    (bare, _) = graphs.read(tmp_path).graphs
    assert (bare.x.shape, bare.edge_index.shape) == ((2, 1), (2, 0))
    bad: list[tuple[Data, str, dict[str, Any]]] = [
        (Data(x=one, edge_index=edge + 1, y=torch.ones(1)), "graph 1 has 2 nodes, and edges of nodes 1 to 2", {}),
        (Data(x=one / 0, edge_index=edge, y=torch.ones(1)), "graph 1 has features or labels that are not finite", {}),
        (Data(x=one[:0], edge_index=edge[:, :0], y=torch.ones(1)), "graph 1 has no nodes", {}),
        (Data(x=one, edge_index=edge, y=torch.ones(1)), "2 nodes and 1 labels", {"task": "node-regression"}),
    ]
    for graph, message, options in bad:
        good = Data(x=one, edge_index=edge, y=torch.ones(2 if options else 1))
        InMemoryDataset.save([good, graph], str(tmp_path / "processed" / "data.pt"))
        with pytest.raises(InputError, match=message):
            graphs.read(tmp_path, **options)
    torch.save((Code(), None), tmp_path / "processed" / "data.pt")
    with pytest.raises(InputError, match="cannot be read without unpickling"):
        graphs.read(tmp_path)
    with pytest.raises(InputError, match="no graphs at"):
        graphs.read(tmp_path / "nothing")


def test_real_data(data: Path) -> None:
    for name, count, classes in (("MUTAG", 188, 2), ("PTC", 344, 2)):
        found = graphs.read(data / "graphs" / f"{name}.txt")
        assert (len(found), found.outputs) == (count, classes)
        assert all(graph.is_undirected() for graph in found.graphs)
