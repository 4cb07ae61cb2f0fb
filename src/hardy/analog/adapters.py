"""Low-rank adapters beside a chip: they stay digital, and the weights under them are never merged with them.

The layers are PEFT's, but nothing here needs PEFT: an adapter is a module with a `base_layer`.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

from torch import nn

from hardy.core.selection import Site, in_adapter
from hardy.core.surgery import Edits
from hardy.errors import InputError

REASON = (
    "the base weights are, or will be, programmed into noisy arrays, and the adapter is what stays exact beside them: "
    "merging would write it into the arrays as well, where it is a small part of a large noisy weight"
)


class MergeRefused:
    """Stands in for the `merge` of an adapter whose base layer is on a chip."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError, with the reason."""
        raise InputError(f"this adapter cannot be merged: {REASON}; unload() takes adapters off without merging")


def keep_adapters_digital(model: nn.Module, sites: Iterable[Site], edits: Edits) -> None:
    """Refuse `sites` that belong to an adapter, and from now on the merging of adapters into the others.

    Raises:
        InputError: a site is part of an adapter, or its adapter is merged into it already.
    """
    modules = dict(model.named_modules())
    for site in sites:
        if in_adapter(site.module, modules):
            raise InputError(f"{site.name} is part of an adapter, which stays digital; select the layer under it")
        if not site.module.endswith(".base_layer"):
            continue
        adapter: Any = modules[site.module.removesuffix(".base_layer")]
        if getattr(adapter, "merged", False):
            raise InputError(f"the adapter of {site.name} is merged into it; call unmerge_adapter() first")
        if hasattr(adapter, "merge") and not isinstance(vars(adapter).get("merge"), MergeRefused):
            edits.swap(adapter, "merge", MergeRefused())
