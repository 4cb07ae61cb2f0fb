"""Directions made from pairs of texts, and their files: one direction per layer.

A pair file has one JSON object a line: {"positive": "I love this film", "negative": "I hate this film"}. The direction
is read at the last position, after each block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hardy import checks
from hardy.errors import InputError
from hardy.files import write_atomic
from hardy.interp.locator import recorded
from hardy.interp.objects import KINDS, points_of
from hardy.interp.steering import SteeringVector, block_name, width_of
from hardy.interp.task import Task, _left, _tokens, read_lines, scores
from hardy.reading import reading
from hardy.runs.progress import track

By = Literal["mean-difference", "pca", "probe"]
FORMAT, VERSION = "hardy-directions", 1


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts that differ in what the direction is to mean."""

    positive: str
    negative: str


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a file.

    Raises:
        InputError: a line is no pair.
    """
    pairs = []
    for number, record in read_lines(path):
        if record.keys() != {"positive", "negative"}:
            raise InputError(
                f"{path}, line {number}: needs positive and negative, got {', '.join(record) or 'nothing'}"
            )
        pairs.append(Pair(**{name: checks.text(f"{path}, line {number}: {name}", record[name]) for name in record}))
    return pairs


@torch.no_grad()
def activations(model: nn.Module, tokenizer: Any, texts: Sequence[str], batch: int = 16) -> torch.Tensor:
    """The residual stream after each block at the last token of each text, (layers, texts, d_model), float32."""
    points = points_of(model, KINDS["residual"])
    device = next(model.parameters()).device
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    found = []
    for start in track(range(0, len(texts), batch), "read"):
        ids, mask = _left([_tokens(tokenizer, text) for text in texts[start : start + batch]], filler)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}
        seen, _ = recorded(model, points, {name: t.to(device) for name, t in inputs.items()} | {"use_cache": False})
        found.append(torch.stack([seen[point][:, -1].float() for point in points]).cpu())
    return torch.cat(found, 1)


def direction(positive: torch.Tensor, negative: torch.Tensor, by: By = "mean-difference") -> torch.Tensor:
    """One direction from the activations of pairs, pointing to the positive side.

    "mean-difference" is the difference of means, as long as it is in the model; "pca" the first principal component of
    the centred halves of the differences (that of (positive - negative) around their midpoints), its sign set by the
    majority of pairs; "probe" the weights of a logistic regression. The last two are given the length of the first.

    Args:
        positive, negative: (pairs, d_model).
        by: which.

    Raises:
        InputError: the two sides do not differ.
    """
    checks.one_of("by", by, ("mean-difference", "pca", "probe"))
    mean = positive.double().mean(0) - negative.double().mean(0)
    if not mean.any():
        raise InputError("the positive and negative texts give the same activations")
    if by == "mean-difference":
        return mean.float()
    if by == "pca":
        middle = (positive + negative).double() / 2
        halves = torch.cat([positive.double() - middle, negative.double() - middle])
        first = torch.linalg.svd(halves, full_matrices=False).Vh[0]
        votes = ((positive - negative).double() @ first).sign().sum()
        found = first if votes >= 0 else -first
    else:
        from sklearn.linear_model import LogisticRegression

        x = torch.cat([positive, negative]).double()
        scale = x.std(0).clamp_min(1e-9)
        labels = [1] * len(positive) + [0] * len(negative)
        fitted = LogisticRegression(max_iter=1000).fit(((x - x.mean(0)) / scale).numpy(), labels)
        found = torch.from_numpy(fitted.coef_[0]) / scale
    return (found * (mean.norm() / found.norm())).float()


@dataclasses.dataclass(frozen=True)
class Directions:
    """A direction for each of some layers of one model.

    Attributes:
        values: layer -> (d_model,).
        model: what it was made from, for messages.
        by: how.
        architecture: `config.model_type` of that model, which another's directions are told by; "" where not known.
    """

    values: Mapping[int, torch.Tensor]
    model: str = ""
    by: str = ""
    architecture: str = ""

    @classmethod
    def make(
        cls, model: nn.Module, tokenizer: Any, pairs: Sequence[Pair], *, by: By = "mean-difference", name: str = ""
    ) -> Directions:
        """Read the pairs at all layers.

        Raises:
            InputError: there are fewer than two pairs.
        """
        if len(pairs) < 2:
            raise InputError(f"a direction needs at least two pairs, got {len(pairs)}")
        both = activations(model, tokenizer, [p.positive for p in pairs] + [p.negative for p in pairs])
        made = {i: direction(x[: len(pairs)], x[len(pairs) :], by) for i, x in enumerate(both)}
        return cls(made, name or type(model).__name__, by, _type_of(model))

    def __neg__(self) -> Directions:
        return self * -1.0

    def __mul__(self, factor: float) -> Directions:
        return dataclasses.replace(self, values={n: v * factor for n, v in self.values.items()})

    def __add__(self, other: Directions) -> Directions:
        layers = sorted({*self.values, *other.values})
        zero = torch.zeros_like(next(iter(self.values.values())))
        summed = {n: self.values.get(n, zero) + other.values.get(n, zero) for n in layers}
        return dataclasses.replace(self, values=summed, by=f"{self.by} + {other.by}")

    def __sub__(self, other: Directions) -> Directions:
        return self + -other

    def steering(self, model: nn.Module, layer: int | None = None, **settings: Any) -> SteeringVector:
        """The method that adds one of them; by default that of the middle layer.

        Raises:
            InputError: there is none for the layer, or they are of another model's width or depth.
        """
        chosen = sorted(self.values)[len(self.values) // 2] if layer is None else layer
        if chosen not in self.values:
            raise InputError(f"there is a direction for layers {sorted(self.values)}, not for {chosen}")
        width = len(self.values[chosen])
        if width != width_of(model):
            raise InputError(
                f"the directions of {self.model or 'another model'} are of width {width}, the residual stream of "
                f"{type(model).__name__} of {width_of(model)}"
            )
        block_name(model, max(self.values))  # a deeper model's are refused
        # llama.cpp has shorter names: gptneox for gpt_neox, gemma3 for gemma3_text, and llama for mistral.
        own, theirs = (
            name.replace("_", "").replace("mistral", "llama") for name in (_type_of(model), self.architecture)
        )
        if own and theirs and not (own.startswith(theirs) or theirs.startswith(own)):
            raise InputError(
                f"the directions were made from a model of type {self.architecture}, {type(model).__name__} is of type "
                f"{_type_of(model)}; without architecture they are taken for any of its width and depth"
            )
        return SteeringVector(vector=self.values[chosen], layer=chosen, **settings)

    def best_layer(self, model: nn.Module, judge: Task, scale: float = 0.5) -> int:
        """The layer whose direction shifts a score most from -scale to scale, the last tenth of them left out.

        Args:
            model: that they were made from.
            judge: whose score is to rise; not what the directions are reported on.
            scale: of the doses.
        """
        deepest = max(self.values)

        def shift(layer: int) -> float:
            ends = []
            for dose in (-scale, scale):
                with SteeringVector(vector=self.values[layer], layer=layer, scale=dose).apply(model):
                    ends.append(scores(model, judge).double().mean().item())
            return ends[1] - ends[0]

        tried = [layer for layer in self.values if layer < 0.9 * deepest or layer == min(self.values)]
        return max(tried, key=shift)

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with "direction.N" for each layer, atomically."""
        tensors = {f"direction.{n}": vector.contiguous() for n, vector in self.values.items()}
        metadata = {"format": FORMAT, "version": str(VERSION), "model": self.model, "by": self.by}
        metadata |= {"architecture": self.architecture}
        write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """What `save` wrote, or a GGUF control vector.

        Raises:
            InputError: the file is missing, damaged, or no file of directions.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no directions at {path}")
        if path.suffix == ".gguf":
            from hardy.interp.control_vectors import read_control_vector

            values, hint, by = read_control_vector(path)
            return cls(values, hint, by, hint)
        with reading(path):
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InputError(f"{path} is no file of directions of hardy")
                if metadata.get("version") != str(VERSION):
                    raise InputError(f"{path} is of version {metadata.get('version')}; this hardy reads {VERSION}")
                values = {int(key.removeprefix("direction.")): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = [metadata.get(name, "") for name in ("model", "by", "architecture")]
            return cls(dict(sorted(values.items())), *about)


def _type_of(model: Any) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))


@torch.no_grad()
def divergence(model: nn.Module, reference: torch.Tensor, ids: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence in nats per token of what the model says now from what it said before.

    Args:
        model: as it is now.
        reference: (n, positions, vocabulary), log-probabilities before.
        ids: (n, positions) token ids of text that the change is not about.
    """
    now = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    return (reference.exp() * (reference - now)).sum(-1).mean().item()
