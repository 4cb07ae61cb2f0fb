"""The one place where parts of a model are replaced, so that everything can be put back byte for byte.

Nothing is overwritten: a new parameter or module takes the place of the old one, which is kept. Undoing is putting
the old object back, so it restores every byte by construction, tied weights and their ties included.
"""

import inspect
from typing import Any

import torch
from torch import nn

from hardy.core.roles import as_matrix, is_transposed
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.mapping import release

AT_A_TIME = 2**22
"""Weights that are summed at once."""


def weight_of(model: nn.Module, site: Site) -> torch.Tensor:
    """The weight at `site` as (..., out, in), detached; convolutions are (out, in * kernel).

    The result may share memory with the model: read it, never write to it, and read it before the next edit.

    Raises:
        InputError: the site has no weight matrix, or the weight holds NaN or infinity.
    """
    module = model.get_submodule(site.module)
    if site.parameter is None:
        raise InputError(f"{site.name} ({type(module).__name__}) has no weight matrix to edit")
    weight = getattr(module, site.parameter).detach()
    weight = as_matrix(module, weight)
    if site.rows is not None:
        weight = weight[site.rows[0] : site.rows[1]]
    # A sum is a tenth of the cost of looking at every weight, and takes a copy in float32, so it is of some rows at a
    # time; where one overflows, every weight is looked at.
    precision = torch.promote_types(weight.dtype, torch.float32)
    rows = max(1, AT_A_TIME * len(weight) // max(1, weight.numel()))
    if not all(torch.isfinite(part.sum(dtype=precision)) for part in weight.split(rows)) and (
        bad := int((~torch.isfinite(weight)).sum())
    ):
        raise InputError(f"{site.name} holds {bad} NaN or infinite weights of {weight.numel()}")
    return weight


def _written(values: torch.Tensor, module: nn.Module, site: Site, weight: torch.Tensor) -> torch.Tensor:
    """`values`, a parameter's storage, with `weight` written to the rows of `site`."""
    view = values.mT if is_transposed(module) else values
    if site.rows is not None:
        view = view[site.rows[0] : site.rows[1]]
    view.copy_(weight.reshape(view.shape))
    return values


class Absent:
    """Stands for an attribute that an edit set where there was none; a class, so that copies of it are itself."""


def _own(owner: Any, attribute: str) -> Any:
    """What `owner` has there, or `Absent`; a method that only its class has is not its own."""
    if inspect.isroutine(getattr(type(owner), attribute, None)) and attribute not in vars(owner):
        return Absent
    return getattr(owner, attribute, Absent)


def _put(owner: Any, attribute: str, value: Any) -> None:
    if value is Absent:
        delattr(owner, attribute)
    else:
        setattr(owner, attribute, value)


class Edits:
    """The replacements made in one model, in order; `undo` and `redo` swap all of them back and forth.

    `stored` has the few bits that weights were made from, by the names of their sites, unless nobody wants them.
    """

    def __init__(self, model: nn.Module, *, keeps_forms: bool = True) -> None:
        self.model = model
        self.keeps_forms = keeps_forms
        self._dtypes = [(parameter, parameter.dtype) for parameter in model.parameters()]
        self._swaps: list[tuple[Any, str, Any, Any]] = []
        # Parameters replaced since `settle`, by the identity of the old one, which is kept so that it stays unique.
        self._successors: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
        self._fresh: dict[int, nn.Parameter] = {}
        self.stored: dict[str, Any] = {}

    def set_weight(self, site: Site, weight: torch.Tensor) -> bool:
        """Give `site` a new weight of the shape that `weight_of` returns, in the old one's dtype and device.

        A weight that is tied to a place outside this edit is untied: only `site` changes. Where both ends of a tie
        are edited they stay tied, and the first edit counts.

        Returns:
            Whether `weight` was taken: False where the site follows the weight it is tied to.
        """
        module = self.model.get_submodule(site.module)
        assert site.parameter is not None
        old = getattr(module, site.parameter)
        if site.rows is None and id(old) in self._successors:
            self.swap(module, site.parameter, self._successors[id(old)][1])
            return False
        if site.rows is not None and id(old) in self._fresh:  # another part of it was edited just now
            _written(old.data, module, site, weight)
            return True
        storage = torch.empty_like(old.detach()) if site.rows is None else old.detach().clone()
        new = nn.Parameter(_written(storage, module, site, weight), requires_grad=old.requires_grad)
        self._successors[id(old)] = (old, new)
        self._fresh[id(new)] = new
        self.swap(module, site.parameter, new)
        release(old)
        return True

    def store(self, site: Site, form: Any) -> None:
        """Keep the few bits that the weight at `site` was made from, for whoever stores it so."""
        if self.keeps_forms:
            self.stored[site.name] = form

    def set_module(self, name: str, module: nn.Module) -> None:
        """Put `module` where `name` is now."""
        parent, _, leaf = name.rpartition(".")
        self.swap(self.model.get_submodule(parent), leaf, module)

    def swap(self, owner: Any, attribute: str, new: Any) -> None:
        """Set `owner.attribute`, or delete it if `new` is `Absent`, remembering what was there, if anything."""
        self._swaps.append((owner, attribute, _own(owner, attribute), new))
        _put(owner, attribute, new)

    def settle(self) -> None:
        """End a method's edits: what it untied stays untied, whatever is edited next."""
        self._successors.clear()
        self._fresh.clear()
        self._note_untied_head()

    def undo(self) -> None:
        """Put everything back.

        Raises:
            InputError: something was replaced again since, by an edit that must be undone first; or the model was
                moved to another device or cast to another dtype since.
        """
        self._check(expected=3)
        for owner, attribute, old, new in self._swaps:
            if isinstance(old, torch.Tensor) and (old.dtype, old.device) != (new.dtype, new.device):
                raise InputError(
                    f"{type(owner).__name__}.{attribute} was {old.dtype} on {old.device} before the change and is "
                    f"{new.dtype} on {new.device} now; move the model back first"
                )
        self._put_back()

    def suspend(self) -> None:
        """Put everything back for a moment, whatever the model was cast or moved to since; `redo` must follow."""
        self._check(expected=3)
        self._put_back()

    def redo(self) -> None:
        """Make the same replacements again, after `undo` or `suspend`."""
        self._check(expected=2)
        for owner, attribute, _, new in self._swaps:
            _put(owner, attribute, new)

    def cast_to(self) -> torch.dtype | None:
        """The dtype that the model was cast to since these edits, or None."""
        replaced = [(new, old.dtype) for _, _, old, new in self._swaps if isinstance(old, torch.Tensor)]
        return next((tensor.dtype for tensor, dtype in (*self._dtypes, *replaced) if tensor.dtype != dtype), None)

    def _put_back(self) -> None:
        for owner, attribute, old, _ in reversed(self._swaps):
            _put(owner, attribute, old)

    def _check(self, expected: int) -> None:
        """Refuse if a place does not hold what the last (undo) or first (redo) swap of it says."""
        seen: set[tuple[int, str]] = set()
        # A module that a later edit replaced is in the model no more: what is put back into it would go nowhere.
        reachable = {id(module) for module in self.model.modules()}
        reachable |= {id(value) for _, _, *values in self._swaps for value in values}
        for swap in reversed(self._swaps) if expected == 3 else self._swaps:
            owner, attribute = swap[0], swap[1]
            if (id(owner), attribute) in seen:
                continue
            seen.add((id(owner), attribute))
            replaced = isinstance(owner, nn.Module) and id(owner) not in reachable
            if replaced or _own(owner, attribute) is not swap[expected]:
                raise InputError(
                    f"{type(owner).__name__}.{attribute} was changed again since; undo the later change first"
                )

    def _note_untied_head(self) -> None:
        """Tell the configuration when head and embedding no longer share a weight, or a reload would tie them."""
        model: Any = self.model
        config = getattr(model, "config", None)
        if not getattr(config, "tie_word_embeddings", False) or not hasattr(model, "get_output_embeddings"):
            return
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if head is not None and embedding is not None and head.weight is not embedding.weight:
            self.swap(config, "tie_word_embeddings", False)
