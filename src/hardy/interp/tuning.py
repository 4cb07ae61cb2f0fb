"""Targeted optimization: only what was located is trained, and the optimizer keeps state for nothing else.

Masked fine-tuning of heads, neurons, attentions or MLPs; unlearning by gradient ascent on what is to be forgotten with
a loss on what is to be kept (the gradient difference of Liu et al. 2022). A head is its columns of the output
projection and its rows of queries (keys and values where it shares them with no other), a neuron its rows of gate and
up and its column of down.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.artefacts.packing import PackedLayer
from hardy.core.method import ALL_SELECTED, Method, squared_norm
from hardy.core.roles import is_linear, is_transposed
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks.blocks import Block, blocks_of
from hardy.hooks.engine import arguments
from hardy.interp.objects import Unit, unit_named
from hardy.report import Row
from hardy.runs.progress import track


@dataclasses.dataclass(frozen=True)
class Part:
    """Some entries of a weight: whole rows or whole columns of its (out, in) matrix.

    Attributes:
        module: qualified name of the linear layer.
        axis: 0 for rows, 1 for columns.
        places: which.
    """

    module: str
    axis: int
    places: tuple[int, ...]


def parts_of(model: nn.Module, names: Sequence[str]) -> list[Part]:
    """The weights of objects, one part for each layer and axis that they have some in.

    Raises:
        InputError: an object has no weights of its own, or they are in no plain linear layer.
    """
    blocks = {block.label: block for block in blocks_of(model)}
    found: dict[tuple[str, int], set[int]] = {}
    for name in names:
        unit = unit_named(name)
        kind = unit.point.split(".", 2)[-1]
        block = blocks.get(".".join(unit.point.split(".")[:2]))
        if block is None or unit.position is not None:
            raise InputError(f"{name} has no weights of its own in a block of {type(model).__name__}")
        for inside, axis, places in _inside(model, block, unit, kind):
            found.setdefault((f"{block.name}.{inside}", axis), set()).update(places)
    for module, _ in found:
        layer = model.get_submodule(module)
        if not is_linear(layer) or isinstance(layer, PackedLayer):
            raise InputError(f"{module} ({type(layer).__name__}) holds no plain weight to train")
    return [Part(module, axis, tuple(sorted(places))) for (module, axis), places in found.items()]


def _inside(model: nn.Module, block: Block, unit: Unit, kind: str) -> list[tuple[str, int, range]]:
    """(projection, axis, places) of a unit."""
    if kind in ("attn.z", "attn_out") and "attn" in block.attention:
        attention = block.attention["attn"]
        chosen = range(attention.heads) if unit.index is None else range(unit.index, unit.index + 1)
        if chosen.stop > attention.heads:
            raise InputError(f"{unit} is not there: {unit.point} has {attention.heads} heads")
        found = [(attention.parts["o"], 1, _wide(model, block, attention.parts["o"], 1, attention.heads, chosen))]
        for part, heads in (("q", attention.heads), ("k", attention.kv_heads), ("v", attention.kv_heads)):
            if part in attention.parts and (heads == attention.heads or unit.index is None):
                own = chosen if heads == attention.heads else range(heads)
                found.append((attention.parts[part], 0, _wide(model, block, attention.parts[part], 0, heads, own)))
        return found
    if kind in ("attn.q", "attn.k", "attn.v") and kind[-1] in getattr(block.attention.get("attn"), "parts", {}):
        attention = block.attention["attn"]
        heads = attention.heads if kind == "attn.q" else attention.kv_heads
        chosen = range(heads) if unit.index is None else range(unit.index, unit.index + 1)
        if chosen.stop > heads:
            raise InputError(f"{unit} is not there: {unit.point} has {heads} heads")
        inside = attention.parts[kind[-1]]
        return [(inside, 0, _wide(model, block, inside, 0, heads, chosen))]
    if kind in ("mlp.post", "mlp_out") and "down" in block.mlp:
        size = _size(model, block, block.mlp["down"], 1)
        chosen = range(size) if unit.index is None else range(unit.index, unit.index + 1)
        if chosen.stop > size:
            raise InputError(f"{unit} is not there: {unit.point} has {size} neurons")
        found = [(block.mlp["down"], 1, chosen)]
        return found + [(block.mlp[part], 0, chosen) for part in ("gate", "up") if part in block.mlp]
    raise InputError(f"{unit} has no weights of its own: train heads, q, k, v, neurons, attention or ffn")


def _size(model: nn.Module, block: Block, inside: str, axis: int) -> int:
    module: Any = model.get_submodule(f"{block.name}.{inside}")
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        raise InputError(f"{block.name}.{inside} ({type(module).__name__}) holds no plain weight to train")
    return weight.shape[1 - axis if is_transposed(module) else axis]


def _wide(model: nn.Module, block: Block, inside: str, axis: int, heads: int, chosen: range) -> range:
    width = _size(model, block, inside, axis) // heads
    return range(chosen.start * width, chosen.stop * width)


class SparseAdam:
    """Adam on the located entries of some weights; its moments are of their size alone."""

    def __init__(self, model: nn.Module, edits: Edits, parts: Sequence[Part], learning_rate: float) -> None:
        self.values: list[nn.Parameter] = []
        self.places: list[tuple[nn.Parameter, int, torch.Tensor]] = []
        fresh: dict[int, nn.Parameter] = {}
        for part in parts:
            module: Any = model.get_submodule(part.module)
            weight = module.weight
            if id(weight) not in fresh:
                new = nn.Parameter(weight.detach().clone(), requires_grad=True)
                fresh[id(weight)] = fresh[id(new)] = new
                edits.swap(module, "weight", new)
            weight = fresh[id(weight)]
            axis = 1 - part.axis if is_transposed(module) else part.axis
            index = torch.tensor(part.places, device=weight.device)
            self.places.append((weight, axis, index))
            self.values.append(nn.Parameter(weight.detach().index_select(axis, index).float()))
        self.start = [value.detach().clone() for value in self.values]
        self.optimizer = torch.optim.Adam(self.values, lr=learning_rate)
        self.weights = list({id(weight): weight for weight, _, _ in self.places}.values())

    @property
    def state(self) -> int:
        """Numbers that the optimizer keeps."""
        return 2 * sum(value.numel() for value in self.values)

    def step(self, loss: torch.Tensor) -> None:
        """One step down the gradient of a loss."""
        gradients = dict(zip(map(id, self.weights), torch.autograd.grad(loss, self.weights), strict=True))
        for value, (weight, axis, index) in zip(self.values, self.places, strict=True):
            value.grad = gradients[id(weight)].index_select(axis, index).float()
        self.optimizer.step()
        with torch.no_grad():
            for value, (weight, axis, index) in zip(self.values, self.places, strict=True):
                weight.index_copy_(axis, index, value.to(weight.dtype))

    def finish(self, required: bool) -> float:
        """Leave the weights as ordinary parameters; the norm of all that was changed."""
        for weight in self.weights:
            checks.finite("trained weight", weight.detach())
            weight.requires_grad_(required)
        return sum(squared_norm(a.detach(), minus=b) for a, b in zip(self.values, self.start, strict=True)) ** 0.5


def next_token_loss(model: Any, batch: Any) -> torch.Tensor:
    """Mean cross-entropy of a batch of token ids, nats."""
    positional, keywords = arguments(model, batch)
    ids = keywords.get("input_ids", positional[0] if positional else None)
    if ids is None:
        raise InputError("a batch to train on holds input_ids")
    logits = model(*positional, **{**keywords, "use_cache": False}).logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(Method):
    """What both trainings of located objects take.

    Args:
        units: names of heads, neurons, attentions or MLPs, as rankings have them.
        steps: of Adam, one batch each; batches are read again from the first.
        learning_rate: 0 changes nothing.
    """

    units: tuple[str, ...]
    steps: int = 50
    learning_rate: float = 1e-3

    def check(self) -> None:
        names = checks.texts("units", self.units)
        if not names:
            raise InputError("units needs at least one object, got none")
        for name in names:
            unit_named(name)
        object.__setattr__(self, "units", names)
        checks.integer("steps", self.steps, at_least=1)
        checks.number("learning_rate", self.learning_rate, at_least=0)

    def __str__(self) -> str:
        return f"{type(self).__name__}({len(self.units)} objects, steps={self.steps})"

    def trained(
        self, model: nn.Module, edits: Edits, loss: Callable[[int], torch.Tensor], watched: Callable[[], float]
    ) -> list[Row]:
        """Minimise `loss` of the number of the step; `watched` before and after goes into the report."""
        parts = parts_of(model, self.units)
        if not self.learning_rate:
            return [Row(metric="relative_error", condition=ALL_SELECTED, value=0.0)]
        required = {id(p): p.requires_grad for p in model.parameters()}
        training = model.training
        model.eval()
        with torch.no_grad():
            before = watched()
        optimizer = SparseAdam(model, edits, parts, self.learning_rate)
        try:
            with torch.enable_grad():
                for step in track(range(self.steps), type(self).__name__):
                    optimizer.step(loss(step))
            moved = optimizer.finish(next(iter(required.values())))
            with torch.no_grad():
                after = watched()
        finally:
            model.train(training)
        whole = sum(p.numel() for p in model.parameters())
        size = sum(value.numel() for value in optimizer.values)
        norm = sum(squared_norm(start) for start in optimizer.start) ** 0.5
        return [
            Row(metric="relative_error", condition=ALL_SELECTED, value=moved / norm if norm else 0.0),
            Row(metric="trained_share", condition="of all weights", value=size / whole),
            Row(metric="optimizer_state", condition="beside training all", value=optimizer.state / (2 * whole)),
            Row(metric="loss", condition="before", value=before, unit="nats/token"),
            Row(metric="loss", condition="after", value=after, unit="nats/token", baseline="before"),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedFineTuning(Tuning):
    """Trains only the weights of located objects, on batches of token ids: `apply(model, batches)`. Fields as those of
    `Tuning`.
    """

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        batches = [] if data is None else list(data)
        if not batches:
            raise InputError("fine-tuning needs batches: apply(model, batches)")
        first = functools.partial(next_token_loss, model, batches[0])
        return self.trained(
            model, edits, lambda step: next_token_loss(model, batches[step % len(batches)]), lambda: first().item()
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unlearning(Tuning):
    """Makes texts unlikely by the weights of located objects, while others stay as likely as they are.

    `apply(model, batches)` takes the texts that are to be kept. The ascent ends where a text's loss reaches `enough`,
    so that it does not run away.

    Args:
        units, steps, learning_rate: as of `Tuning`.
        forget: token ids of each text to be forgotten.
        retain: weight of the loss on what is kept.
        enough: loss in nats per token at which a text counts as forgotten; by default log of the vocabulary would be
            chance.
    """

    forget: tuple[tuple[int, ...], ...]
    retain: float = 1.0
    enough: float = 8.0

    def check(self) -> None:
        super().check()
        texts = tuple(
            tuple(checks.integer("forget", i, at_least=0) for i in checks.items("forget", ids))
            for ids in checks.items("forget", self.forget)
        )
        if not texts or any(len(ids) < 2 for ids in texts):
            raise InputError(f"forget needs texts of at least two tokens, got {texts[:1] if texts else 'none'}")
        object.__setattr__(self, "forget", texts)
        checks.number("retain", self.retain, at_least=0)
        checks.number("enough", self.enough, above=0)

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        batches = [] if data is None else list(data)
        if not batches and self.retain:
            raise InputError("unlearning needs batches of what is kept: apply(model, batches); or retain=0")
        device = next(model.parameters()).device
        texts = [torch.tensor([ids], device=device) for ids in self.forget]

        def loss(step: int) -> torch.Tensor:
            gone = next_token_loss(model, texts[step % len(texts)])
            total = nn.functional.relu(self.enough - gone)
            if self.retain:
                total = total + self.retain * next_token_loss(model, batches[step % len(batches)])
            return total

        def forgotten() -> float:
            return sum(next_token_loss(model, ids).item() for ids in texts) / len(texts)

        return self.trained(model, edits, loss, forgotten)
