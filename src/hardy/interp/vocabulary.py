"""Vocabulary projection: what an object says about the next token, read through the model's own head.

The logit lens (nostalgebraist 2020) reads the residual stream; direct logit attribution splits the difference of two
logits over everything that was added to the stream, with the scale of the last norm as it was.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from hardy import hooks
from hardy.errors import InputError
from hardy.hooks.blocks import blocks_of
from hardy.hooks.point import canonical, resolve
from hardy.hooks.taps import per_head
from hardy.interp.locator import Locator, recorded
from hardy.interp.objects import Unit, points_of
from hardy.interp.task import Task


def final_norm(model: nn.Module) -> nn.Module:
    """The norm before the head: the last norm module outside of all blocks.

    Raises:
        InputError: there is none.
    """
    inside = tuple(f"{block.name}." for block in blocks_of(model))
    found = [
        module
        for name, module in model.named_modules()
        if not name.startswith(inside) and "norm" in type(module).__name__.lower()
    ]
    if not found:
        raise InputError(f"{type(model).__name__} has no norm before its head")
    return found[-1]


def lens(model: Any, stream: torch.Tensor) -> torch.Tensor:
    """Logits (..., vocabulary) that the head reads off a residual stream (..., d_model)."""
    logits = model.get_output_embeddings()(final_norm(model)(stream))
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if not cap else cap * torch.tanh(logits / cap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitLens(Locator):
    """The score that the residual stream has at each layer and position, as a share of the final one."""

    object: str = "residual"

    by = "logit-lens"
    family = "vocabulary"
    meaning = "score that the head reads off the stream here"
    unit = "nats"
    kinds = ("residual",)
    why_not = "the head reads streams; what objects add to one is direct-logit-attribution"
    needs_corrupt = False

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        units = self.units(model, task)
        points = list(dict.fromkeys(unit.point for unit in units))
        totals = dict.fromkeys(map(str, units), 0.0)
        for part in task.batches(self.batch):
            seen = recorded(model, points, part.inputs())[0]
            for unit in units:
                position = -1 if unit.position is None else unit.position
                with torch.no_grad():
                    score = part.score(lens(model, seen[unit.point][:, position]))
                totals[str(unit)] += score.double().sum().item() / len(task)
        return totals


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectLogitAttribution(Locator):
    """What each object adds to logit(right) - logit(wrong) at the last position, the last norm's scale held fixed.

    The parts of all heads and MLPs, the embedding and the biases add up to the whole difference.
    """

    by = "direct-logit-attribution"
    family = "vocabulary"
    meaning = "direct effect on logit(right) - logit(wrong)"
    unit = "nats"
    kinds = ("embedding", "attention", "head", "ffn", "neuron", "feature")
    why_not = "it adds up what is written to the stream: read streams with logit-lens; q, k and v write nothing there"
    needs_corrupt = False

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        if not task.wrong.shape[1]:
            raise InputError(f"{self.by} compares two logits; {task.name} has no wrong answers")
        wanted = points_of(model, self.kind)
        found: dict[str, float] = {}
        blocks = {block.label: block for block in blocks_of(model)}
        for part in task.batches(self.batch):
            norm = final_norm(model)
            captured: list[torch.Tensor] = []
            name = next(name for name, module in model.named_modules() if module is norm)
            with (
                torch.no_grad(),
                hooks.watch(model, {(name, "input"): lambda x, kept=captured: kept.append(x[:, -1:].detach())}),
            ):
                seen = recorded(model, wanted, part.inputs())[0]
            reader = readers(model, norm, captured[0], part)  # (n, d_model)
            for point, value in seen.items():
                label = point.rpartition(".blocks.")[2] or point
                block = blocks.get(".".join(label.split(".")[:2]))
                last = value[:, -1]
                if self.object == "head":
                    assert block is not None
                    projection = model.get_submodule(f"{block.name}.{block.attention['attn'].parts['o']}")
                    with torch.no_grad():
                        parts = torch.einsum("nhd,nd->h", per_head(projection, last).double(), reader)
                elif self.object == "neuron":
                    assert block is not None
                    down: Any = model.get_submodule(f"{block.name}.{block.mlp['down']}")
                    weight = getattr(down, "weight", None)
                    if not isinstance(weight, torch.Tensor) or type(down).__name__ not in {"Linear", "Conv1D"}:
                        raise InputError(f"{block.name}.{block.mlp['down']} holds no plain weight to read neurons from")
                    matrix = weight if type(down).__name__ == "Conv1D" else weight.mT  # (neuron, d_model)
                    parts = (last.double() * (reader @ matrix.detach().double().mT)).sum(0)
                elif self.object == "feature":
                    parts = (last.double() * (reader @ directions_of(model, point).double().mT)).sum(0)
                else:
                    parts = (last.double() * reader).sum().reshape(1)
                for index, amount in enumerate(parts.tolist()):
                    unit = Unit(point, index if self.kind.indexed else None)
                    found[str(unit)] = found.get(str(unit), 0.0) + amount / len(task)
        return found


def directions_of(model: Any, point: str) -> torch.Tensor:
    """(d_sae, d_model): what each feature of an attached autoencoder adds to the stream.

    Raises:
        InputError: it is of an activation that is no sum in the stream.
    """
    sae: Any = getattr(resolve(model, [point])[0], "sae", None)
    width = model.get_input_embeddings().weight.shape[1]
    if sae is None or sae.d_in != width or canonical(sae.point).endswith((".z", ".post")):
        raise InputError(f"the features at {point} are no directions of the residual stream")
    return sae.decoder


def readers(model: Any, norm: Any, stream: torch.Tensor, task: Task) -> torch.Tensor:
    """(n, d_model) float64: its product with what was added to the stream is the direct effect on the score.

    The derivative of the norm with its statistics held as they are: for a given stream the map is linear.
    """
    head = model.get_output_embeddings()
    weight = head.weight.detach().double()
    n = len(task)
    toward = torch.zeros(n, weight.shape[1], dtype=torch.float64, device=weight.device)
    for answers, sign in ((task.right, 1.0), (task.wrong, -1.0)):
        real = answers >= 0
        rows = weight[answers.clamp_min(0)] * real.unsqueeze(-1)
        toward += sign * rows.sum(1) / real.sum(1, keepdim=True)
    x = stream[:, 0].double()
    gain = getattr(norm, "weight", None)
    with torch.no_grad():
        centred = isinstance(norm, nn.LayerNorm)
        y = norm(stream)[:, 0].double() - (norm.bias.double() if centred and norm.bias is not None else 0)
        x = x - x.mean(-1, keepdim=True) if centred else x
        # y = gain * x / scale: the gain over the scale, wherever the stream is not zero.
        assert gain is not None
        ratio = torch.where(x.abs() > 1e-9, y / torch.where(x.abs() > 1e-9, x, 1.0), 0.0)
    toward = toward * ratio
    return toward - toward.mean(-1, keepdim=True) if centred else toward


@torch.no_grad()
def top_tokens(model: Any, tokenizer: Any, vector: torch.Tensor, k: int = 10) -> list[tuple[str, float]]:
    """The tokens that a direction of the stream speaks for most, with their logits: of a neuron, a head, a vector."""
    scores = model.get_output_embeddings().weight.detach().float() @ vector.float().to(model.device)
    best = scores.topk(k)
    return [
        (tokenizer.decode([token]), value)
        for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
