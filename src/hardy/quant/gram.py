"""Gram matrices of the inputs of weights, the part of a model that leads up to them run over calibration batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from hardy.core.hooks import run
from hardy.core.selection import Site
from hardy.errors import InputError


@dataclasses.dataclass
class Gram:
    """Sum of x x^T over the tokens that a weight was multiplied with.

    Attributes:
        value: (inputs, inputs) float64; (experts, inputs, inputs) for a stack of experts. Zero without tokens.
        tokens: () or (experts,), how many there were.
    """

    value: torch.Tensor
    tokens: torch.Tensor


Place = tuple[str, str]
"""Module and parameter: all parts of a fused projection are at one place and have one Gram matrix."""


def place(site: Site) -> Place:
    assert site.parameter is not None
    return site.module, site.parameter


class _Enough(Exception):  # noqa: N818 - it is no error
    """Everything that is watched has run; the rest of the model need not."""


@torch.no_grad()
def count_calls(model: nn.Module, batch: Any, sites: Sequence[Site]) -> dict[str, int]:
    """How often each module of `sites` runs in one batch.

    Raises:
        InputError: a site is of a kind whose inputs are not seen, none of them runs, or the batch is no batch.
    """
    for site in sites:
        _inputs(model, site)
    calls = dict.fromkeys((site.module for site in sites), 0)

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[name] += 1

    with _watched(model, calls, note):
        run(model, batch)
    if not any(calls.values()):
        raise InputError(
            f"none of the {len(calls)} selected modules is run by the model; the first is {sites[0].module}"
        )
    return calls


@torch.no_grad()
def gather(model: nn.Module, batches: Sequence[Any], sites: Sequence[Site], calls: dict[str, int]) -> dict[Place, Gram]:
    """The Gram matrix at every place of `sites`, over all batches; nothing the size of the data is kept.

    Args:
        model: in evaluation mode, if it has one.
        batches: as for `hardy.core.observe`.
        sites: linear layers, Conv1D of GPT-2, parts of them, and stacks of experts.
        calls: of `count_calls`. A batch is left as soon as each module has run that often.

    Raises:
        InputError: inputs hold NaN or infinity, or a site is of another kind, or no batch reaches it.
    """
    grams = {place(site): _empty(model, site) for site in sites}
    watched = dict.fromkeys(name for name, _ in grams)
    left: dict[str, int] = {}
    last: list[Any] = [
        None,
        0,
        None,
    ]  # input, its version, its Gram matrix: q, k and v have the same, so it serves thrice

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        parameters = [parameter for owner, parameter in grams if owner == name]
        if parameters == ["weight"]:
            features = inputs[0]
            if features is not last[0] or features._version != last[1]:
                last[:] = [features, features._version, _product(features, name)]
            _add(grams[name, "weight"], ..., *last[2])
        else:
            for expert, inner, outer in _routed(module, *inputs[:2]):
                for parameter, features in (("gate_up_proj", inner), ("down_proj", outer)):
                    if parameter in parameters:
                        _add(grams[name, parameter], expert, *_product(features, f"{name}.{parameter}"))
        left[name] -= 1
        if max(left.values()) <= 0:
            raise _Enough

    with _watched(model, watched, note):
        for batch in batches:
            left.update({name: max(1, calls[name]) for name in watched})
            last[:] = [None, 0, None]
            with suppress(_Enough):
                run(model, batch)
    for site in sites:
        if not grams[place(site)].tokens.any():
            raise InputError(
                f"{site.name} was not run on any of the {len(batches)} batches; give more data, leave it out with "
                f'select="!{site.name}", or use a method that needs no data'
            )
    return grams


def _inputs(model: nn.Module, site: Site) -> tuple[int, ...]:
    """(inputs,), or (experts, inputs) of a stack of experts, of which a Gram matrix can be gathered; or a refusal."""
    module = model.get_submodule(site.module)
    shape: list[int] = [] if site.parameter is None else list(getattr(module, site.parameter).shape)
    if site.parameter == "weight" and isinstance(module, nn.Linear):
        return (shape[1],)
    if site.parameter == "weight" and type(module).__name__ == "Conv1D":
        return (shape[0],)
    if site.parameter in {"gate_up_proj", "down_proj"} and _is_plain_mixture(module):
        return shape[0], shape[2]
    raise InputError(
        f"{site.name} ({type(module).__name__}) cannot be calibrated, as its inputs are not seen from outside; "
        f'leave it out with select="!{site.role or site.name}", or use a method that needs no data'
    )


def _empty(model: nn.Module, site: Site) -> Gram:
    """Zero, on the device of the site's weight."""
    *stack, inputs = _inputs(model, site)
    device = getattr(model.get_submodule(site.module), place(site)[1]).device
    value = torch.zeros((*stack, inputs, inputs), dtype=torch.float64, device=device)
    return Gram(value, torch.zeros(stack, dtype=torch.int64, device=device))


def _is_plain_mixture(module: nn.Module) -> bool:
    """Whether it is a transformers stack of gated experts, (experts, out, in), without biases."""
    gated = getattr(module, "has_gate", False) and hasattr(module, "_apply_gate")
    return gated and not getattr(module, "is_transposed", False) and not getattr(module, "has_bias", False)


def _routed(
    module: nn.Module, hidden: torch.Tensor, chosen: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Each expert that has tokens, its inputs (tokens, hidden) and those of its down projection (tokens, inner).

    Args:
        module: gated experts of transformers, whose two weights it holds.
        hidden: (tokens, hidden).
        chosen: (tokens, top_k), the experts of each token.
    """
    experts: Any = module
    for expert in chosen.unique().tolist():
        if expert < len(experts.gate_up_proj):  # one more stands for "elsewhere" where experts are spread over machines
            features = hidden[(chosen == expert).any(-1)]
            inner = experts._apply_gate(nn.functional.linear(features, experts.gate_up_proj[expert]))
            yield expert, features, inner


def _product(features: torch.Tensor, name: str) -> tuple[torch.Tensor, int]:
    """X^T X float64 of features (..., inputs), and how many there are."""
    if not torch.isfinite(features).all():
        raise InputError(f"the input of {name} holds NaN or infinite values")
    rows = features.detach().flatten(0, -2).float()
    return (rows.T @ rows).double(), len(rows)


def _add(gram: Gram, where: Any, product: torch.Tensor, tokens: int) -> None:
    gram.value[where] += product
    gram.tokens[where] += tokens


_Note = Callable[[str, nn.Module, tuple[Any, ...]], None]


@contextmanager
def _watched(model: nn.Module, names: dict[str, Any], note: _Note) -> Iterator[None]:
    """Call `note` with name, module and its tensor inputs before each of the modules `names` runs."""

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            inputs = tuple(x for x in (*arguments, *keywords.values()) if isinstance(x, torch.Tensor))
            note(name, module, inputs)

        return hook

    handles = [model.get_submodule(n).register_forward_pre_hook(hook_of(n), with_kwargs=True) for n in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
