"""One pass over calibration data with streaming statistics: nothing the size of the data is kept."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hardy.core.selection import Selector, Site, select
from hardy.errors import InputError
from hardy.hooks.engine import run, watch
from hardy.hooks.point import Point, Side


class Statistic(abc.ABC):
    """What is gathered at one site. `value` is the result so far."""

    of: Side = "input"
    """Which side of the module is watched: "input" or "output"."""

    value: torch.Tensor

    @abc.abstractmethod
    def update(self, features: torch.Tensor) -> None:
        """Take in `features`, (tokens, dim), float32 or an integer type, finite."""


class SecondMoment(Statistic):
    """Sum of x x^T over all tokens, (dim, dim) float64: the input Gram matrix. `tokens` says over how many."""

    def __init__(self) -> None:
        self.tokens = 0

    def update(self, features: torch.Tensor) -> None:
        gram = features.T @ features
        if self.tokens == 0:
            self.value = gram.double()
        else:
            for rows, more in zip(self.value.split(512), gram.split(512), strict=True):
                rows += more  # adding float32 to float64 takes a copy of it
        self.tokens += len(features)


class AbsMax(Statistic):
    """Largest magnitude of each feature, (dim,)."""

    def __init__(self) -> None:
        self._seen = False

    def update(self, features: torch.Tensor) -> None:
        largest = features.abs().amax(0)
        self.value = torch.maximum(self.value, largest) if self._seen else largest
        self._seen = True


class Histogram(Statistic):
    """Counts of log2 |x| in unit bins from 2^-32 to 2^31, (64,) int64; zeros go to the first bin.

    Fixed logarithmic bins need no first pass for the range, so percentiles of any scale come out of one.
    """

    def __init__(self) -> None:
        self.value = torch.zeros(64, dtype=torch.int64)

    def update(self, features: torch.Tensor) -> None:
        bins = (features.abs().float().log2().floor() + 32).clamp(0, 63).long()
        self.value += torch.bincount(bins.flatten().cpu(), minlength=64)


class RoutingCounts(Statistic):
    """How often each expert is among the `top_k` of a router's logits, (experts,) int64."""

    of: Side = "output"

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self._seen = False

    def update(self, features: torch.Tensor) -> None:
        chosen = features.topk(self.top_k, dim=-1).indices.flatten().cpu()
        counts = torch.bincount(chosen, minlength=features.shape[-1])
        self.value = self.value + counts if self._seen else counts
        self._seen = True


@torch.no_grad()
def observe(
    model: nn.Module,
    batches: Iterable[Any],
    sites: Selector,
    statistics: Sequence[Callable[[], Statistic]],
) -> dict[str, list[Any]]:
    """Run `batches` through `model` once and gather `statistics` at every site.

    Args:
        model: any module; it is run in its current mode, in evaluation mode if it should not train.
        batches: each a tensor, a tuple or a mapping, as for `hardy.hooks.engine.arguments`. Every position counts,
            padding too, so give unpadded text.
        sites: where, as in `hardy.core.selection.select`. A part of a fused projection sees the input of the whole,
            and its own rows of the output.
        statistics: classes or zero-argument factories, e.g. `[SecondMoment, lambda: RoutingCounts(2)]`.

    Returns:
        site name -> one statistic per factory, in the order given. A statistic whose site saw no token (an expert
        that was never routed to) has no `value`.

    Raises:
        InputError: no batches, features that are NaN or infinite, no site that was run, or a site whose input is
            not seen from outside (a weight in a stack of experts).
    """
    found = select(model, sites)
    for site in found:
        if site.parameter not in {None, "weight"}:
            raise InputError(f"{site.name} is one of several weights in a module: observe {site.module} instead")
    gathered = {site.name: [factory() for factory in statistics] for site in found}
    watchers = {
        Point(f"the {side} of {site.name}", site.module, side): functools.partial(_gather, site, side, of_side)
        for site in found
        for side in ("input", "output")
        if (of_side := [statistic for statistic in gathered[site.name] if statistic.of == side])
    }
    count = 0
    with watch(model, watchers, strict=False) as hooks:
        for count, batch in enumerate(batches, start=1):  # noqa: B007
            run(model, batch)
    if count == 0:
        raise InputError("observe was given no batches")
    if watchers and not any(hooks.calls.values()):
        raise InputError(f"none of the {len(found)} sites was run by the model; the first is {found[0].name}")
    return gathered


def _gather(site: Site, side: Side, statistics: list[Statistic], activation: torch.Tensor) -> None:
    features = activation.detach()
    if site.rows is not None and side == "output":
        features = features[..., site.rows[0] : site.rows[1]]
    features = features.reshape(-1, features.shape[-1])
    if not torch.isfinite(features).all():
        raise InputError(f"the {side} of {site.name} holds NaN or infinite values")
    if len(features):
        for statistic in statistics:
            statistic.update(features.float() if features.is_floating_point() else features)
