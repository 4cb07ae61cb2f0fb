"""The loop under every fit: Adam on the parameters of many networks that know nothing of each other."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.core.teaching import Teaching
from hardy.errors import InputError
from hardy.evaluate import psnr_of_error
from hardy.fields.field import Parameters
from hardy.fields.losses import Loss, SquaredError
from hardy.fields.points import Points
from hardy.fields.samples import PointLoss, Samples
from hardy.fields.signals import PEAK
from hardy.reading import reading
from hardy.runs.checkpoint import Checkpoint, digest
from hardy.runs.progress import progress as shown_progress

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
        values: dict[str, int | float] = {"seed": checks.integer("seed", self.seed)}
        values["decay"] = checks.number("decay", self.decay, above=0)
        for name in ("steps", "check_every", "points"):
            if getattr(self, name) is not None or name != "points":
                values[name] = checks.integer(name, getattr(self, name), at_least=1)
        for name in ("learning_rate", "target_psnr"):
            if getattr(self, name) is not None:
                values[name] = checks.number(name, getattr(self, name), above=0)
        for name, value in values.items():
            object.__setattr__(self, name, value)

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


def schedule_of(schedule: Schedule | None, fields: Mapping[str, Any]) -> Schedule:
    """`schedule`, or the one of these fields; never both."""
    if schedule is None:
        return Schedule(**fields)
    if fields:
        raise InputError(f"{', '.join(fields)} and a schedule exclude each other; put them into the schedule")
    return schedule


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
    loss: Loss | PointLoss,
    schedule: Schedule,
    learning_rate: float,
    networks: Callable[[torch.Tensor], torch.Tensor] = separately,
    teacher: Teaching | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> tuple[dict[str, torch.Tensor], list[Fit]]:
    """Minimise `loss` of what `predict` gives on `samples`.

    Args:
        parameters: each (networks, ...); not written to.
        predict: values (rows, points, channels) at parameters and coordinates (rows or 1, points, d).
        samples: what to predict; as many rows as `predict` gives.
        loss: a `Loss` of the squared error, or a function of estimate and values, (points, channels) each.
        schedule: see `Schedule`.
        learning_rate: where the schedule names none.
        networks: `separately` where row and network are one, `together` where one network has all rows.
        teacher: chooses the points of each step, where there is one signal.
        checkpoint: a file, written at checks; a run that was broken off goes on from it.
        progress: whether to show a progress bar.

    Returns:
        The fitted parameters, those of diverged networks as they were, and a `Fit` for each network.

    Raises:
        InputError: the checkpoint is damaged or of another run, or the teacher is for another number of steps or does
            not fit the schedule.
    """
    if teacher is not None:
        _check_teacher(teacher, schedule, samples)
    run = Run(parameters, schedule.rate(0, learning_rate))
    file = None
    if checkpoint is not None:
        identity = {
            "loss": repr(loss) if isinstance(loss, Loss) else getattr(loss, "__qualname__", type(loss).__qualname__),
            "schedule": dataclasses.asdict(schedule),
            "learning_rate": learning_rate,
            "networks": networks.__name__,
            "shapes": {name: list(tensor.shape) for name, tensor in run.final.items()},
            "signals": digest((samples.coordinates, samples.values)),
            "initial_weights": digest(run.final.values()),
        }
        identity |= {} if teacher is None else {"teacher": repr(teacher)}
        file = Checkpoint(checkpoint, kind="fit", identity=identity)
        if (saved := file.load()) is not None:
            with reading(file.path):
                run.load_state_dict(saved)
                if teacher is not None:
                    teacher.load_state_dict(saved["teacher"])
        samples = samples.rows(run.alive) if networks is separately else samples
    method, point_loss = (loss, None) if isinstance(loss, Loss) else (SquaredError(), loss)
    start = time.perf_counter() - run.seconds
    with shown_progress(_title(len(run.histories)), schedule.steps, done=run.step, show=progress) as bar:
        while run.alive:
            if run.step % schedule.check_every == 0 or run.step == schedule.steps:
                if run.checked != run.step:
                    run.seconds = time.perf_counter() - start
                    psnr = networks(_psnr(run.leaves, predict, samples))
                    remaining = run.check(psnr, schedule)
                    bar.update(run.step, f"{psnr.nanmean():.1f} dB")
                    if remaining != list(range(len(run.alive))):
                        run.keep(remaining)
                        samples = samples.rows(remaining) if remaining else samples
                    if file is not None:
                        taught = {} if teacher is None else {"teacher": teacher.state_dict()}
                        file.save(run.state_dict() | taught)
                if not run.alive:
                    break
            drawn = samples
            if schedule.points is not None:
                drawn = samples.drawn(schedule.points, generator(schedule.seed, "points", run.step))
            elif teacher is not None:
                drawn = samples.at(teacher.choose(Points(run.leaves, predict, samples, point_loss)))

            def reconstruction(at: Parameters, seen: Samples = drawn) -> torch.Tensor:
                return networks(seen.error(predict(at, seen.coordinates), point_loss))

            _, gradients = method.gradients(reconstruction, run.leaves, run.step, run.step / schedule.steps)
            for name, leaf in run.leaves.items():
                leaf.grad = gradients[name].contiguous()  # a fused step takes no notice of strides
            run.optimizer.param_groups[0]["lr"] = schedule.rate(run.step, learning_rate)
            run.optimizer.step()
            run.step += 1
            bar.update(run.step)
    fits = [run.fits[index] for index in range(len(run.histories))]
    return run.final, fits


def _check_teacher(teacher: Teaching, schedule: Schedule, samples: Samples) -> None:
    if len(samples.values) != 1:
        raise InputError(f"a teacher chooses among the points of one signal, got {len(samples.values)}")
    if schedule.points is not None:
        raise InputError("points and a teacher exclude each other: the teacher says how many points a step sees")
    if teacher.updates != schedule.steps:
        raise InputError(f"the teacher is for {teacher.updates} updates, the fit has {schedule.steps} steps")


class Run:
    """Where a descent stands: the networks still in it, their optimizer, and what is known of the others."""

    def __init__(self, parameters: Parameters, learning_rate: float) -> None:
        self.final = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        self.leaves = {name: tensor.clone().requires_grad_() for name, tensor in self.final.items()}
        # One pass over all parameters instead of eight operations on each; complex ones it does not take.
        self.fused = not any(leaf.is_complex() for leaf in self.leaves.values())
        self.optimizer = torch.optim.Adam(self.leaves.values(), lr=learning_rate, fused=self.fused)
        networks = len(next(iter(self.final.values())))
        self.alive = list(range(networks))
        self.histories: list[list[tuple[int, float]]] = [[] for _ in range(networks)]
        self.fits: dict[int, Fit] = {}
        self.step, self.seconds, self.checked = 0, 0.0, -1

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        moments = {name: self.optimizer.state[leaf] for name, leaf in self.leaves.items()}
        return {
            "final": self.final,
            "leaves": {name: leaf.detach() for name, leaf in self.leaves.items()},
            "moments": {name: dict(state) for name, state in moments.items()},
            "step": self.step,
            "seconds": self.seconds,
            "alive": self.alive,
            "histories": self.histories,
            "fits": {network: dataclasses.astuple(fit) for network, fit in self.fits.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave, of a run of the same parameters."""
        for name, leaf in self.leaves.items():
            self.final[name].copy_(state["final"][name])
            leaf.data = state["leaves"][name].to(leaf.device)
            if moments := state["moments"][name]:
                # Adam counts its steps on the CPU unless it is fused.
                own = {key: value.to(leaf.device) for key, value in moments.items() if key != "step" or self.fused}
                self.optimizer.state[leaf] = {**moments, **own}
        self.step = self.checked = state["step"]
        self.seconds, self.alive, self.histories = state["seconds"], state["alive"], state["histories"]
        self.fits = {
            network: Fit(psnr=psnr, steps=steps, seconds=seconds, history=history)
            for network, (psnr, steps, seconds, history) in state["fits"].items()
        }

    def check(self, psnr: torch.Tensor, schedule: Schedule) -> list[int]:
        """Note the PSNR of each network that is left, finish those that are done, and give the places of the others."""
        remaining = []
        self.checked = self.step
        for place, (network, value) in enumerate(zip(self.alive, psnr.tolist(), strict=True)):
            self.histories[network].append((self.step, value))
            reached = schedule.target_psnr is not None and value >= schedule.target_psnr
            if not (math.isnan(value) or reached or self.step == schedule.steps):
                remaining.append(place)
                continue
            if not math.isnan(value):
                for name, leaf in self.leaves.items():
                    self.final[name][network] = leaf.detach()[place]
            history = tuple(self.histories[network])
            self.fits[network] = Fit(psnr=value, steps=self.step, seconds=self.seconds, history=history)
        return remaining

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


def _title(networks: int) -> str:
    return "fit" if networks == 1 else f"fit {networks} networks"


@torch.no_grad()
def _psnr(parameters: Parameters, predict: Predict, samples: Samples) -> torch.Tensor:
    """PSNR in dB of each row over all points, values clipped to [-1, 1], (rows,)."""
    blocks = [predict(parameters, block) for block in samples.coordinates.split(_POINTS_AT_ONCE, 1)]
    return psnr_of_error(samples.error(torch.cat(blocks, 1).clamp(-1, 1)), PEAK)
