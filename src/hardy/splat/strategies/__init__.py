"""Strategies of densification: published ones by name, and the parts they are made of.

`steps` is the length of the training; published schedules are for 30,000 and shrink with it, but opacities are given
at least 500 steps from one reset to the next, because they climb back no faster. Whatever else a `Densification` has
can be given by name, and replaces what the strategy would take.
"""

from typing import Any

from hardy import checks
from hardy.splat.strategies.criteria import (
    AbsoluteGradient,
    Criterion,
    ImportanceWeightedGradient,
    MeanGradient,
    PixelWeightedGradient,
)
from hardy.splat.strategies.densification import Densification
from hardy.splat.strategies.energy import EnergySchedule
from hardy.splat.strategies.gsplat_names import DefaultStrategy, Strategy, of_gsplat
from hardy.splat.strategies.markov_chain import MCMCStrategy
from hardy.splat.strategies.parts import (
    DensityClone,
    FixedPrune,
    NeedlePerturbation,
    PlainClone,
    QuantilePrune,
    Split,
)
from hardy.splat.strategies.regions import Box, Near, Region

FULL = 30_000

__all__ = [
    "AbsoluteGradient",
    "Box",
    "Criterion",
    "DefaultStrategy",
    "Densification",
    "DensityClone",
    "EnergySchedule",
    "FixedPrune",
    "ImportanceWeightedGradient",
    "MCMCStrategy",
    "MeanGradient",
    "Near",
    "NeedlePerturbation",
    "PixelWeightedGradient",
    "PlainClone",
    "QuantilePrune",
    "Region",
    "Split",
    "Strategy",
    "absgs",
    "global_to_local",
    "global_to_local_reactivate",
    "mcmc",
    "of_gsplat",
    "pixelgs",
    "reactivate",
    "vanilla",
]


def vanilla(steps: int = FULL, **changes: Any) -> Densification:
    """Adaptive density control of 3D Gaussian splatting (arXiv 2308.04079)."""
    return _densification(steps, {}, changes)


def absgs(steps: int = FULL, **changes: Any) -> Densification:
    """Absolute gradients, for splitting against 4e-4 (AbsGS, arXiv 2404.10484)."""
    return _densification(
        steps, {"criterion": AbsoluteGradient(), "grow_grad2d": 8e-4, "split_threshold": 4e-4}, changes
    )


def pixelgs(steps: int = FULL, **changes: Any) -> Densification:
    """Gradients weighted by pixels (Pixel-GS, arXiv 2403.15530)."""
    return _densification(steps, {"criterion": PixelWeightedGradient()}, changes)


def mcmc(steps: int = FULL, **changes: Any) -> MCMCStrategy:
    """Gaussians as samples, with gsplat's rule (3DGS-MCMC, arXiv 2404.09591); `changes` are those of `MCMCStrategy`."""
    schedule = _schedule(steps)
    fields = {name: schedule[name] for name in ("refine_start_iter", "refine_every")}
    fields["refine_stop_iter"] = round(25_000 / FULL * steps)
    changes = {name: value for name, value in changes.items() if name not in ("cap_max", "budget") or value is not None}
    return MCMCStrategy(**{**fields, **changes})


def global_to_local(steps: int = FULL, **changes: Any) -> Densification:
    """Coarse to fine, first only splits, then clones too, quantile pruning (Decomposing Densification, 2507.20239).

    Densification goes on for 25/30 of the training. The parts, to be taken away one by one: `resolution`, `clone_from`,
    `prune`.
    """
    return _densification(steps, _global_to_local(steps), changes)


def reactivate(steps: int = FULL, **changes: Any) -> Densification:
    """Views weighted by importance, clones set apart, needles widened (ReAct-GS, arXiv 2510.19653).

    The parts, to be taken away one by one: `criterion` (with `grow_grad2d`), `clone`, `needles`.
    """
    return _densification(steps, _reactivate(), changes)


def global_to_local_reactivate(steps: int = FULL, **changes: Any) -> Densification:
    """`global_to_local` with the criterion, the clones and the needles of `reactivate`."""
    return _densification(steps, _global_to_local(steps) | _reactivate(), changes)


def _global_to_local(steps: int) -> dict[str, Any]:
    return {
        "resolution": EnergySchedule(),
        "clone_from": "auto",
        "prune": QuantilePrune(),
        "refine_stop_iter": round(25_000 / FULL * steps),
    }


def _reactivate() -> dict[str, Any]:
    return {
        "criterion": ImportanceWeightedGradient(),
        "grow_grad2d": 3e-4,
        "clone": DensityClone(),
        "needles": NeedlePerturbation(),
    }


def _densification(steps: int, parts: dict[str, Any], changes: dict[str, Any]) -> Densification:
    return Densification(**{**_schedule(steps), **parts, **changes})


def _schedule(steps: int) -> dict[str, int]:
    """The published schedule, for another number of steps."""
    share = checks.integer("steps", steps, at_least=1) / FULL
    return {
        "refine_start_iter": round(500 * share),
        "refine_stop_iter": round(15_000 * share),
        "refine_every": max(20, min(100, steps // 30)),  # statistics need some views whatever the length
        "reset_every": max(500, round(3000 * share)),
        "needles_every": max(100, round(3000 * share)),
        "needles_stop": round(20_000 * share),
    }
