"""Gram matrices of the inputs of weights, the part of a model that leads up to them run over calibration batches."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy.core.roles import as_matrix, is_linear, is_transposed
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.hooks import run, watch
from hardy.hooks.point import Point


@dataclasses.dataclass
class Gram:
    """Sum of x x^T over the tokens that a weight was multiplied with.

    Attributes:
        value: (inputs, inputs) float64; (experts, inputs, inputs) for a stack of experts. Zero without tokens.
        tokens: () or (experts,), how many there were.
        drift: sum of (w - x) x^T, where w is what the unmodified model gives in the place of x; None where that is not
            known, or where there is `missing`.
        missing: (outputs, inputs), the weight times that sum, where the weight has so few outputs that this is less.
    """

    value: torch.Tensor
    tokens: torch.Tensor
    drift: torch.Tensor | None = None
    missing: torch.Tensor | None = None

    @property
    def is_drifted(self) -> bool:
        """Whether it is known what the unmodified model gives."""
        return self.drift is not None or self.missing is not None

    def missing_of(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` (out, inputs) times the drift, float64."""
        found = weight.new_zeros(weight.shape, dtype=torch.float64) if self.missing is None else self.missing
        if self.drift is None:
            return found
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return found + weight.to(dtype) @ self.drift.to(dtype)


Place = tuple[str, str]
"""Module and parameter: all parts of a fused projection are at one place and have one Gram matrix."""


def place(site: Site) -> Place:
    assert site.parameter is not None
    return site.module, site.parameter


@torch.no_grad()
def count_calls(model: nn.Module, batch: Any, sites: Sequence[Site]) -> dict[str, int]:
    """How often each module of `sites` runs in one batch.

    Raises:
        InputError: a site is of a kind whose inputs are not seen, none of them runs, or the batch is no batch.
    """
    for site in sites:
        inputs_of(model, site)
    modules = dict.fromkeys(site.module for site in sites)
    with watch(model, {_input(name): lambda _: None for name in modules}, strict=False) as hooks:
        run(model, batch)
    if not any(hooks.calls.values()):
        raise InputError(
            f"none of the {len(modules)} selected modules is run by the model; the first is {sites[0].module}"
        )
    return {name: hooks.calls[_input(name).name] for name in modules}


@torch.no_grad()
def stages(model: nn.Module, batch: Any, sites: Sequence[Site], calls: dict[str, int]) -> list[list[Site]]:
    """`sites` in the order in which the model reaches them, those that are given the same tensor together."""
    order: list[tuple[str, torch.Tensor]] = []
    names = dict.fromkeys(site.module for site in sites)
    points = {_input(name): lambda features, name=name: order.append((name, features)) for name in names}
    with watch(model, points, strict=False, stop={point: max(1, calls[point.module]) for point in points}):
        run(model, batch)
    found: list[list[Site]] = []
    seen: set[str] = set()
    for number, (name, features) in enumerate(order):
        if name in seen:
            continue
        seen.add(name)
        here = [site for site in sites if site.module == name]
        if found and features is order[number - 1][1]:
            found[-1] += here
        else:
            found.append(here)
    rest = [site for site in sites if site.module not in seen]
    return [*found, rest] if rest else found


Inputs = Mapping[Place, Sequence[torch.Tensor]]
"""What whole linear layers are given, (tokens, inputs), call after call."""


@contextlib.contextmanager
def recorded(model: nn.Module, sites: Sequence[Site]) -> Iterator[Inputs]:
    """What `sites` are given while the model runs, in bfloat16; layers that share an input share the tensor."""
    found: dict[Place, list[torch.Tensor]] = {}
    last: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(name: str, features: torch.Tensor) -> None:
        if not last or last[0][0] is not features:
            last[:] = [(features, features.detach().flatten(0, -2).to(torch.bfloat16))]
        found.setdefault((name, "weight"), []).append(last[0][1])

    names = dict.fromkeys(site.module for site in sites if site.parameter == "weight")
    with watch(model, {_input(name): functools.partial(keep, name) for name in names}, strict=False):
        yield found


@torch.no_grad()
def gather(
    model: nn.Module,
    batches: Sequence[Any],
    sites: Sequence[Site],
    calls: dict[str, int],
    wanted: Inputs | None = None,
) -> dict[Place, Gram]:
    """The Gram matrix at every place of `sites`, over all batches; nothing the size of the data is kept.

    Args:
        model: in evaluation mode, if it has one.
        batches: as for `hardy.hooks.observe`.
        sites: linear layers, Conv1D of GPT-2, parts of them, and stacks of experts.
        calls: of `count_calls`. A batch is left as soon as each module has run that often.
        wanted: what the unmodified model gives on the same batches, as far as it is known.

    Raises:
        InputError: inputs hold NaN or infinity, or a site is of another kind, or no batch reaches it.
    """
    grams = {place(site): _empty(model, site) for site in sites}
    last, parts = _Last(), collections.Counter(place(site) for site in sites)
    points: dict[Point, Callable[[torch.Tensor], None]] = {}
    for name in dict.fromkeys(name for name, _ in grams):
        parameters = [parameter for owner, parameter in grams if owner == name]
        if parameters == ["weight"]:
            of, others = grams[name, "weight"], iter((wanted or {}).get((name, "weight"), ()))
            module: Any = model.get_submodule(name)
            weight = as_matrix(module, module.weight)
            few = weight if parts[name, "weight"] == 1 and 2 * weight.shape[0] < weight.shape[1] else None
            points[_input(name)] = functools.partial(_add_input, of, name, few, last, others)
        else:
            stacks = {parameter: grams[name, parameter] for parameter in parameters}
            routed = _Routed(model.get_submodule(name), name, stacks)
            points |= {_input(name): routed.take_hidden, _input(name, 1): routed.take_chosen}
    needed = {point: max(1, calls[point.module]) for point in points}
    with watch(model, points, strict=False, stop=needed):
        for batch in batches:
            last.forget()
            run(model, batch)
    for gram in grams.values():
        _mirror(gram.value)
    for site in sites:
        if not grams[place(site)].tokens.any():
            raise InputError(
                f"{site.name} was not run on any of the {len(batches)} batches; give more data, leave it out with "
                f'select="!{site.name}", or use a method that needs no data'
            )
    return grams


def inputs_of(model: nn.Module, site: Site) -> tuple[int, ...]:
    """(inputs,), or (experts, inputs) of a stack of experts, of which a Gram matrix can be gathered; or a refusal."""
    module: Any = model.get_submodule(site.module)
    shape: list[int] = [] if site.parameter is None else list(getattr(module, site.parameter).shape)
    if site.parameter == "weight" and is_linear(module):
        return (as_matrix(module, module.weight).shape[1],)
    if site.parameter in {"gate_up_proj", "down_proj"} and _is_plain_mixture(module):
        return shape[0], shape[2]
    raise InputError(
        f"{site.name} ({type(module).__name__}) cannot be calibrated, as its inputs are not seen from outside; "
        f'leave it out with select="!{site.role or site.name}", or use a method that needs no data'
    )


def _empty(model: nn.Module, site: Site) -> Gram:
    """Zero, on the device of the site's weight."""
    *stack, inputs = inputs_of(model, site)
    device = getattr(model.get_submodule(site.module), place(site)[1]).device
    value = torch.zeros((*stack, inputs, inputs), dtype=torch.float64, device=device)
    return Gram(value, torch.zeros(stack, dtype=torch.int64, device=device))


def _is_plain_mixture(module: nn.Module) -> bool:
    """Whether it is a transformers stack of gated experts, (experts, out, in), without biases."""
    gated = getattr(module, "has_gate", False) and hasattr(module, "_apply_gate")
    return gated and not is_transposed(module) and not getattr(module, "has_bias", False)


class _Routed:
    """Adds to the Gram matrices of a stack of experts what each of them is given."""

    def __init__(self, experts: Any, name: str, grams: dict[str, Gram]) -> None:
        self.experts, self.name, self.grams = experts, name, grams

    def take_hidden(self, hidden: torch.Tensor) -> None:
        """(tokens, hidden), before `take_chosen`."""
        self.hidden = hidden

    def take_chosen(self, chosen: torch.Tensor) -> None:
        """(tokens, top_k), the experts of each token."""
        for expert in chosen.unique().tolist():
            if expert < len(self.experts.gate_up_proj):  # one more stands for "elsewhere": experts over many machines
                features = self.hidden[(chosen == expert).any(-1)]
                self._add("gate_up_proj", expert, features)
                if "down_proj" in self.grams:
                    fused = nn.functional.linear(features, self.experts.gate_up_proj[expert])
                    self._add("down_proj", expert, self.experts._apply_gate(fused))
        del self.hidden

    def _add(self, parameter: str, expert: int, features: torch.Tensor) -> None:
        if parameter in self.grams:
            gram, rows = self.grams[parameter], _rows(features, f"{self.name}.{parameter}")
            _add(
                gram.value[expert], _products(rows, rows, torch.empty_like(gram.value[expert]), upper=True), upper=True
            )
            gram.tokens[expert] += len(rows)


class _Last:
    """The products of the last input: queries, keys and values have the same one, so they serve thrice."""

    def __init__(self) -> None:
        self.forget()
        self.room: dict[tuple[str, int], torch.Tensor] = {}

    def forget(self) -> None:
        self.features: torch.Tensor | None = None
        self.version = 0
        self.rows = self.product = torch.empty(0)
        self.drift: torch.Tensor | None = None

    def look(self, features: torch.Tensor, name: str) -> None:
        """Have the rows of these features and, above its diagonal, their product."""
        if features is self.features and features._version == self.version:
            return
        self.features, self.version, self.drift = features, features._version, None
        self.rows = _rows(features, name)
        self.product = _products(self.rows, self.rows, self._room("product"), upper=True)

    def drift_from(self, wanted: torch.Tensor) -> torch.Tensor:
        """The drift of these features."""
        if self.drift is None:
            self.drift = _products(wanted.float() - self.rows, self.rows, self._room("drift"))
        return self.drift

    def _room(self, name: str) -> torch.Tensor:
        """Memory for products of rows of this width, which are overwritten with every batch."""
        width = self.rows.shape[1]
        if (name, width) not in self.room:
            self.room[name, width] = torch.empty((width, width), dtype=torch.float64, device=self.rows.device)
        return self.room[name, width]


def _input(module: str, index: int = 0) -> Point:
    return Point(f"input {index} of {module}", module, "input", index)


def _add_input(
    gram: Gram, name: str, few: torch.Tensor | None, last: _Last, others: Iterator[torch.Tensor], features: torch.Tensor
) -> None:
    """Add what one call of a layer was given; `few` is its weight if that has few outputs."""
    last.look(features, name)
    _add(gram.value, last.product, upper=True)
    gram.tokens += len(last.rows)
    if (wanted := next(others, None)) is None:
        return
    if few is None or last.drift is not None:
        found = last.drift_from(wanted)
        gram.drift = found.clone() if gram.drift is None else gram.drift.add_(found)
    else:
        apart = (wanted.float() - last.rows) @ few.float().T
        found = _products(apart, last.rows, torch.empty(few.shape, dtype=torch.float64, device=few.device))
        gram.missing = found if gram.missing is None else gram.missing.add_(found)


def _rows(features: torch.Tensor, name: str) -> torch.Tensor:
    """(tokens, inputs) float32."""
    if not torch.isfinite(features).all():
        raise InputError(f"the input of {name} holds NaN or infinite values")
    return features.detach().flatten(0, -2).float()


PIECE = 256
"""Rows of a matrix of products that are made at once, so that they are still in the cache when they become float64."""


def _products(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, *, upper: bool = False) -> torch.Tensor:
    """left^T right in `out` (a, b) float64; with `upper` only what is on and above the diagonal, and some below it."""
    for begin in range(0, len(out), PIECE):
        first = begin if upper else 0
        out[begin : begin + PIECE, first:] = left[:, begin : begin + PIECE].T @ right[:, first:]
    return out


def _add(total: torch.Tensor, product: torch.Tensor, *, upper: bool = False) -> None:
    for begin in range(0, len(total), PIECE):
        first = begin if upper else 0
        total[begin : begin + PIECE, first:] += product[begin : begin + PIECE, first:]


def _mirror(total: torch.Tensor) -> None:
    """Put what is above the diagonal below it too."""
    for begin in range(0, total.shape[-1], PIECE):
        end = begin + PIECE
        total[..., end:, begin:end] = total[..., begin:end, end:].mT
