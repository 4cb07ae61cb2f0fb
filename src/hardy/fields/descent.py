"""The loop under every fit: Adam on the parameters of many networks that know nothing of each other."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.evaluate import psnr_of_error
from hardy.fields import checkpoint
from hardy.fields.activations import check_positive
from hardy.fields.field import Parameters, check_count
from hardy.fields.losses import Loss
from hardy.fields.samples import Samples
from hardy.fields.signals import PEAK

Predict = Callable[[Parameters, torch.Tensor], torch.Tensor]

# A check goes through all points, so many at a time.
_POINTS_AT_ONCE = 65536


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast.

    Args:
        steps: of Adam, at most.
        learning_rate: at the start; None for the activation's own.
        decay: the learning rate falls exponentially to this share of it over `steps`.
        points: drawn afresh for each step, the same for all signals of one grid; None for all points in every step.
        target_psnr: in dB; a field that reaches it at a check is finished. None to use all steps.
        check_every: steps between checks, each of which evaluates all points once.
        seed: of the drawn points.

    Raises:
        InputError: a field is out of range.
    """

    steps: int = 1000
    learning_rate: float | None = None
    decay: float = 0.1
    points: int | None = None
    target_psnr: float | None = None
    check_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("check_every", self.check_every)
        if self.points is not None:
            check_count("points", self.points)
        for name in ("learning_rate", "target_psnr"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_positive("decay", self.decay)
        if type(self.seed) is not int:
            raise InputError(f"seed must be an integer, got {self.seed!r}")

    def rate(self, step: int, default: float) -> float:
        """The learning rate of `step`, where `default` is that of the activation."""
        return (self.learning_rate or default) * self.decay ** (step / self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """How one network was fitted.

    Attributes:
        psnr: of the fitted network in dB (the mean over its signals), NaN where the fit diverged.
        steps: how many it took.
        seconds: of the batch that it was part of, until this network was finished.
        history: (step, psnr) at each check; step 0 is the network as it was.
    """

    psnr: float
    steps: int
    seconds: float
    history: tuple[tuple[int, float], ...]

    def steps_to(self, psnr: float) -> int | None:
        """Steps until the first check at which the network had at least `psnr` dB; None if it never had."""
        return next((step for step, value in self.history if value >= psnr), None)


def separately(rows: torch.Tensor) -> torch.Tensor:
    """One network for each signal: what holds for the rows holds for the networks."""
    return rows


def together(rows: torch.Tensor) -> torch.Tensor:
    """One network for all signals: the mean of the rows, (1,)."""
    return rows.mean(0, keepdim=True)


def descend(
    parameters: Parameters,
    predict: Predict,
    samples: Samples,
    *,
    loss: Loss,
    schedule: Schedule,
    learning_rate: float,
    networks: Callable[[torch.Tensor], torch.Tensor] = separately,
    checkpoint_file: str | Path | None = None,
    progress: bool = False,
) -> tuple[dict[str, torch.Tensor], list[Fit]]:
    """Minimise `loss` of the error of `predict` on `samples`.

    Args:
        parameters: each (networks, ...); not written to.
        predict: values (rows, points, channels) at parameters and coordinates (rows or 1, points, d).
        samples: what to predict; as many rows as `predict` gives.
        loss: see `Loss`.
        schedule: see `Schedule`.
        learning_rate: where the schedule names none.
        networks: `separately` where row and network are one, `together` where one network has all rows.
        checkpoint_file: written at checks; a run that was broken off goes on from it.
        progress: whether to show a progress bar.

    Returns:
        The fitted parameters, those of diverged networks as they were, and a `Fit` for each network.

    Raises:
        InputError: the checkpoint is damaged or of another run.
    """
    run = Run(parameters, schedule.rate(0, learning_rate))
    identity: dict[str, str] = {}
    if checkpoint_file is not None:
        identity = {
            "settings": f"{loss}; {schedule}; learning rate {learning_rate}; {networks.__name__}",
            "signals": checkpoint.digest({"coordinates": samples.coordinates, "values": samples.values}),
            "initial weights": checkpoint.digest(run.final),
        }
        checkpoint.resume(checkpoint_file, run, identity)
        samples = samples.rows(run.alive) if networks is separately else samples
    begun = time.perf_counter() - run.seconds
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not progress) as bar:
        task = bar.add_task(f"fitting {len(run.histories)}", total=schedule.steps, completed=run.step)
        while run.alive:
            if run.step % schedule.check_every == 0 or run.step == schedule.steps:
                if run.checked != run.step:
                    run.seconds = time.perf_counter() - begun
                    left = run.check(networks(_psnr(run.leaves, predict, samples)), schedule)
                    if left != list(range(len(run.alive))):
                        run.keep(left)
                        samples = samples.rows(left) if left else samples
                    if checkpoint_file is not None:
                        checkpoint.write(checkpoint_file, run, identity)
                if not run.alive:
                    break
            drawn = samples
            if schedule.points is not None:
                drawn = samples.drawn(schedule.points, generator(schedule.seed, "points", run.step))

            def reconstruction(at: Parameters, seen: Samples = drawn) -> torch.Tensor:
                return networks(seen.error(predict(at, seen.coordinates)))

            _, gradients = loss.gradients(reconstruction, run.leaves, run.step, run.step / schedule.steps)
            for name, leaf in run.leaves.items():
                leaf.grad = gradients[name].contiguous()  # a fused step takes no notice of strides
            run.optimizer.param_groups[0]["lr"] = schedule.rate(run.step, learning_rate)
            run.optimizer.step()
            run.step += 1
            bar.update(task, completed=run.step)
    fits = [run.fits[index] for index in range(len(run.histories))]
    return run.final, fits


class Run:
    """Where a descent stands: the networks still in it, their optimizer, and what is known of the others."""

    def __init__(self, parameters: Parameters, learning_rate: float) -> None:
        self.final = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        self.leaves = {name: tensor.clone().requires_grad_() for name, tensor in self.final.items()}
        # One pass over all parameters instead of eight operations on each; complex ones it does not take.
        fused = not any(leaf.is_complex() for leaf in self.leaves.values())
        self.optimizer = torch.optim.Adam(self.leaves.values(), lr=learning_rate, fused=fused)
        networks = len(next(iter(self.final.values())))
        self.alive = list(range(networks))
        self.histories: list[list[tuple[int, float]]] = [[] for _ in range(networks)]
        self.fits: dict[int, Fit] = {}
        self.step, self.seconds, self.checked = 0, 0.0, -1

    def check(self, psnr: torch.Tensor, schedule: Schedule) -> list[int]:
        """Note the PSNR of each network that is left, finish those that are done, and give the places of the rest."""
        left = []
        self.checked = self.step
        for place, (network, value) in enumerate(zip(self.alive, psnr.tolist(), strict=True)):
            self.histories[network].append((self.step, value))
            reached = schedule.target_psnr is not None and value >= schedule.target_psnr
            if not (math.isnan(value) or reached or self.step == schedule.steps):
                left.append(place)
                continue
            if not math.isnan(value):
                for name, leaf in self.leaves.items():
                    self.final[name][network] = leaf.detach()[place]
            history = tuple(self.histories[network])
            self.fits[network] = Fit(psnr=value, steps=self.step, seconds=self.seconds, history=history)
        return left

    def keep(self, places: Sequence[int]) -> None:
        """Take all other networks out of the parameters and of the optimizer's memory of them."""
        self.alive = [self.alive[place] for place in places]
        for leaf in self.leaves.values():
            index = torch.tensor(places, device=leaf.device, dtype=torch.long)
            leaf.grad = None
            leaf.data = leaf.data[index]
            state = self.optimizer.state[leaf]
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    state[name] = state[name][index]


@torch.no_grad()
def _psnr(parameters: Parameters, predict: Predict, samples: Samples) -> torch.Tensor:
    """PSNR in dB of each row over all points, values clipped to [-1, 1], (rows,)."""
    blocks = [predict(parameters, block) for block in samples.coordinates.split(_POINTS_AT_ONCE, 1)]
    return psnr_of_error(samples.error(torch.cat(blocks, 1).clamp(-1, 1)), PEAK)
