"""gsplat's strategies, by their names and fields, as hardy's."""

from __future__ import annotations

import dataclasses
from typing import Any

from hardy.errors import InputError
from hardy.splat.strategies.criteria import AbsoluteGradient, MeanGradient
from hardy.splat.strategies.densification import Densification
from hardy.splat.strategies.markov_chain import MCMCStrategy
from hardy.splat.strategies.parts import FixedPrune

Strategy = Densification | MCMCStrategy

# Fields of gsplat's strategies for which hardy knows one value only, or any because they change no result.
_FIXED = {"refine_scale2d_stop_iter": 0, "pause_refine_after_reset": 0, "revised_opacity": False}
_FIXED |= {"key_for_gradient": "means2d", "noise_injection_stop_iter": -1}
_IGNORED = {"verbose", "grow_scale2d", "prune_scale2d"}  # the sizes in the image count until refine_scale2d_stop_iter


def DefaultStrategy(*, absgrad: bool = False, prune_opa: float = 0.005, **fields: Any) -> Densification:  # noqa: N802
    """gsplat's `DefaultStrategy`: adaptive density control of 3D Gaussian splatting (arXiv 2308.04079).

    Args:
        absgrad: whether absolute gradients are compared with `grow_grad2d`; gsplat's users raise it to 8e-4 then.
        prune_opa: opacity below which a Gaussian goes.
        fields: any other of gsplat's, or of `Densification`.

    Raises:
        InputError: a field of gsplat has a value that hardy has not.
    """
    criterion = AbsoluteGradient() if absgrad else MeanGradient()
    return Densification(**{"criterion": criterion, "prune": FixedPrune(limit=prune_opa), **_known(fields)})


def of_gsplat(strategy: Any) -> Strategy:
    """An object of gsplat's strategies as hardy's; any other as it is.

    Raises:
        InputError: it is none, or a field of it has a value that hardy has not.
    """
    if isinstance(strategy, Densification | MCMCStrategy):
        return strategy
    name = type(strategy).__name__
    if name in ("DefaultStrategy", "MCMCStrategy"):
        fields = {field.name: getattr(strategy, field.name) for field in dataclasses.fields(strategy)}
        if name == "DefaultStrategy":
            return DefaultStrategy(**fields)
        return MCMCStrategy(**_known(fields))
    wanted = ("check_sanity", "initialize_state", "step_pre_backward", "step_post_backward", "penalty", "factor")
    missing = [method for method in wanted if not hasattr(strategy, method)]
    if missing:
        raise InputError(f"{name} is no strategy of densification: it lacks {', '.join(missing)}")
    return strategy


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    for name, value in _FIXED.items():
        if fields.get(name, value) != value:
            raise InputError(f"{name} must be {value!r} here, got {fields[name]!r}")
    return {name: value for name, value in fields.items() if name not in _FIXED and name not in _IGNORED}
