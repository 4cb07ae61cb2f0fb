"""One training of a graph network with a teacher, and what it cost."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from hardy import checks
from hardy.errors import InputError
from hardy.teach.examples import evaluating, example_losses, read_batch, unreduced
from hardy.teach.graphs import GraphSet
from hardy.teach.sampler import TeacherSampler
from hardy.teach.teacher import Teacher

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
    """

    epochs: tuple[int, ...]
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    samples: tuple[int, ...]
    steps: tuple[int, ...]
    metric: tuple[float, ...]
    selection_seconds: float


def loss_of(data: GraphSet) -> nn.Module:
    """Squared error, binary cross entropy for one output, cross entropy for several."""
    if data.task.endswith("regression"):
        return nn.MSELoss()
    return nn.BCEWithLogitsLoss() if data.outputs == 1 else nn.CrossEntropyLoss()


def metric_of(data: GraphSet) -> str:
    """The name of the metric: the lower the better for "MAE", the higher for "AUC"."""
    return "MAE" if data.task.endswith("regression") else "AUC"


def measure(network: nn.Module, data: GraphSet, ids: Sequence[int]) -> float:
    """The mean absolute error over all labels, or the area under the ROC curve of all pooled (one against the rest).

    Missing labels are left out; a metric that needs two classes is NaN where there is one.
    """
    from torch_geometric.data import Batch

    outputs, targets = [], []
    with evaluating(network), torch.inference_mode():
        for part in torch.tensor(ids).split(256):
            answer = read_batch(network, Batch.from_data_list([data.graphs[i] for i in part.tolist()]))
            outputs.append(answer.output)
            targets.append(answer.target)
    output, target = torch.cat(outputs), torch.cat(targets)
    if data.task.endswith("regression"):
        return (output - target).abs().nanmean().item()
    from sklearn.metrics import roc_auc_score

    if data.outputs == 1:
        there = ~target.isnan()
        known, scores = target[there], output[there]
        return float(roc_auc_score(known, scores)) if len(known.unique()) == 2 else math.nan
    present = target.unique()
    areas = [float(roc_auc_score(target == c, output[:, c] - output[:, [k for k in range(output.shape[1]) if k != c]]
                                 .logsumexp(1))) for c in present.tolist()]  # fmt: skip
    return math.nan if len(present) < 2 else (areas[1] if data.outputs == 2 else sum(areas) / len(areas))


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
        train_ids: what the teacher chooses from; its own ids are places in this list.
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
    part: Any = Subset(data.graphs, list(train_ids))  # pyright: ignore[reportArgumentType]
    sampler = TeacherSampler(part, teacher)
    loader: DataLoader[Any] = GraphLoader(
        part, batch_size=training.batch_size, sampler=sampler, generator=torch.Generator()
    )
    loss, one_by_one = loss_of(data), unreduced(loss_of(data))
    decay, rate = training.weight_decay, training.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    at = {round(k * training.epochs / training.checks) for k in range(1, training.checks + 1)}
    seconds, cpu, samples, steps = 0.0, 0.0, 0, 0
    rows: list[tuple[int, float, float, int, int, float]] = []
    for epoch in range(training.epochs):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        teacher.update(network, loss, loader)
        network.train()
        optimizer.zero_grad()
        chosen = len(sampler)
        for batch in loader:
            losses, _ = example_losses(one_by_one, read_batch(network, batch))
            samples += len(losses)
            if training.protocol == "paper":
                (losses.sum() / chosen).backward()  # so that a ragged last batch counts for what it is
                continue
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        if training.protocol == "paper":
            optimizer.step()
            steps += 1
        seconds += time.perf_counter() - begun
        cpu += time.process_time() - cpu_begun
        if epoch + 1 in at:
            rows.append((epoch + 1, seconds, cpu, samples, steps, measure(network, data, test_ids)))
            if not all(bool(p.isfinite().all()) for p in network.parameters()):
                raise InputError(f"training diverged by epoch {epoch + 1}; use a smaller learning rate")
            if watch is not None:
                watch(epoch + 1, rows[-1][-1])
    columns = [tuple(column) for column in zip(*rows, strict=True)]
    names = ("epochs", "seconds", "cpu_seconds", "samples", "steps", "metric")
    return Course(**dict(zip(names, columns, strict=True)), selection_seconds=teacher.seconds)
