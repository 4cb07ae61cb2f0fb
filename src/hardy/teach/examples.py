"""A dataset under a model and a loss, measured example by example in the order of its ids."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hardy import checks
from hardy.errors import InputError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Answer(NamedTuple):
    """What a model says to a batch.

    Attributes:
        output: (rows, ...).
        target: the labels, as the loss wants them; NaN, or for classes the loss's `ignore_index`, marks a missing one.
        owner: which example of the batch each row belongs to, (rows,); None where row and example are one.
        examples: in the batch.
    """

    output: torch.Tensor
    target: torch.Tensor
    owner: torch.Tensor | None
    examples: int


Read = Callable[[nn.Module, Any], Answer]


def read_batch(model: nn.Module, batch: Any) -> Answer:
    """What `model` says to a batch of PyG graphs, of (input, target) pairs, or of a Hugging Face collator.

    Graphs: `model(batch)` against `batch.y`, a row for each graph, or a row for each node if there are as many. Pairs:
    `model(input)`. Mappings: `model(**batch)` without "labels", of which causal language models (`...ForCausalLM`,
    `...LMHeadModel`) predict the next one.

    Raises:
        InputError: the batch is something else, or labels do not fit the output.
    """
    if hasattr(batch, "edge_index") and hasattr(batch, "num_graphs"):
        output = model(batch)
        if batch.y is None:
            raise InputError("the graphs have no labels y")
        graphs = int(batch.num_graphs)
        owner = batch.batch if len(output) != graphs else None
        return Answer(output, _fitting(batch.y, output), owner, graphs)
    if isinstance(batch, Mapping) and "labels" in batch:
        labels = batch["labels"]
        found = model(**{name: value for name, value in batch.items() if name != "labels"})
        output = found.logits if hasattr(found, "logits") else found
        if output.ndim == 3 and labels.shape == output.shape[:2]:
            if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
                output, labels = output[:, :-1], labels[:, 1:]
            owner = torch.arange(len(labels), device=labels.device).repeat_interleave(labels.shape[1])
            return Answer(output.flatten(0, 1), labels.flatten(), owner, len(batch["labels"]))
        return Answer(output, _fitting(labels, output), None, len(labels))
    if isinstance(batch, list | tuple) and len(batch) == 2:
        output = model(batch[0])
        return Answer(output, _fitting(batch[1], output), None, len(batch[1]))
    raise InputError(
        f"a batch must be graphs, (input, target) or a mapping with labels, got {type(batch).__name__}; give read="
    )


def _fitting(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Labels in the shape of the output where they are as many real numbers: (graphs,) for (graphs, 1)."""
    if target.is_floating_point() and target.shape != output.shape:
        if target.numel() != output.numel():
            raise InputError(f"labels of the shape {tuple(target.shape)} do not fit outputs {tuple(output.shape)}")
        return target.reshape(output.shape)
    return target


def unreduced(loss: Any) -> Any:
    """`loss` without its mean over examples: torch's losses, as modules or functions, are told so; others must be so.

    Raises:
        InputError: it cannot be called.
    """
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        loss = copy.copy(loss)
        loss.reduction = "none"
    elif getattr(loss, "__module__", None) == F.__name__:
        loss = functools.partial(loss, reduction="none")
    if not callable(loss):
        raise InputError(f"the loss must be a function of output and target, got {loss!r}")
    return loss


def example_losses(loss: Loss, answer: Answer) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss of each example over its labels that are there, and their number, (examples,) each.

    Args:
        loss: of output and target, without reduction; see `unreduced`.
        answer: of a model; the losses are differentiable with respect to its output.

    Raises:
        InputError: the loss is reduced, or a class label is not one of the output's classes.
    """
    output, target = answer.output, answer.target
    classes = not target.is_floating_point()
    if classes:
        there = target != _inner(loss, "ignore_index", -100)
        known = target[there]
        if len(known) and output.ndim > 1 and not 0 <= int(known.min()) <= int(known.max()) < output.shape[1]:
            raise InputError(
                f"class labels must be from 0 to {output.shape[1] - 1}, got {int(known.min())} to {int(known.max())}; "
                "hardy.teach.graphs.consecutive renumbers labels with gaps"
            )
    else:
        there = ~torch.isnan(target)
        target = torch.where(there, target, 0.0)
    losses = loss(output, target)
    if losses.ndim == 0 or len(losses) != len(output):
        raise InputError("the loss must be one of torch's or come with reduction='none': one value for each output")
    if losses.shape != there.shape:  # a distribution over classes as target: one loss a row
        there = there.reshape(len(there), -1).all(1).reshape(-1, *[1] * (losses.ndim - 1)).expand_as(losses)
    rows = torch.where(there, losses, 0.0).reshape(len(losses), -1).sum(1)
    counts = there.reshape(len(losses), -1).sum(1)
    if answer.owner is not None:
        rows = rows.new_zeros(answer.examples).index_add(0, answer.owner, rows)
        counts = counts.new_zeros(answer.examples).index_add(0, answer.owner, counts)
    elif len(rows) != answer.examples:
        raise InputError(f"the model gives {len(rows)} outputs for {answer.examples} examples")
    return rows / counts.clamp(min=1), counts


def _inner(loss: Any, name: str, default: int) -> int:
    return getattr(loss, "keywords", {}).get(name, getattr(loss, name, default))


def norms(rows: torch.Tensor, answer: Answer) -> torch.Tensor:
    """The Euclidean norm of all values that belong to each example, (examples,), of (rows, ...)."""
    squares = rows.reshape(len(rows), -1).float().square().sum(1)
    if answer.owner is not None:
        squares = squares.new_zeros(answer.examples).index_add(0, answer.owner, squares)
    return squares.sqrt()


class DatasetExamples:
    """The examples of a dataset, as a teacher sees them.

    Args:
        model: in any mode; it is measured in evaluation mode and left as it was.
        loss: see `Teacher.update`.
        dataset: with a length and items, or a `DataLoader` of one.
        batch_size: of measuring, where `dataset` is no loader.
        read: see `read_batch`.
        keep: whether batches stay in memory from the first choice on: for examples that are the same each time they are
            asked for. Small graphs are then measured in a half to a fifth of the time.

    Raises:
        InputError: the dataset is a stream, or the loss cannot be called.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        dataset: Any,
        *,
        batch_size: int = 256,
        read: Read = read_batch,
        keep: bool = False,
    ) -> None:
        self.model, self.loss, self.read = model, unreduced(loss), read
        collate = None
        if isinstance(dataset, DataLoader):
            batch_size, collate, dataset = dataset.batch_size or batch_size, dataset.collate_fn, dataset.dataset
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(f"a teacher needs examples with ids: {type(dataset).__name__} has no length or no items")
        self.dataset: Any = dataset
        self.batch_size = checks.integer("batch_size", batch_size, at_least=1)
        self.collate = collate or _collate_for(dataset)
        self.kept: list[tuple[int, Any]] | None = [] if checks.boolean("keep", keep) else None

    def __len__(self) -> int:
        return len(self.dataset)

    def losses(self) -> torch.Tensor:
        """See `Examples.losses`."""
        return torch.cat([losses for losses, _ in self._measured(gradients=False)])

    def gradient_norms(self) -> torch.Tensor:
        """See `Examples.gradient_norms`."""
        return torch.cat([gradients for _, gradients in self._measured(gradients=True)])

    def kernel_norms(self) -> torch.Tensor:
        """See `Examples.kernel_norms`: two passes, each as dear as a training step without its update."""
        reader = _Reader(self.model, self.read)
        weights = {name: value.detach() for name, value in reader.named_parameters() if value.requires_grad}
        direction = {name: torch.zeros_like(value) for name, value in weights.items()}
        shifts = []
        with evaluating(self.model):
            for first, batch in self._batches():
                answer = self.read(self.model, batch)
                slope, _ = self._gradient(answer, first)
                found = torch.autograd.grad(
                    answer.output, [p for p in reader.parameters() if p.requires_grad], slope, allow_unused=True
                )
                for total, part in zip(direction.values(), found, strict=True):
                    if part is not None:
                        total += part
            for _, batch in self._batches():

                def output(values: dict[str, torch.Tensor], batch: Any = batch) -> torch.Tensor:
                    return torch.func.functional_call(reader, values, (batch,))

                with (
                    warnings.catch_warnings()
                ):  # torch's forward mode compiles helpers in a way that it calls deprecated
                    warnings.filterwarnings("ignore", "`torch.jit.*` is deprecated", DeprecationWarning)
                    change: Any = torch.func.jvp(output, (weights,), (direction,))[1]
                shifts.append(norms(change, self.read(self.model, batch)))
        return torch.cat(shifts).detach().cpu()

    def _measured(self, *, gradients: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        with evaluating(self.model):
            for first, batch in self._batches():
                with torch.inference_mode():
                    answer = self.read(self.model, batch)
                answer = answer._replace(output=answer.output.clone(), target=answer.target.clone())
                if gradients:
                    slope, losses = self._gradient(answer, first)
                    yield losses.cpu(), norms(slope, answer).cpu()
                else:
                    with torch.no_grad():
                        losses = self._checked(answer, first)
                    yield losses.cpu(), losses.cpu()

    def _gradient(self, answer: Answer, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of each example's loss at the output, in its shape, and the losses."""
        with torch.enable_grad():
            output = answer.output.detach().clone().requires_grad_()
            losses = self._checked(answer._replace(output=output), first)
            (slope,) = torch.autograd.grad(losses.sum(), output)
        return slope, losses.detach()

    def _checked(self, answer: Answer, first: int) -> torch.Tensor:
        losses, counts = example_losses(self.loss, answer)
        if bare := (counts == 0).nonzero().flatten().tolist():
            raise InputError(f"example {first + bare[0]} has no label: leave such examples out of the dataset")
        return losses

    def _batches(self) -> Iterator[tuple[int, Any]]:
        """The number of the first example of each batch, and the batch, where the model is."""
        if self.kept is None:
            yield from self._made()
            return
        self.kept = self.kept or list(self._made())
        yield from self.kept

    def _made(self) -> Iterator[tuple[int, Any]]:
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        # A loader draws a seed for its workers, which must not come from the generator that training draws from.
        loader = DataLoader(
            self.dataset, batch_size=self.batch_size, collate_fn=self.collate, generator=torch.Generator()
        )
        for index, batch in enumerate(loader):
            yield index * self.batch_size, moved(batch, device)


class _Reader(nn.Module):
    """A model and how it is read, as one module whose output is the model's."""

    def __init__(self, model: nn.Module, read: Read) -> None:
        super().__init__()
        self.model, self.read = model, read

    def forward(self, batch: Any) -> torch.Tensor:
        return self.read(self.model, batch).output


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and every module's own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def moved(batch: Any, device: torch.device) -> Any:
    """`batch` on `device`: whatever has a `to`, and lists, tuples and mappings of it."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: moved(value, device) for name, value in batch.items()}
    return tuple(moved(value, device) for value in batch) if isinstance(batch, list | tuple) else batch


def _collate_for(dataset: Any) -> Callable[[list[Any]], Any] | None:
    """PyG's way to batch graphs; None for torch's own."""
    if len(dataset) and hasattr(dataset[0], "edge_index"):
        from torch_geometric.data import Batch  # whoever has such a graph has the package

        return Batch.from_data_list
    return None


def losses(
    model: nn.Module, loss: Any, dataset: Any, *, batch_size: int = 256, read: Read = read_batch
) -> torch.Tensor:
    """The loss of every example, (examples,): of a model trained on other data, what `ReducibleLoss` takes."""
    return DatasetExamples(model, loss, dataset, batch_size=batch_size, read=read).losses()
