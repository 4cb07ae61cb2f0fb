"""One training of a graph network with a teacher, and what it cost."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from hardy import checks
from hardy.errors import InputError
from hardy.teach.examples import Answer, DatasetExamples, Read, evaluating, example_losses, read_batch, unreduced
from hardy.teach.graphs import GraphSet
from hardy.teach.sampler import TeacherSampler
from hardy.teach.teacher import Teacher

_SCORED_AT_ONCE = 256
Protocol: TypeAlias = Literal["minibatch", "paper"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained.

    Args:
        epochs: in which every chosen graph is seen once.
        batch_size: graphs.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        protocol: "minibatch", a step each batch; or "paper", GraNT's one step each epoch on all chosen graphs.
        checks: times at which the test part is measured, with the clock stopped.

    Raises:
        InputError: a field is out of range.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    protocol: Protocol = "minibatch"
    checks: int = 20

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checks"):
            checks.integer(name, getattr(self, name), at_least=1)
        checks.number("learning_rate", self.learning_rate, above=0)
        checks.number("weight_decay", self.weight_decay, at_least=0)
        checks.one_of("protocol", self.protocol, get_args(Protocol))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """What a training gave.

    Attributes:
        epochs, seconds, cpu_seconds, samples, steps, metric: at each check; seconds without checks, with selection,
            by the clock and of this process on all its threads.
        selection_seconds: of the whole training.
        final: every metric of the task at the end, by name.
    """

    epochs: tuple[int, ...]
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    samples: tuple[int, ...]
    steps: tuple[int, ...]
    metric: tuple[float, ...]
    selection_seconds: float
    final: Mapping[str, float]


def loss_of(data: GraphSet) -> nn.Module:
    """Squared error for regression, cross entropy for classes, binary cross entropy for labels of 0 and 1 each."""
    if data.task.endswith("regression"):
        return nn.MSELoss()
    return nn.BCEWithLogitsLoss() if data.graphs[0].y.is_floating_point() else nn.CrossEntropyLoss()


def metric_of(data: GraphSet) -> str:
    """The name of the first metric: the lower the better for "MAE", the higher for "AUC"."""
    return "MAE" if data.task.endswith("regression") else "AUC"


def examples_of(data: GraphSet, ids: Sequence[int]) -> tuple[Any, Read]:
    """What a teacher chooses among, and how a model is asked about it: graphs; the nodes of a graph that is alone."""
    if len(data) > 1:
        return Subset(data.graphs, list(ids)), read_batch  # pyright: ignore[reportArgumentType]
    graph = data.graphs[0]

    def read(model: nn.Module, nodes: torch.Tensor) -> Answer:
        return Answer(model(graph)[nodes], graph.y[nodes], None, len(nodes))

    return list(ids), read


def measure(network: nn.Module, data: GraphSet, ids: Sequence[int]) -> dict[str, float]:
    """How good `network` is on some graphs (nodes, if there is one graph), all labels pooled and missing ones left out.

    Regression: "MAE" and "RMSE". Classification: "AUC", the area under the ROC curve, and "AP", the average precision,
    of one class against the rest, as a mean over classes (of labels, where each is 0 or 1), NaN where there is but one
    class; and "accuracy" of classes.
    """
    from torch_geometric.loader import DataLoader as GraphLoader

    dataset, read = examples_of(data, ids)
    loader = GraphLoader(dataset, batch_size=256 if len(data) > 1 else len(ids))
    with evaluating(network), torch.inference_mode():
        answers = [read(network, batch) for batch in loader]
    output = torch.cat([answer.output for answer in answers])
    target = torch.cat([answer.target for answer in answers])
    if data.task.endswith("regression"):
        error = output - target
        return {"MAE": error.abs().nanmean().item(), "RMSE": error.square().nanmean().sqrt().item()}
    if target.is_floating_point():
        there = ~target.isnan()
        columns = [(target[there[:, c], c] > 0.5, output[there[:, c], c]) for c in range(output.shape[1])]
        return _areas(columns)
    if data.outputs == 2:
        columns = [(target == 1, output[:, 1] - output[:, 0])]
    else:  # the log-odds of each class
        columns = [(target == c, output[:, c] - _without(output, c).logsumexp(1)) for c in range(output.shape[1])]
    return {**_areas(columns), "accuracy": (output.argmax(1) == target).double().mean().item()}


def _without(output: torch.Tensor, column: int) -> torch.Tensor:
    return output[:, [c for c in range(output.shape[1]) if c != column]]


def _areas(columns: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Means over the columns of (truths, scores) that have both truths."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    known = [(truth, score) for truth, score in columns if len(truth.unique()) == 2]
    if not known:
        return {"AUC": math.nan, "AP": math.nan}
    return {
        "AUC": sum(float(roc_auc_score(truth, score)) for truth, score in known) / len(known),
        "AP": sum(float(average_precision_score(truth, score)) for truth, score in known) / len(known),
    }


def train(
    network: nn.Module,
    data: GraphSet,
    train_ids: Sequence[int],
    test_ids: Sequence[int],
    teacher: Teacher,
    training: Training,
    *,
    watch: Callable[[int, float], object] | None = None,
) -> Course:
    """Train `network` in place on what `teacher` chooses.

    Args:
        network: of `hardy.teach.networks`, or any that takes PyG batches.
        data: whose real labels must be in a scale that is fit to be learned.
        train_ids: graphs that the teacher chooses from (nodes, if there is one graph); its own ids are places in this
            list.
        test_ids: what is measured.
        teacher: made for as many updates as there are epochs.
        training: how.
        watch: called at checks with the epoch and the metric.

    Raises:
        InputError: the teacher is for another number of updates, or training diverged.
    """
    from torch_geometric.loader import DataLoader as GraphLoader

    if teacher.updates != training.epochs:
        raise InputError(f"the teacher is for {teacher.updates} updates, the training has {training.epochs} epochs")
    part, read = examples_of(data, train_ids)
    sampler = TeacherSampler(part, teacher)
    loader: DataLoader[Any] = GraphLoader(
        part, batch_size=training.batch_size, sampler=sampler, generator=torch.Generator()
    )
    loss, one_by_one = loss_of(data), unreduced(loss_of(data))
    # A graph alone is one pass for all of its nodes; graphs take half the time in larger batches than those of a step.
    size = len(part) if len(data) == 1 else max(_SCORED_AT_ONCE, training.batch_size)
    examples = DatasetExamples(network, loss, part, batch_size=size, read=read, keep=True)
    decay, rate = training.weight_decay, training.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    at = {round(k * training.epochs / training.checks) for k in range(1, training.checks + 1)}
    seconds, cpu, samples, steps = 0.0, 0.0, 0, 0
    paper, kept = training.protocol == "paper", []
    rows: list[tuple[int, float, float, int, int, float]] = []
    final: dict[str, float] = {}
    for epoch in range(training.epochs):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        before = len(teacher.selections)
        teacher.choose(examples)
        anew = len(teacher.selections) > before
        network.train()
        optimizer.zero_grad()
        if paper and anew:  # the order of the examples does not matter to a step on all of them
            kept = list(loader)
        for batch in kept if paper else loader:
            losses, _ = example_losses(one_by_one, read(network, batch))
            samples += len(losses)
            if paper:
                (losses.sum() / len(sampler)).backward()  # so that a ragged last batch counts for what it is
                continue
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        if paper:
            optimizer.step()
            steps += 1
        seconds += time.perf_counter() - begun
        cpu += time.process_time() - cpu_begun
        if epoch + 1 in at:
            final = measure(network, data, test_ids)
            rows.append((epoch + 1, seconds, cpu, samples, steps, final[metric_of(data)]))
            if not all(bool(p.isfinite().all()) for p in network.parameters()):
                raise InputError(f"training diverged by epoch {epoch + 1}; use a smaller learning rate")
            if watch is not None:
                watch(epoch + 1, rows[-1][-1])
    columns = [tuple(column) for column in zip(*rows, strict=True)]
    names = ("epochs", "seconds", "cpu_seconds", "samples", "steps", "metric")
    return Course(**dict(zip(names, columns, strict=True)), selection_seconds=teacher.seconds, final=final)
