"""Gradient locators: what patching would find, to first order, for all objects from one backward pass.

Attribution patching: Nanda 2023; integrated along the inputs it is what Hanna et al. 2024 do for edges. The value is
that of patching's effect: the share of the difference between clean and corrupt that putting the clean activation into
the corrupt run brings back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.core.roles import is_transposed
from hardy.errors import InputError
from hardy.interp.locator import Locator, per_unit, recorded, with_gradients
from hardy.interp.objects import Unit, points_of
from hardy.interp.task import Task, last_logits
from hardy.interp.tuning import parts_of
from hardy.runs.progress import track


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributionPatching(Locator):
    """(clean - corrupt activation) x gradient of the score, as a share of the effect; signed.

    Args:
        steps: gradients are averaged over so many points on the way from the corrupt to the clean embeddings; with 1
            it is the corrupt run's alone, which estimates denoising.
    """

    steps: int = 1

    by = "attribution-patching"
    family = "gradient"
    meaning = "share of the effect that the activation carries, to first order"

    def check(self) -> None:
        checks.integer("steps", self.steps, at_least=1)

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        points = points_of(model, self.kind)
        units: list[Unit] = []
        total = torch.zeros(())
        clean_sum = corrupt_sum = 0.0
        for part in track(list(task.batches(self.batch)), f"{self.by} {self.object}"):
            clean, logits = recorded(model, ["embed", *(p for p in points if p != "embed")], part.inputs())
            if not units:
                units = self.units(model, task, clean if self.kind.indexed else None)
                total = torch.zeros(len(units), dtype=torch.float64)
            clean_sum += part.score(logits).double().sum().item()
            corrupt, gradients, score = with_gradients(
                model, ["embed", *(p for p in points if p != "embed")], part.inputs("corrupt"), part
            )
            corrupt_sum += score.double().sum().item()
            mean = {point: gradients[point] / self.steps for point in points}
            start, end = corrupt["embed"], clean["embed"]
            for step in range(1, self.steps):
                between = start + (end - start) * (step / self.steps)
                _, gradients, _ = with_gradients(model, points, part.inputs("corrupt"), part, between)
                mean = {point: mean[point] + gradients[point] / self.steps for point in points}
            products = {point: (clean[point] - corrupt[point]).double() * mean[point].double() for point in points}
            total += per_unit(units, products).sum(1).cpu()
        effect = clean_sum - corrupt_sum
        if abs(effect) / len(task) < 1e-6:
            raise InputError(f"clean and corrupt prompts of {task.name} score the same: nothing tells them apart")
        return {str(unit): value / effect for unit, value in zip(units, total.tolist(), strict=True)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradient(Locator):
    """|gradient of the score| in the clean run, or activation x gradient with `times_activation`; corrupt unused."""

    times_activation: bool = True

    by = "gradient"
    family = "gradient"
    meaning = "activation x gradient of the score in the clean run"
    unit = "nats"
    needs_corrupt = False
    magnitude_ranks = True

    def check(self) -> None:
        checks.boolean("times_activation", self.times_activation)

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        units = self.units(model, task)
        points = list(dict.fromkeys(unit.point for unit in units))
        total = torch.zeros(len(units), dtype=torch.float64)
        for part in track(list(task.batches(self.batch)), f"{self.by} {self.object}"):
            seen, gradients, _ = with_gradients(model, points, part.inputs(), part)
            if self.times_activation:
                values = {point: seen[point].double() * gradients[point].double() for point in points}
                total += per_unit(units, values).sum(1).cpu()
            else:
                values = {point: gradients[point].double().square() for point in points}
                total += per_unit(units, values).sqrt().sum(1).cpu()
        return {str(unit): value / len(task) for unit, value in zip(units, total.tolist(), strict=True)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fisher(Locator):
    """The weights of each object by the squared gradient of the score, mean over examples and summed over the object's
    weights: the diagonal of the Fisher information where the score is a log-likelihood.

    Args:
        times_weight: |weight x gradient| of the mean score instead, what setting the weights to 0 would change.
    """

    object: str = "neuron"
    times_weight: bool = False

    by = "fisher"
    family = "gradient"
    meaning = "squared gradient of the score at the object's weights"
    unit = "nats^2"
    kinds = ("attention", "head", "query", "key", "value", "ffn", "neuron")
    why_not = "it has no weights of its own"
    needs_corrupt = False

    def check(self) -> None:
        checks.boolean("times_weight", self.times_weight)
        if self.per_position:
            raise InputError(f"weights are the same at all positions: {self.by} does not take per_position=True")

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        units = self.units(model, task)
        parts = {str(unit): parts_of(model, [str(unit)]) for unit in units}
        modules = sorted({part.module for some in parts.values() for part in some})
        weights: list[Any] = [model.get_submodule(name).weight for name in modules]
        total = [torch.zeros(w.shape, dtype=torch.float64, device=w.device) for w in weights]
        frozen = [w for w in weights if not w.requires_grad]
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            for i in track(range(len(task)), f"{self.by} {self.object}"):
                one = task.take(slice(i, i + 1))
                with torch.enable_grad():
                    score = one.score(last_logits(model, one.inputs())).sum()
                    gradients = torch.autograd.grad(score, weights)
                for kept, gradient in zip(total, gradients, strict=True):
                    kept += (gradient if self.times_weight else gradient.square()).double() / len(task)
        finally:
            for weight in frozen:
                weight.requires_grad_(False)
        if self.times_weight:
            total = [(kept * weight).abs() for kept, weight in zip(total, weights, strict=True)]
        matrices = {
            name: kept.mT if is_transposed(model.get_submodule(name)) else kept
            for name, kept in zip(modules, total, strict=True)
        }
        sums = {name: (matrix.sum(1), matrix.sum(0)) for name, matrix in matrices.items()}  # of rows, of columns
        return {
            name: sum(sums[part.module][part.axis][list(part.places)].sum().item() for part in some)
            for name, some in parts.items()
        }
