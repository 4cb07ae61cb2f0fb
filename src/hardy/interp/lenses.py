"""Lenses that are more than the model's own head: translators that are learned, and the model itself asked.

Tuned lens (Belrose et al. 2023): an affine map for each block, trained to give the model's last answer. Patchscope
(Ghandeharioun et al. 2024): a stream is put into a prompt that copies, and the model says what is in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks, hooks
from hardy.core.ranking import Ranking
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.interp.locator import Locator, recorded
from hardy.interp.objects import KINDS, points_of
from hardy.interp.task import Task, last_logits
from hardy.interp.vocabulary import lens
from hardy.runs.progress import track


@dataclasses.dataclass(frozen=True, eq=False)
class TunedLens:
    """A translator for the stream after each block, and what it leaves.

    Attributes:
        translators: point -> (d_model, d_model) and (d_model,), added to the stream: 0 is the logit lens.
        divergence: point -> KL divergence to the model's answer in nats per token, before and after the training, on
            the batches that it was trained on.
    """

    translators: dict[str, tuple[torch.Tensor, torch.Tensor]]
    divergence: dict[str, tuple[float, float]]

    @classmethod
    def fit(cls, model: Any, batches: Sequence[Any], *, steps: int = 100, learning_rate: float = 1e-3) -> TunedLens:
        """Train the translators of all blocks but the last on text.

        Args:
            model: any decoder.
            batches: of token ids; one a step, again from the first.
            steps, learning_rate: of Adam.
        """
        checks.integer("steps", steps, at_least=1)
        checks.number("learning_rate", learning_rate, above=0)
        if not batches:
            raise InputError("a tuned lens needs text, got no batches")
        points = points_of(model, KINDS["residual"])[:-1]
        width = model.get_input_embeddings().weight.shape[1]
        made = {p: (torch.zeros(width, width, device=model.device, requires_grad=True),
                    torch.zeros(width, device=model.device, requires_grad=True)) for p in points}  # fmt: skip
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        optimizer = torch.optim.Adam([t for pair in made.values() for t in pair], lr=learning_rate)
        for step in track(range(steps), "tuned lens"):
            with torch.no_grad(), hooks.record(model, points) as seen:
                output = hooks.run(model, batches[step % len(batches)])
            goal = output.logits.float().log_softmax(-1)
            optimizer.zero_grad()
            for point, (matrix, shift) in made.items():
                with torch.enable_grad():
                    said = _translated(model, seen[point].detach(), matrix, shift).float().log_softmax(-1)
                    loss = (goal.exp() * (goal - said)).sum(-1).mean()
                    for part, gradient in zip((matrix, shift), torch.autograd.grad(loss, [matrix, shift]), strict=True):
                        part.grad = gradient
                last[point] = loss.item()
                first.setdefault(point, last[point])
            optimizer.step()
        kept = {point: (matrix.detach(), shift.detach()) for point, (matrix, shift) in made.items()}
        return cls(kept, {point: (first[point], last[point]) for point in points})

    def logits(self, model: Any, point: str, stream: torch.Tensor) -> torch.Tensor:
        """What the stream at a point says of the next token, (..., vocabulary)."""
        if point not in self.translators:
            return lens(model, stream)
        return _translated(model, stream, *self.translators[point])

    def locate(self, model: nn.Module, task: Task) -> Ranking:
        """The score that is read off the stream after each block at the last position of the clean prompts."""
        points = points_of(model, KINDS["residual"])
        totals = dict.fromkeys(points, 0.0)
        for part in task.batches(32):
            seen = recorded(model, points, part.inputs())[0]
            for point in points:
                with torch.no_grad():
                    score = part.score(self.logits(model, point, seen[point][:, -1]))
                totals[point] += score.double().sum().item() / len(task)
        return Ranking(scores=totals, meaning="score that a tuned lens reads off the stream", unit="nats",
                       by="tuned-lens")  # fmt: skip


def _translated(model: Any, stream: torch.Tensor, matrix: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    wide = stream.float()
    return lens(model, (wide + wide @ matrix + shift).to(stream.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patchscope(Locator):
    """The score that the model itself gives when the stream is put, at its own block, into a prompt that copies.

    The prompt is of tokens that each occur twice in a row, and a last one in whose place the stream stands.

    Args:
        pairs: copied tokens before the last.
        seed: of the tokens.
    """

    object: str = "residual"
    pairs: int = 5
    seed: int = 0

    by = "patchscope"
    family = "vocabulary"
    meaning = "score that the model gives when the stream is put into a prompt that copies"
    unit = "nats"
    kinds = ("residual",)
    why_not = "only a whole stream can stand in another prompt"
    needs_corrupt = False

    def check(self) -> None:
        checks.integer("pairs", self.pairs, at_least=1)
        checks.integer("seed", self.seed)

    def effects(self, model: Any, task: Task) -> dict[str, float]:
        units = self.units(model, task)
        points = list(dict.fromkeys(unit.point for unit in units))
        vocabulary = model.config.get_text_config().vocab_size
        low = min(300, vocabulary // 2)  # behind bytes and special tokens
        draw = torch.randint(low, vocabulary, (self.pairs + 1,), generator=generator(self.seed, "patchscope"))
        ids = torch.cat([draw[:-1].repeat_interleave(2), draw[-1:]]).to(task.clean.device)
        totals = dict.fromkeys(map(str, units), 0.0)
        for part in task.batches(self.batch):
            seen = recorded(model, points, part.inputs())[0]
            inputs = {"input_ids": ids.expand(len(part), -1), "use_cache": False}
            for unit in track(units, f"{self.by} {self.object}"):
                value = seen[unit.point][:, -1 if unit.position is None else unit.position]

                def put(x: torch.Tensor, value: torch.Tensor = value) -> torch.Tensor:
                    return torch.cat([x[:, :-1], value.unsqueeze(1)], 1)

                with torch.no_grad(), hooks.patch(model, {unit.point: put}):
                    score = part.score(last_logits(model, inputs))
                totals[str(unit)] += score.double().sum().item() / len(task)
        return totals
