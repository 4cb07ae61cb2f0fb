"""Activation patching: what an object does to a behaviour, by putting another run's activation in its place.

Denoising puts a clean activation into the corrupt run and asks what comes back; noising puts a corrupt one into the
clean run and asks what is lost; the ablations put zeros, the mean over the examples, or another example's activation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from hardy import checks, hooks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.interp.locator import Locator, recorded, starting_at
from hardy.interp.objects import KINDS, Unit, kind_named, patchers, points_of, unit_named
from hardy.interp.task import Task, last_logits, scores
from hardy.runs.progress import track

Mode = Literal["denoise", "noise", "zero", "mean", "resample", "gaussian"]
MODES: tuple[Mode, ...] = ("denoise", "noise", "zero", "mean", "resample", "gaussian")
_LEAST_EFFECT = 1e-6


def normalised(patched: torch.Tensor, clean: torch.Tensor, corrupt: torch.Tensor) -> float:
    """(mean patched - mean corrupt) / (mean clean - mean corrupt): 1 is the clean run, 0 the corrupt one; not clipped.

    Raises:
        InputError: clean and corrupt do not differ, so that there is nothing to recover.
    """
    low, high = corrupt.double().mean(), clean.double().mean()
    if abs(high - low) < _LEAST_EFFECT:
        raise InputError(f"clean and corrupt prompts score the same ({high:.6f}, {low:.6f}): nothing tells them apart")
    return ((patched.double().mean() - low) / (high - low)).item()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patching(Locator):
    """One run of the model per object, from the object's block on.

    Args:
        mode: "denoise" (clean into corrupt: the share of the effect that comes back), "noise" (corrupt into clean: the
            share that is lost), or what replaces the activation in the clean run: "zero", its "mean" over the examples
            at each position, that of another example ("resample"), or itself with Gaussian noise of three standard
            deviations.
        among: names of the units to score; all of them by default.
        seed: of "resample" and "gaussian".
    """

    mode: Mode = "denoise"
    among: tuple[str, ...] = ()
    seed: int = 0

    by = "patching"
    family = "causal"
    meaning = "share of the effect that the activation carries: 1 clean, 0 corrupt"

    def check(self) -> None:
        checks.one_of("mode", self.mode, MODES)
        checks.integer("seed", self.seed)

    def fitting(self, task: Task) -> Task:
        return super().fitting(task) if self.mode in ("denoise", "noise") else task

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        units = [unit_named(name) for name in self.among] or self.units(model, task)
        totals = {unit: [] for unit in units}
        clean, corrupt = [], []
        for part in task.batches(self.batch):
            source = _Source(model, part, self.mode, self.seed, sorted({unit.point for unit in units}))
            clean.append(source.clean)
            corrupt.append(source.corrupt)
            for unit in track(units, f"{self.by} {self.object}", total=len(units)):
                totals[unit].append(source.patched([unit]))
        whole, none = torch.cat(clean), torch.cat(corrupt)
        if self.mode == "denoise":
            return {str(unit): normalised(torch.cat(values), whole, none) for unit, values in totals.items()}
        if self.mode == "noise":
            return {str(unit): 1 - normalised(torch.cat(values), whole, none) for unit, values in totals.items()}
        mean = whole.double().mean()
        return {str(unit): (mean - torch.cat(values).double().mean()).item() for unit, values in totals.items()}


class _Source:
    """The runs that are compared for a part of a task, and what is patched from one into the other."""

    def __init__(self, model: nn.Module, task: Task, mode: Mode, seed: int, points: Sequence[str]) -> None:
        self.model, self.task, self.mode = model, task, mode
        base = "corrupt" if mode == "denoise" else "clean"
        numbers = {Unit(point).block for point in points}
        blocks = [f"blocks.{number}.resid_pre" for number in sorted(n for n in numbers if n)]
        streams = [name for name in blocks if name not in points]
        held, clean = recorded(model, [*points, *streams] if base == "clean" else points, task.inputs())
        self.clean = self.corrupt = task.score(clean)
        self.inputs = task.inputs(base)
        values = held
        if mode in ("denoise", "noise"):
            other, corrupt = recorded(
                model, [*points, *streams] if base == "corrupt" else points, task.inputs("corrupt")
            )
            self.corrupt = task.score(corrupt)
            values, held = (held, other) if mode == "denoise" else (other, held)
        self.values = {point: values[point] for point in points}
        self.streams = {name: held[name] for name in blocks}
        self.random = {point: generator(seed, mode, point, device=task.clean.device) for point in points}

    def value(self, point: str, activation: torch.Tensor) -> torch.Tensor:
        kept = self.values[point]
        if self.mode == "zero":
            return torch.zeros_like(activation)
        if self.mode == "mean":
            return kept.mean(0, keepdim=True).expand_as(activation)
        if self.mode == "resample":
            return kept.roll(1, 0)
        if self.mode == "gaussian":
            noise = torch.randn(activation.shape, generator=self.random[point], device=activation.device)
            return activation + 3 * kept.std() * noise.to(activation.dtype)
        return kept

    @torch.no_grad()
    def patched(self, units: Sequence[Unit]) -> torch.Tensor:
        """The score of each example with these units replaced, (n,)."""
        numbers = [unit.block for unit in units]
        first = min(n for n in numbers if n is not None) if all(n is not None for n in numbers) else None
        stream = None if not first else self.streams.get(f"blocks.{first}.resid_pre")
        # Hooked second, so that a patch of the very input of the block is put over the stream that it starts from.
        with starting_at(self.model, first, stream), hooks.patch(self.model, patchers(units, self.value)):
            return self.task.score(last_logits(self.model, self.inputs))


@torch.no_grad()
def knocked_out(
    model: nn.Module, task: Task, names: Sequence[str], *, mode: Mode = "noise", batch: int = 32, seed: int = 0
) -> float:
    """What the task scores on average with all these units replaced at once in the clean run.

    Args:
        model, task: as of a locator.
        names: of units.
        mode: what replaces them, as of `Patching`; with "denoise" they are the clean ones in the corrupt run.
        batch: examples at once.
        seed: of what is drawn.
    """
    units = [unit_named(name) for name in names]
    if not units:
        return scores(model, task, "corrupt" if mode == "denoise" else "clean", batch).double().mean().item()
    points = sorted({unit.point for unit in units})
    parts = [_Source(model, part, mode, seed, points).patched(units) for part in task.batches(batch)]
    return torch.cat(parts).double().mean().item()


def patch(model: nn.Module, values: dict[str, Any]) -> hooks.Hooks:
    """Put values in the place of objects for as long as the `with` block lasts, inside `generate` too.

    Args:
        model: any decoder.
        values: name of a unit ("blocks.3.attn.z.5", "blocks.2.resid_post@-1", "blocks.1.mlp.post.17") -> a number, a
            tensor that broadcasts to it, or a function of its activation.

    Raises:
        InputError: there is no such object. At the end of the block: it never ran, so that nothing was patched.
    """
    grouped: dict[str, list[tuple[Unit, Any]]] = {}
    for name, value in values.items():
        unit = unit_named(name)
        grouped.setdefault(unit.point, []).append((unit, value))

    def patcher(members: list[tuple[Unit, Any]]) -> Callable[[torch.Tensor], torch.Tensor]:
        def put(activation: torch.Tensor) -> torch.Tensor:
            new = activation.clone()
            for unit, value in members:
                size = activation.shape[2] if activation.ndim > 2 else 0
                if unit.index is not None and unit.index >= size:
                    raise InputError(f"{unit} is not there: {unit.point} has {size} of them")
                part = value(new[unit.place]) if callable(value) else value
                new[unit.place] = torch.as_tensor(part, dtype=new.dtype, device=new.device)
            return new

        return put

    return hooks.patch(model, {point: patcher(members) for point, members in grouped.items()})


def record(model: nn.Module, inputs: Any, objects: str | Sequence[str]) -> dict[str, torch.Tensor]:
    """The activations of objects for one batch, detached.

    Args:
        model: any decoder.
        inputs: a batch, as of `hardy.hooks.arguments`.
        objects: kinds ("head", "neuron", "residual") or names and globs of activations ("blocks.*.attn.q").

    Returns:
        Name of the activation -> tensor, shapes as in `hardy.hooks.point.SHAPES`.
    """
    wanted: list[str] = []
    for name in (objects,) if isinstance(objects, str) else objects:
        plain = not set(name) & set(".*?[") and name not in ("embed", "logits")
        wanted += points_of(model, kind_named(name)) if plain or name in KINDS else [name]
    with torch.no_grad(), hooks.record(model, wanted) as seen:
        hooks.run(model, inputs)
    return {name: value.detach() for name, value in seen.items()}
