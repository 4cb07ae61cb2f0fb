"""One pass over calibration data with streaming statistics: nothing the size of the data is kept."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy.core.selection import Selector, Site, select
from hardy.errors import InputError


class Statistic(abc.ABC):
    """What is gathered at one site. `value` is the result so far."""

    of = "input"
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
        gram = (features.T @ features).double()
        self.value = gram if self.tokens == 0 else self.value + gram
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

    of = "output"

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
        batches: each a tensor (given to the model as its first argument, or as `input_ids` to a Hugging Face
            model), a tuple (positional arguments) or a mapping (keyword arguments). Every position counts, padding
            too, so give unpadded text.
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
    ran: set[str] = set()
    handles = []
    try:
        for site in found:
            module = model.get_submodule(site.module)
            hook = _hook(site, gathered[site.name], ran)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        count = 0
        for count, batch in enumerate(batches, start=1):  # noqa: B007
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if count == 0:
        raise InputError("observe was given no batches")
    idle = [site.name for site in found if site.name not in ran]
    if len(idle) == len(found):
        raise InputError(f"none of the {len(found)} sites was run by the model; the first is {idle[0]}")
    return gathered


def run(model: nn.Module, batch: Any) -> None:
    """Give one batch to `model`, as `observe` does.

    Raises:
        InputError: it is neither a tensor, nor a tuple, nor a mapping.
    """
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple):
        model(*batch)
    elif not isinstance(batch, torch.Tensor):
        raise InputError(f"a batch is a tensor, a tuple or a mapping, got {type(batch).__name__}")
    elif hasattr(model, "config") and not batch.is_floating_point():
        model(input_ids=batch)
    else:
        model(batch)


def _hook(site: Site, gathered: list[Statistic], ran: set[str]) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        ran.add(site.name)
        inputs = [x for x in (*arguments, *keywords.values()) if isinstance(x, torch.Tensor)]
        outputs = [x for x in (output if isinstance(output, tuple) else [output]) if isinstance(x, torch.Tensor)]
        for statistic in gathered:
            tensors = outputs if statistic.of == "output" else inputs
            if not tensors:
                raise InputError(f"the {statistic.of} of {site.name} is not a tensor; observe a module inside it")
            features = tensors[0].detach()
            if site.rows is not None and statistic.of == "output":
                features = features[..., site.rows[0] : site.rows[1]]
            features = features.reshape(-1, features.shape[-1])
            if not torch.isfinite(features).all():
                raise InputError(f"the {statistic.of} of {site.name} holds NaN or infinite values")
            if len(features):
                statistic.update(features.float() if features.is_floating_point() else features)

    return hook
