"""Densification: a criterion, ways to clone, split and prune, and a schedule, with gsplat's Strategy interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.deprecation import renamed_fields
from hardy.errors import InputError
from hardy.splat.strategies.criteria import Criterion, MeanGradient
from hardy.splat.strategies.edits import Optimizers, Parameters, State, check_optimizers, remove, reset_opacities
from hardy.splat.strategies.energy import EnergySchedule, factor_at
from hardy.splat.strategies.parts import Clone, FixedPrune, NeedlePerturbation, PlainClone, Prune, Split
from hardy.splat.strategies.regions import Region


@renamed_fields(
    threshold="grow_grad2d",
    small="grow_scale3d",
    largest="prune_scale3d",
    start="refine_start_iter",
    stop="refine_stop_iter",
    every="refine_every",
    budget="cap_max",
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Densification:
    """When and where Gaussians multiply and vanish.

    Args:
        criterion: what is compared with `grow_grad2d`.
        grow_grad2d: of the criterion, above which a Gaussian multiplies; with `split_threshold` only small ones.
        split_threshold: for large Gaussians; None for the same.
        clone: what happens to those whose largest scale is at most `grow_scale3d` of the scene's extent; None for
            nothing.
        split: what happens to the larger ones.
        grow_scale3d: share of the extent.
        prune: which Gaussians go at each densification.
        prune_scale3d: those longer than this share of the extent go too, once opacities have been reset.
        refine_start_iter, refine_stop_iter, refine_every: steps of densification.
        reset_every: steps between resets of opacities, until `refine_stop_iter`; 0 for none.
        reset_to: what opacities are lowered to.
        clone_from: step before which nothing is cloned; "auto" for the step from which `resolution` is full.
        resolution: the schedule of image sizes; None for full size throughout.
        needles: what is done about needles, every `needles_every` steps until `needles_stop`; None for nothing.
        region: where Gaussians may multiply; None for everywhere.
        cap_max: most Gaussians; the ones with the highest criterion multiply first. None for no limit.
        seed: of the places that are drawn.

    Raises:
        InputError: a step, threshold or cap_max is out of range.
    """

    criterion: Criterion = MeanGradient()  # noqa: RUF009 - frozen
    grow_grad2d: float = 2e-4
    split_threshold: float | None = None
    clone: Clone | None = PlainClone()  # noqa: RUF009
    split: Split = Split()  # noqa: RUF009
    grow_scale3d: float = 0.01
    prune: Prune = FixedPrune()  # noqa: RUF009
    prune_scale3d: float = 0.1
    refine_start_iter: int = 500
    refine_stop_iter: int = 15_000
    refine_every: int = 100
    reset_every: int = 3000
    reset_to: float = 0.01
    clone_from: int | str = 0
    resolution: EnergySchedule | None = None
    needles: NeedlePerturbation | None = None
    needles_every: int = 3000
    needles_stop: int = 20_000
    region: Region | None = None
    cap_max: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("refine_start_iter", 0), ("refine_every", 1), ("reset_every", 0), ("needles_every", 1)):
            checks.integer(name, getattr(self, name), at_least=least)
        checks.integer("refine_stop_iter", self.refine_stop_iter, at_least=self.refine_start_iter)
        checks.number("grow_grad2d", self.grow_grad2d, above=0)
        if self.split_threshold is not None:
            checks.number("split_threshold", self.split_threshold, above=0)
        if self.cap_max is not None:
            checks.integer("cap_max", self.cap_max, at_least=1)
        if isinstance(self.clone_from, str) and self.clone_from != "auto":
            raise InputError(f'clone_from must be a step or "auto", got {self.clone_from!r}')

    def check_sanity(self, params: Parameters, optimizers: Optimizers) -> None:
        """Raise InputError unless there is a parameter of every name with an optimizer of its own."""
        check_optimizers(params, optimizers)

    def initialize_state(self, scene_scale: float = 1.0, images: Sequence[torch.Tensor] = ()) -> State:
        """The state to pass to every step.

        Args:
            scene_scale: the scene's extent.
            images: the training photos (height, width, D), which the schedule of image sizes reads.

        Raises:
            InputError: there is such a schedule and no photos are given.
        """
        ends = [0]
        if self.resolution is not None:
            if not images:
                raise InputError(
                    "a schedule of image sizes needs the training photos: initialize_state(extent, images)"
                )
            ends = self.resolution.ends(images, self.refine_stop_iter)
        full = ends[1] if len(ends) > 1 else 0
        return {
            "extent": scene_scale,
            "views": len(images),
            "ends": ends,
            "clone_from": full if self.clone_from == "auto" else self.clone_from,
            "last_reset": None,
            "first_count": 0,
        }

    def factor(self, state: State, step: int) -> int:
        """By which images are to be shrunk at `step`."""
        return factor_at(state["ends"], step) if self.resolution is not None else 1

    def full_size_from(self, state: State) -> int:
        """The first step at full size."""
        return state["ends"][1] if len(state["ends"]) > 1 else 0

    def penalty(self, params: Parameters) -> torch.Tensor:
        """What is added to the loss: nothing."""
        return params["means"].new_zeros(())

    def step_pre_backward(
        self, params: Parameters, optimizers: Optimizers, state: State, step: int, info: dict[str, Any]
    ) -> None:
        """Ask autograd to keep the gradients that the criterion reads; widen needles, if that comes before the step."""
        info["means2d"].retain_grad()
        if self._needles_due(step, "before"):
            assert self.needles is not None
            self.needles.apply(params, optimizers)
            scales = params["scales"]

            def sit_out(_: torch.Tensor) -> None:
                scales.grad = None
                handle.remove()

            handle = scales.register_post_accumulate_grad_hook(sit_out)

    def _needles_due(self, step: int, when: str) -> bool:
        due = 0 < step < self.needles_stop and step % self.needles_every == 0
        return self.needles is not None and self.needles.when == when and due

    def step_post_backward(
        self,
        params: Parameters,
        optimizers: Optimizers,
        state: State,
        step: int,
        info: dict[str, Any],
        packed: bool = False,
    ) -> None:
        """Keep statistics, and change the Gaussians when it is time to.

        Raises:
            InputError: `packed`, which rasterization does not offer.
        """
        if packed:
            raise InputError("packed must be False: statistics have a row for each Gaussian")
        if self._needles_due(step, "after"):
            assert self.needles is not None
            self.needles.apply(params, optimizers)
        if step >= self.refine_stop_iter:
            return
        self._accumulate(params, state, info)
        if step > self.refine_start_iter and step % self.refine_every == 0:
            self._grow(params, optimizers, state, step)
            self._prune(params, optimizers, state, step)
            state["total"].zero_()
            state["weight"].zero_()
        if self.reset_every and step > 0 and step % self.reset_every == 0:
            reset_opacities(params, optimizers, self.reset_to)
            state["last_reset"] = step

    def _accumulate(self, params: Parameters, state: State, info: dict[str, Any]) -> None:
        if "total" not in state:
            count, device = len(params["means"]), params["means"].device
            state["total"], state["weight"] = (torch.zeros(count, device=device) for _ in range(2))
            # Of each Gaussian: its first ancestor, where that began, and how often its line was split and cloned.
            state["origin"] = torch.arange(count, device=device)
            state["home"] = params["means"].detach().clone()
            state["splits"], state["clones"] = (torch.zeros(count, dtype=torch.int32, device=device) for _ in range(2))
            state["first_count"] = count
        with torch.no_grad():
            for camera in range(info["n_cameras"]):
                value, weight = self.criterion.measure(info, camera, state["extent"])
                state["total"] += torch.nan_to_num(value * weight)
                state["weight"] += torch.nan_to_num(weight)

    def _grow(self, params: Parameters, optimizers: Optimizers, state: State, step: int) -> None:
        gradient = state["total"] / state["weight"].clamp(min=1e-12)
        gradient = torch.where(state["weight"] > 0, gradient, 0)
        large = params["scales"].detach().exp().amax(1) > self.grow_scale3d * state["extent"]
        cloned = (gradient > self.grow_grad2d) & ~large
        if self.clone is None or (step < state["clone_from"] and not self._starved(state, step, len(gradient))):
            cloned = torch.zeros_like(cloned)
        split = (gradient > (self.split_threshold or self.grow_grad2d)) & large
        if self.region is not None:
            inside = self.region.contains(params["means"].detach())
            cloned, split = cloned & inside, split & inside
        if self.cap_max is not None:
            room = max(0, self.cap_max - len(gradient))
            candidates = cloned | split
            if int(candidates.sum()) > room:
                kept = torch.zeros_like(candidates)
                order = torch.where(candidates, gradient, -1).sort(descending=True, stable=True).indices
                kept[order[:room]] = True
                cloned, split = cloned & kept, split & kept
        random = generator(self.seed, "densification", step)
        if self.clone is not None and bool(cloned.any()):
            count = int(cloned.sum())
            self.clone.apply(params, optimizers, state, cloned, random)
            state["clones"][-count:] += 1
            split = torch.cat([split, split.new_zeros(count)])  # copies were small
        if bool(split.any()):
            self.split.apply(params, optimizers, state, split, random)
            state["splits"][-2 * int(split.sum()) :] += 1

    def _starved(self, state: State, step: int, count: int) -> bool:
        """Whether splitting alone gets nowhere, because hardly any Gaussian is large; judged halfway to cloning.

        The first step at which it is so goes into the state, as "starved_at".
        """
        starved = 2 * step >= state["clone_from"] and count < 1.2 * state["first_count"]
        if starved and state.get("starved_at") is None:
            state["starved_at"] = step
        return starved

    def _prune(self, params: Parameters, optimizers: Optimizers, state: State, step: int) -> None:
        last = state["last_reset"]
        since = step if last is None else step - last
        pruned = self.prune.chosen(params["opacities"].detach().sigmoid(), since, state["views"])
        if last is not None:
            pruned |= params["scales"].detach().exp().amax(1) > self.prune_scale3d * state["extent"]
        if bool(pruned.any()) and not bool(pruned.all()):
            remove(params, optimizers, state, pruned)
