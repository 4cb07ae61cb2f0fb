"""The locators by name: a room, or another package, registers one, and `hardy.locate` and `hardy locate` know it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from hardy.core.ranking import Ranking
from hardy.core.units import checked_unit
from hardy.entry_points import entry_points
from hardy.errors import InputError, near_misses

GROUP = "hardy.locators"
"""Entry-point group: a package names its modules that register locators there."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Locator:
    """A way to rank the parts of a language model.

    Args:
        name: as in `--by`.
        run: `run(subject, *, select, unit, ...) -> Ranking`, or with `reads_text` `run(model, batches, *, ...)`, which
            is given the model and the calibration text as batches (1, window) of token ids. Its further keyword
            arguments are the locator's options.
        units: what it ranks, from the vocabulary of `hardy.core.units`; the first is the default.
        reads_text: whether `run` takes model and batches, rather than the subject.
        runs_cells: whether `run` measures cells, and takes `backend` and `workers`.
        summary: one line for the help.
    """

    name: str
    run: Callable[..., Ranking]
    units: tuple[str, ...]
    summary: str
    reads_text: bool = False
    runs_cells: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The keyword arguments that are this locator's own."""
        common = {"select", "unit", "backend", "workers"}
        parameters = inspect.signature(self.run).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in common)

    def checked(self, unit: str | None, options: Iterable[str]) -> str:
        """The unit that is ranked: `unit`, or the default.

        Raises:
            InputError: this locator does not rank it, or an option is not this locator's.
        """
        for name in options:
            if name not in self.options:
                takes = ", ".join(self.options) or "none"
                raise InputError(f"locator {self.name} has no option {name}; it takes {takes}")
        try:
            return self.units[0] if unit is None else checked_unit(unit, self.units)
        except InputError as error:
            raise InputError(f"locator {self.name}: {error}") from None

    def __call__(self, subject: Any, *, select: Any, unit: str | None = None, **options: Any) -> Ranking:
        """The ranking of a `hardy.zoo.Subject`; `options` as `checked`, and `backend` and `workers`."""
        run = {name: options.pop(name) for name in ("backend", "workers") if name in options}
        unit = self.checked(unit, options)
        if "unit" in inspect.signature(self.run).parameters:
            options["unit"] = unit
        if "select" in inspect.signature(self.run).parameters:
            options["select"] = select
        if self.reads_text:
            return self.run(subject.model, subject.batches("calibration"), **options)
        return self.run(subject, **options, **(run if self.runs_cells else {}))


_REGISTERED: dict[str, Locator] = {}


def register_locator(locator: Locator) -> Locator:
    """Make a locator known under its name.

    Raises:
        InputError: another one has that name.
    """
    known = _REGISTERED.setdefault(locator.name, locator)
    if known.run.__qualname__ != locator.run.__qualname__ or known.run.__module__ != locator.run.__module__:
        raise InputError(f"there is a locator {locator.name!r} already: {known.run.__module__}")
    return locator


def locator(name: str, *, units: tuple[str, ...], summary: str) -> Callable[[Function], Function]:
    """A decorator: registers a function of model and batches as a `Locator` of this name."""

    def decorate(function: Function) -> Function:
        register_locator(Locator(name=name, run=function, units=units, summary=summary, reads_text=True))
        return function

    return decorate


def locators() -> dict[str, Locator]:
    """All that is registered by now, and by the packages installed beside hardy."""
    for entry in entry_points(GROUP):
        entry.load()
    return dict(_REGISTERED)


def locator_named(name: str) -> Locator:
    """The locator called `name`.

    Raises:
        InputError: there is none, with near misses.
    """
    known = locators()
    if name not in known:
        raise InputError(f"unknown locator {name!r}{near_misses(name, known)}; there are: {', '.join(known)}")
    return known[name]
