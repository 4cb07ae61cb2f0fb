"""Strategies of densification: published ones by name, and the parts they are made of.

`steps` is the length of the training; published schedules are for 30,000 and shrink with it, but opacities are given
at least 500 steps from one reset to the next, because they climb back no faster. Whatever else a `Densification` has
can be given by name, and replaces what the strategy would take.
"""

from typing import Any

from hardy.errors import InputError
from hardy.splat.strategies.criteria import (
    AbsoluteGradient,
    Criterion,
    ImportanceWeightedGradient,
    MeanGradient,
    PixelWeightedGradient,
)
from hardy.splat.strategies.densification import Densification
from hardy.splat.strategies.energy import EnergySchedule
from hardy.splat.strategies.mcmc import Mcmc
from hardy.splat.strategies.parts import (
    DensityClone,
    FixedPrune,
    NeedlePerturbation,
    PlainClone,
    QuantilePrune,
    Split,
)

FULL = 30_000

__all__ = [
    "AbsoluteGradient",
    "Criterion",
    "Densification",
    "DensityClone",
    "EnergySchedule",
    "FixedPrune",
    "ImportanceWeightedGradient",
    "Mcmc",
    "MeanGradient",
    "NeedlePerturbation",
    "PixelWeightedGradient",
    "PlainClone",
    "QuantilePrune",
    "Split",
    "absgs",
    "global_to_local",
    "global_to_local_reactivate",
    "mcmc",
    "pixelgs",
    "reactivate",
    "vanilla",
]


def vanilla(steps: int = FULL, **changes: Any) -> Densification:
    """Adaptive density control of 3D Gaussian splatting (arXiv 2308.04079)."""
    return _made(steps, {}, changes)


def absgs(steps: int = FULL, **changes: Any) -> Densification:
    """Absolute gradients, for splitting against 4e-4 (AbsGS, arXiv 2404.10484)."""
    return _made(steps, {"criterion": AbsoluteGradient(), "threshold": 8e-4, "split_threshold": 4e-4}, changes)


def pixelgs(steps: int = FULL, **changes: Any) -> Densification:
    """Gradients weighted by pixels (Pixel-GS, arXiv 2403.15530)."""
    return _made(steps, {"criterion": PixelWeightedGradient()}, changes)


def mcmc(steps: int = FULL, **changes: Any) -> Mcmc:
    """Gaussians as samples, with gsplat's rule (3DGS-MCMC, arXiv 2404.09591); `changes` are those of `Mcmc`."""
    made = vanilla(steps)
    changes = {key: value for key, value in changes.items() if key != "budget" or value is not None}
    schedule = {"start": made.start, "stop": round(25_000 / FULL * steps), "every": made.every}
    return Mcmc(**{**schedule, **changes})


def global_to_local(steps: int = FULL, **changes: Any) -> Densification:
    """Coarse to fine, first only splits, then clones too, quantile pruning (Decomposing Densification, 2507.20239).

    Densification goes on for 25/30 of the training. The parts, to be taken away one by one: `resolution`, `clone_from`,
    `prune`.
    """
    return _made(steps, _global_to_local(steps), changes)


def reactivate(steps: int = FULL, **changes: Any) -> Densification:
    """Views weighted by importance, clones set apart, needles widened (ReAct-GS, arXiv 2510.19653).

    The parts, to be taken away one by one: `criterion` (with `threshold`), `clone`, `needles`.
    """
    return _made(steps, _reactivate(), changes)


def global_to_local_reactivate(steps: int = FULL, **changes: Any) -> Densification:
    """`global_to_local` with the criterion, the clones and the needles of `reactivate`."""
    return _made(steps, _global_to_local(steps) | _reactivate(), changes)


def _global_to_local(steps: int) -> dict[str, Any]:
    return {
        "resolution": EnergySchedule(),
        "clone_from": "auto",
        "prune": QuantilePrune(),
        "stop": round(25_000 / FULL * steps),
    }


def _reactivate() -> dict[str, Any]:
    return {
        "criterion": ImportanceWeightedGradient(),
        "threshold": 3e-4,
        "clone": DensityClone(),
        "needles": NeedlePerturbation(),
    }


def _made(steps: int, parts: dict[str, Any], changes: dict[str, Any]) -> Densification:
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    share = steps / FULL
    schedule = {
        "start": round(500 * share),
        "stop": round(15_000 * share),
        "every": max(20, min(100, steps // 30)),  # statistics need some views whatever the length
        "reset_every": max(500, round(3000 * share)),
        "needles_every": max(100, round(3000 * share)),
        "needles_stop": round(20_000 * share),
    }
    return Densification(**{**schedule, **parts, **changes})
