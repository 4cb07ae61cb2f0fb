"""Changes to the set of Gaussians: parameters, the optimizers' moments and per-Gaussian statistics in one step.

The names of gsplat's operations. `state` is a dictionary; those of its tensors that have a row for each Gaussian are
carried along, anything else is left alone.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from hardy.errors import InputError
from hardy.ops.projection import rotations

Parameters = MutableMapping[str, torch.nn.Parameter]
Optimizers = Mapping[str, torch.optim.Optimizer]
State = MutableMapping[str, Any]


def check_optimizers(params: Parameters, optimizers: Optimizers) -> None:
    """Raise InputError unless there is a parameter of every name with an optimizer of its own."""
    for name in ("means", "opacities", "quats", "scales"):
        if name not in params:
            raise InputError(f"densification needs the parameter {name!r}, got {', '.join(params)}")
    for name in params:
        groups = optimizers[name].param_groups if name in optimizers else []
        if len(groups) != 1 or len(groups[0]["params"]) != 1 or groups[0]["params"][0] is not params[name]:
            raise InputError(f"parameter {name!r} needs an optimizer of its own, with nothing else in it")


def rebuild(
    params: Parameters,
    optimizers: Optimizers,
    state: State,
    source: torch.Tensor,
    fresh: int,
    values: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Make every Gaussian a copy of an old one; the last `fresh` are new and start without moments.

    Args:
        params: by name, each with a row per Gaussian.
        optimizers: one for each parameter, by the same name.
        state: whose tensors with a row per Gaussian follow; statistics of new ones are what the caller makes of them.
        source: (M,), the old number of each Gaussian.
        fresh: how many of the last rows are new.
        values: new values, by name, of the last rows, `fresh` each.
    """
    count, kept = len(params["means"]), len(source) - fresh
    for name, old in list(params.items()):
        new = old.detach()[source]
        if values and name in values:
            new[kept:] = values[name]
        parameter = torch.nn.Parameter(new, requires_grad=old.requires_grad)
        params[name] = parameter
        if name not in optimizers:
            continue
        optimizer = optimizers[name]
        for group in optimizer.param_groups:
            group["params"] = [parameter if item is old else item for item in group["params"]]
        moments = optimizer.state.pop(old, {})
        for key, value in moments.items():
            if isinstance(value, torch.Tensor) and value.ndim and len(value) == count:
                moments[key] = value[source]
                moments[key][kept:] = 0
        if moments:
            optimizer.state[parameter] = moments
    for key, value in list(state.items()):
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == count:
            state[key] = value[source]


def duplicate(
    params: Parameters,
    optimizers: Optimizers,
    state: State,
    mask: torch.Tensor,
    offsets: torch.Tensor | None = None,
) -> None:
    """Copy the Gaussians in `mask` (N,); the copies, behind all others, are moved by `offsets` (mask.sum(), 3)."""
    chosen = mask.nonzero()[:, 0]
    source = torch.cat([torch.arange(len(mask), device=mask.device), chosen])
    means = params["means"].detach()[chosen]
    values = {} if offsets is None else {"means": means + offsets}
    rebuild(params, optimizers, state, source, len(chosen), values)


def split(
    params: Parameters,
    optimizers: Optimizers,
    state: State,
    mask: torch.Tensor,
    random: torch.Generator,
    shrink: float = 1.6,
) -> None:
    """Put two smaller Gaussians, at places drawn from each one in `mask` (N,), in its stead, behind all others."""
    chosen, rest = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
    twice = chosen.repeat(2)
    scales = params["scales"].detach()[twice]
    unit = torch.nn.functional.normalize(params["quats"].detach()[twice], dim=-1)
    drawn = normal((len(twice), 3), random, scales.device) * scales.exp()
    places = params["means"].detach()[twice] + (rotations(unit) @ drawn[..., None])[..., 0]
    values = {"means": places, "scales": scales - torch.log(scales.new_tensor(shrink))}
    rebuild(params, optimizers, state, torch.cat([rest, twice]), len(twice), values)


def remove(params: Parameters, optimizers: Optimizers, state: State, mask: torch.Tensor) -> None:
    """Take away the Gaussians in `mask` (N,)."""
    rebuild(params, optimizers, state, (~mask).nonzero()[:, 0], 0)


def assign(params: Parameters, optimizers: Optimizers, name: str, mask: torch.Tensor, values: torch.Tensor) -> None:
    """Give the rows of one parameter in `mask` new values, and take away their moments."""
    parameter = params[name]
    parameter.data[mask] = values
    for value in optimizers[name].state.get(parameter, {}).values():
        if isinstance(value, torch.Tensor) and value.ndim:
            value[mask] = 0


def reset_opacities(params: Parameters, optimizers: Optimizers, most: float) -> None:
    """Lower all opacities to at most `most`, and start their moments anew."""
    logits = params["opacities"].detach()
    limit = torch.logit(logits.new_tensor(most))
    every = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    assign(params, optimizers, "opacities", every, logits.clamp(max=limit.item()))


def normal(shape: tuple[int, ...], random: torch.Generator, device: torch.device) -> torch.Tensor:
    """Standard normal numbers, drawn where the generator is, so that they are the same on every device."""
    return torch.randn(shape, generator=random, device=random.device).to(device)
