"""Edges: scores are gradients of masks, the whole circuit is the model, none of it is the corrupt run."""

import pytest
import torch
from models import build

from hardy.errors import InputError
from hardy.interp import Task, circuit


def task() -> Task:
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(3, 64, (3, 6), generator=draw)
    corrupt = clean.clone()
    corrupt[:, 2] = (corrupt[:, 2] + 7) % 60 + 3
    return Task(clean, torch.tensor([[5], [6], [7]]), torch.tensor([[8], [9], [10]]), corrupt)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox_sequential", "qwen3"])
def test_scores_are_the_gradient_of_edge_masks(architecture: str) -> None:
    model = build(architecture)
    given = task()
    found = circuit.find(model, given, steps=1)
    patched = circuit.EdgePatched(model, found.graph, given)
    mask = torch.zeros(found.graph.possible.shape, requires_grad=True)
    scores = patched.scores(mask)
    torch.testing.assert_close(scores.detach(), patched.clean_score, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(scores.sum(), mask)
    effect = (patched.clean_score - patched.corrupt_score).sum()
    possible = found.graph.possible
    expected = -(gradient / effect)[possible].double()
    torch.testing.assert_close(found.scores[possible], expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_all_edges_are_the_model_and_none_the_corrupt_run(architecture: str) -> None:
    model, given = build(architecture), task()
    graph = circuit.Graph.of(model)
    patched = circuit.EdgePatched(model, graph, given)
    with torch.no_grad():
        nothing = patched.scores(graph.possible.float())
    torch.testing.assert_close(nothing, patched.corrupt_score, rtol=1e-4, atol=1e-5)
    found = circuit.find(model, given)
    kept = circuit.faithfulness(model, given, found.top, graph, sizes=(0.0, 0.1, 1.0))
    assert kept.values[0] == pytest.approx(0, abs=1e-4)
    assert kept.values[-1] == pytest.approx(1, abs=1e-4)
    assert len(found.ranking()) == graph.edges
    assert int(found.random(7, 0).sum()) == 7
    assert not (found.random(7, 0) & ~graph.possible).any()


def test_models_without_such_edges_are_refused() -> None:
    with pytest.raises(InputError, match="norm after the write"):
        circuit.Graph.of(build("gemma3"))
    with pytest.raises(InputError, match="no block of both"):
        circuit.Graph.of(build("mamba"))
