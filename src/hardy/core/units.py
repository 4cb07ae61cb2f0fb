"""The units that rankings are of, the same for every locator, each named so that `select` understands it."""

import re
from collections.abc import Iterable
from typing import Literal, get_args

from hardy.core.selection import Site
from hardy.deprecation import warn_renamed
from hardy.errors import InputError, near_misses

Unit = Literal["block", "projection", "role", "expert", "head"]
"""block: a numbered layer of the model, attention and feed-forward together ("model.layers.3.*").
projection: one weight matrix, or its part of a fused one.
role: all matrices that do the same, over all layers ("mlp.down").
expert: one expert of a mixture, all its matrices ("model.layers.3.mlp.experts.5.*").
head: one attention head; it is no unit of weights that a method could be given, so few locators know it."""


def block_of(site: Site) -> str | None:
    """Qualified name of the numbered module that `site` lies in ("model.layers.3"), or None outside of all."""
    path = site.module.split(".")
    number = next((place for place, part in enumerate(path) if part.isdigit()), len(path))
    return ".".join(path[: number + 1]) if number < len(path) - 1 else None


def expert_of(site: Site) -> str | None:
    """Qualified name of the numbered expert that `site` lies in, or None; experts in one stack have no modules."""
    path = site.module.split(".")
    number = next((place for place, part in enumerate(path) if part.isdigit() and path[place - 1] == "experts"), None)
    return None if number is None else ".".join(path[: number + 1])


def exactly(site: Site) -> str:
    """A pattern that names `site` alone, even where its name is also a word for something else."""
    return f"re:{re.escape(site.name)}"


def checked_unit(unit: str, known: Iterable[str] = get_args(Unit)) -> str:
    """`unit`, if it is among `known`; its old name "site" is taken for "projection", with a warning.

    Raises:
        InputError: it is not.
    """
    known = tuple(known)
    if unit == "site" and "projection" in known:
        warn_renamed("unit 'site'", "'projection'")
        return "projection"
    if unit not in known:
        raise InputError(f"unit must be {' or '.join(known)}, got {unit!r}{near_misses(str(unit), known)}")
    return unit


def units(sites: Iterable[Site], unit: str) -> dict[str, list[Site]]:
    """`sites` by unit, in model order.

    Args:
        sites: of `hardy.core.selection.select`.
        unit: "projection" for every site on its own; "block", "role" or "expert". A site outside of all blocks,
            experts or roles is a unit of its own, under its own name.

    Raises:
        InputError: there is no such unit of weights, or no site is in one.
    """
    unit = checked_unit(unit, ("block", "projection", "role", "expert"))
    name_of = {"block": block_of, "expert": expert_of, "role": lambda site: site.role, "projection": lambda site: None}
    found: dict[str, list[Site]] = {}
    inside = False
    for site in sites:
        name = name_of[unit](site)
        inside |= name is not None
        found.setdefault(site.name if name is None else name if unit == "role" else f"{name}.*", []).append(site)
    if unit == "expert" and not inside:
        raise InputError("there are no numbered experts among the selected weights")
    return found
