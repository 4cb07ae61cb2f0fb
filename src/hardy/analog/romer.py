"""Put the experts and routers of a noisy mixture right, without training: replace idle experts, calibrate logits.

Source: ROMER (arXiv 2605.11800), whose abstract names the two steps; percentiles, thresholds and the three ways to
replace are our reading. Where we differ: every block's change is kept only if the loss on calibration data, averaged
over chip instances, falls, because on a mixture without redundant experts both steps hurt.
"""

import dataclasses
import statistics
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn

from hardy import checks
from hardy.analog.experts import NEVER, Block, RepairedRouter, blocks, routing
from hardy.core.method import Method
from hardy.core.rng import generator
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.evaluate import mean_loss
from hardy.report import Row

Mode = Literal["alias", "copy", "keep"]


def replacements(counts: torch.Tensor, threshold: float, share: float) -> list[tuple[int, int]]:
    """Which experts are idle and by which busy ones they are replaced: pairs (idle, busy).

    Args:
        counts: how often each expert was used, (experts,).
        threshold: idle is who was used less than this part of the mean.
        share: at most this part of the experts is replaced, the least used first.
    """
    order = counts.argsort(stable=True)
    idle = [int(e) for e in order if counts[e] < threshold * counts.mean()][: int(share * len(counts))]
    busy = [int(e) for e in order.flip(0) if int(e) not in idle]
    return [(cold, busy[place % len(busy)]) for place, cold in enumerate(idle)]


def affine_of(clean: torch.Tensor, noisy: torch.Tensor, percentiles: tuple[float, float, float]) -> torch.Tensor:
    """Scale and shift, (2, experts), that give `noisy` logits the percentiles of the `clean` ones, expert by expert.

    Args:
        clean, noisy: (tokens, experts).
        percentiles: low, middle, high, in per cent: the middle ones agree then, and the distance of the others.
    """
    at = torch.tensor([p / 100 for p in percentiles], dtype=clean.dtype, device=clean.device)
    (low, middle, high), (noisy_low, noisy_middle, noisy_high) = (torch.quantile(q, at, dim=0) for q in (clean, noisy))
    scale = (high - low) / (noisy_high - noisy_low).clamp(min=1e-6)
    return torch.stack([scale, middle - scale * noisy_middle])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Guarded(Method):
    """What both steps share: chip instances to look at, and the loss that a change must lower."""

    noise: Method
    seeds: tuple[int, ...] = (0,)

    unsaved: ClassVar[str] = "scales, shifts and shares of a router have no place in the model's own format"

    def check(self) -> None:
        fields = {field.name for field in dataclasses.fields(self.noise)} if isinstance(self.noise, Method) else set()
        if not {"seed", "select", "layers"} <= fields:
            raise InputError(f"noise must be Deploy or a noise of hardy.hardware, got {self.noise!r}")
        good = isinstance(self.seeds, tuple) and self.seeds
        if not good or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in self.seeds):
            shown = "none" if self.seeds == () else repr(self.seeds)
            raise InputError(f"seeds must be integers, at least one chip instance, got {shown}")

    def _noisy(self, seed: int) -> Any:
        return dataclasses.replace(self.noise, seed=seed)  # pyright: ignore[reportCallIssue]

    def _loss(self, model: nn.Module, batches: list[Any]) -> float:
        values = []
        for seed in self.seeds:
            with torch.inference_mode(), self._noisy(seed).apply(model, batches):
                values.append(mean_loss(model, batches).item())
        return statistics.fmean(values)

    def _batches(self, data: Iterable[Any] | None) -> list[Any]:
        batches = list(data or [])
        if not batches:
            raise InputError(f"{type(self).__name__} needs calibration batches: give apply token ids")
        return batches

    @staticmethod
    def _rows(start: float, end: float, changed: dict[str, int]) -> list[Row]:
        return [
            Row(metric="calibration_loss", condition="noisy", value=start, unit="nats/token"),
            Row(metric="calibration_loss", condition="repaired", value=end, unit="nats/token"),
            *(Row(metric="changed_experts", condition=name, value=count) for name, count in changed.items()),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertReplacement(_Guarded):
    """Overwrite experts that noise leaves idle with copies of busy ones, block by block, where that lowers the loss.

    Apply it to the clean model, then the noise: the copy in the idle slot meets other cells than its original.
    Shared experts are never touched.

    Args:
        noise: `Deploy` or a noise of `hardy.hardware`, as the model will meet it; whether the router is analog too is
            up to its `select`.
        seeds: chip instances over which usage is counted and the loss averaged. One known chip, or several for all.
        mode: "alias": the idle logit is never chosen, and whoever chooses the busy expert gets the mean of original
            and copy (one more expert is computed for it); "copy": the router's row is copied along, so that both
            enter the choice and take two of its places; "keep": the idle expert's row stays.
        threshold: idle is who is used less than this part of the mean; where noise is strong that is anybody below it.
        share: of the experts, at most this part is replaced; half and a quarter of it are tried too.
    """

    mode: Mode = "alias"
    threshold: float = 1.0
    share: float = 0.75

    def check(self) -> None:
        super().check()
        checks.one_of("mode", self.mode, get_args(Mode))
        for name in ("threshold", "share"):
            checks.number(name, getattr(self, name), at_least=0, at_most=1)

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        found, batches = blocks(model), self._batches(data)
        counts = [torch.zeros(block.count, dtype=torch.float64) for block in found]
        for seed in self.seeds:
            with self._noisy(seed).apply(model, batches):
                for total, drawn in zip(counts, routing(model, batches, found)[1], strict=True):
                    total += drawn
        start = best = self._loss(model, batches)
        changed = {}
        for block, usage in zip(found, counts, strict=True):
            options = {tuple(replacements(usage, self.threshold, self.share / part)) for part in (1, 2, 4)} - {()}
            kept: tuple[tuple[int, int], ...] = ()
            for pairs in sorted(options, key=len):
                trial = Edits(model)
                try:
                    replace(model, trial, block, pairs, self.mode)
                    loss = self._loss(model, batches)
                finally:
                    trial.undo()
                if loss < best:
                    best, kept = loss, pairs
            if kept:
                replace(model, edits, block, kept, self.mode)
            changed[block.experts] = len(kept)
        return self._rows(start, best, changed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouterCalibration(_Guarded):
    """Scale and shift the noisy logits of each router to the percentiles they have without noise.

    A block's calibration is kept only if it lowers the loss. Apply it to the clean model, then the noise.

    Args:
        noise, seeds: as in `ExpertReplacement`.
        percentiles: low, middle and high, in per cent. Each expert has its own: one scale and one shift for all
            experts of a block would leave the choice as it is.
    """

    percentiles: tuple[float, float, float] = (5.0, 50.0, 95.0)

    def check(self) -> None:
        super().check()
        good = isinstance(self.percentiles, tuple) and len(self.percentiles) == 3
        good = good and all(isinstance(p, int | float) and not isinstance(p, bool) for p in self.percentiles)
        if not good or not 0 <= self.percentiles[0] < self.percentiles[1] < self.percentiles[2] <= 100:
            raise InputError(f"percentiles must be three rising numbers from 0 to 100, got {self.percentiles!r}")

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        found, batches = blocks(model), self._batches(data)
        clean, _ = routing(model, batches, found)
        start = best = self._loss(model, batches)
        changed = {}
        for index, block in enumerate(found):  # in order: what is put right changes what later blocks see
            affine = []
            for seed in self.seeds:
                with self._noisy(seed).apply(model, batches):
                    noisy = routing(model, batches, [block])[0][0]
                affine.append(affine_of(clean[index], noisy, self.percentiles))
            scale, shift = torch.stack(affine).mean(0)
            before: Any = model.get_submodule(block.router)
            if isinstance(before, RepairedRouter):
                scale, shift = scale * before.scale, scale * before.shift + shift
                shift = torch.where(before.shift <= NEVER, before.shift, shift)
            trial = Edits(model)
            trial.set_module(block.router, RepairedRouter(before, scale=scale, shift=shift))
            try:
                loss = self._loss(model, batches)
            finally:
                trial.undo()
            changed[block.router] = block.count if loss < best else 0
            if loss < best:
                best = loss
                edits.set_module(block.router, RepairedRouter(before, scale=scale, shift=shift))
        return self._rows(start, best, changed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomReplacement(Method):
    """The control of `ExpertReplacement`: as many random experts, replaced by random others, and no guard.

    Args:
        count: experts replaced in each block.
        seed: of the choice.
        mode: as in `ExpertReplacement`.
    """

    count: int
    seed: int = 0
    mode: Mode = "alias"

    unsaved: ClassVar[str] = _Guarded.unsaved

    def check(self) -> None:
        checks.integer("count", self.count, at_least=1)
        checks.integer("seed", self.seed)
        checks.one_of("mode", self.mode, get_args(Mode))

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        changed = {}
        for block in blocks(model):
            if 2 * self.count > block.count:
                raise InputError(f"count must be at most half of the {block.count} experts, got {self.count}")
            order = torch.randperm(block.count, generator=generator(self.seed, "experts", block.experts)).tolist()
            pairs = tuple(zip(order[: self.count], order[self.count : 2 * self.count], strict=True))
            replace(model, edits, block, pairs, self.mode)
            changed[block.experts] = self.count
        return [Row(metric="changed_experts", condition=name, value=count) for name, count in changed.items()]


def replace(model: nn.Module, edits: Edits, block: Block, pairs: tuple[tuple[int, int], ...], mode: Mode) -> None:
    """Overwrite the idle expert of each pair (idle, busy) with the busy one; `mode` as in `ExpertReplacement`."""
    experts: Any = model.get_submodule(block.experts)
    router: Any = model.get_submodule(block.router)
    idle, busy = [cold for cold, _ in pairs], [hot for _, hot in pairs]
    for name in block.stacks:
        _overwrite(edits, experts, name, idle, busy)
    if mode == "copy":
        _overwrite(edits, router, "weight", idle, busy)
    if mode != "alias":
        return
    groups = {expert: [expert] for expert in range(block.count)}
    for cold, hot in pairs:
        groups[hot].append(cold)
    width = max(map(len, groups.values()))
    members = torch.tensor([group + [expert] * (width - len(group)) for expert, group in groups.items()])
    shares = torch.tensor([[1 / len(g)] * len(g) + [0.0] * (width - len(g)) for g in groups.values()])
    shift = router.shift.clone() if isinstance(router, RepairedRouter) else torch.zeros(block.count)
    shift[idle] = NEVER
    edits.set_module(block.router, RepairedRouter(router, shift=shift, members=members, shares=shares))


def _overwrite(edits: Edits, owner: Any, name: str, idle: list[int], busy: list[int]) -> None:
    old = getattr(owner, name)
    values = old.detach().clone()
    values[idle] = old.detach()[busy]
    edits.swap(owner, name, nn.Parameter(values, requires_grad=old.requires_grad))
