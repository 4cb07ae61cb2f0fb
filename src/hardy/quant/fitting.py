"""Which of the selected layers a quantizer can take, told from a model's outline before any weight is read."""

from __future__ import annotations

import math

from torch import nn

from hardy.core.roles import as_matrix, is_linear
from hardy.core.selection import Selector, Site, select
from hardy.core.units import exactly
from hardy.errors import InputError
from hardy.quant.calibrated import CalibratedQuantizer
from hardy.quant.gram import inputs_of
from hardy.quant.packed_experts import is_stack
from hardy.quant.quantizer import Quantizer


def fitting(model: nn.Module, selector: Selector, method: Quantizer) -> tuple[Selector, dict[str, str], float]:
    """What of `selector` is worth quantizing by the method, what not and why, and the share of the selected weights.

    Args:
        model: may be on the meta device.
        selector: as in `hardy.core.selection.select`.
        method: whose group size and need of data say what fits.

    Returns:
        `selector` itself where all of it fits, else the names of what does; layer -> reason; share of the weights that
        are left out.

    Raises:
        InputError: `selector` matches nothing, or nothing of it fits.
    """
    odd, kept, left, total = {}, [], 0, 0
    for site in select(model, selector):
        shape = _shape(model, site)
        total += math.prod(shape)
        if reason := _reason(model, site, shape, method):
            odd[site.name] = reason
            left += math.prod(shape)
        else:
            kept.append(site)
    if not kept:
        raise InputError(f"none of the selected layers can be quantized: {next(iter(odd.values()))}")
    return (tuple(exactly(site) for site in kept) if odd else selector), odd, left / total


def weights_of(model: nn.Module, selector: Selector) -> int:
    """How many weights `selector` means in `model`, which may be on the meta device."""
    return sum(math.prod(_shape(model, site)) for site in select(model, selector))


def _shape(model: nn.Module, site: Site) -> tuple[int, ...]:
    module = model.get_submodule(site.module)
    shape = tuple(as_matrix(module, getattr(module, site.parameter or "weight")).shape)
    return shape if site.rows is None else (site.rows[1] - site.rows[0], *shape[1:])


def _reason(model: nn.Module, site: Site, shape: tuple[int, ...], method: Quantizer) -> str:
    module = model.get_submodule(site.module)
    if not (is_linear(module) or is_stack(module, site.parameter)):
        return (
            f"no packed layer holds the weights of {site.name} ({type(module).__name__}), which would lose digits and "
            "no bytes"
        )
    if method.group_size is not None and method.group_size > shape[-1]:
        return (
            f"group_size {method.group_size} is larger than the {shape[-1]} inputs of {site.name}; choose at most "
            f"{shape[-1]}, or None for one group per output channel"
        )
    if isinstance(method, CalibratedQuantizer):
        try:
            inputs_of(model, site)
        except InputError as error:
            return str(error)
    return ""
