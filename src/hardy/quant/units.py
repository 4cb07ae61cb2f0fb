"""The units that bits are given to: whole blocks of a network, each named by a glob that `select` understands."""

import re
from collections.abc import Iterable
from typing import Literal, get_args

from hardy.core.selection import Site
from hardy.errors import InputError, near_misses

Unit = Literal["block", "site"]


def block_of(site: Site) -> str | None:
    """Qualified name of the numbered module that `site` lies in ("model.layers.3"), or None outside of all."""
    path = site.module.split(".")
    number = next((place for place, part in enumerate(path) if part.isdigit()), len(path))
    return ".".join(path[: number + 1]) if number < len(path) - 1 else None


def exactly(site: Site) -> str:
    """A pattern that names `site` alone, even where its name is also a word for something else."""
    return f"re:{re.escape(site.name)}"


def units(sites: Iterable[Site], unit: Unit) -> dict[str, list[Site]]:
    """`sites` by unit, in model order.

    Args:
        sites: of `hardy.core.selection.select`.
        unit: "block" for the numbered module that a site lies in, named "model.layers.3.*" (a site outside of all
            blocks is a unit of its own, under its own name); "site" for every site on its own.

    Raises:
        InputError: there is no such unit.
    """
    if unit not in get_args(Unit):
        known = get_args(Unit)
        raise InputError(f"unit must be {' or '.join(known)}, got {unit!r}{near_misses(str(unit), known)}")
    found: dict[str, list[Site]] = {}
    for site in sites:
        block = block_of(site) if unit == "block" else None
        found.setdefault(site.name if block is None else f"{block}.*", []).append(site)
    return found
