"""A method edits a model in place and gives a change that takes it back: the shape that all of hardy's steering has."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, ClassVar

import torch
from torch import nn

from hardy import checks
from hardy.core.layers import Layers
from hardy.core.ranking import Ranking
from hardy.core.registry import Registered
from hardy.core.selection import LINEAR, Selector, Site, select
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.report import Report, Row
from hardy.runs.progress import track

# Kept on the model, so that they live as long, and are copied and sent along with it.
_CHANGES = "_hardy_changes"


def changes(model: nn.Module) -> tuple[Change, ...]:
    """The changes applied to `model` and not undone, oldest first. A deep copy has its own copies of them."""
    return tuple(vars(model).get(_CHANGES, ()))


class Change:
    """What a method did to a model. `undo()` restores every byte; as a context manager it does so on leaving.

    `stored` holds, for a method that quantizes, each weight in the few bits it takes: site name -> what the method's
    pure function returned, whose `dequantize()` is the weight now in the model.
    """

    def __init__(self, method: Method, model: nn.Module, edits: Edits, report: Report) -> None:
        self.method = method
        self.model = model
        self.report = report
        self.stored = dict(edits.stored)
        self._edits = edits
        vars(model).setdefault(_CHANGES, []).append(self)

    def undo(self) -> None:
        """Put the model back as it was before.

        Raises:
            InputError: it is undone already, or a later change to the same places must be undone first.
        """
        if self not in changes(self.model):
            raise InputError(f"this change by {self.method} is undone already")
        self._edits.undo()
        vars(self.model)[_CHANGES].remove(self)

    def cast_to(self) -> torch.dtype | None:
        """The dtype that the model was cast to since, or None."""
        return self._edits.cast_to()

    def suspend(self) -> None:
        """Put the old weights back for a moment; `resume` must follow. For whoever needs the unchanged model."""
        self._edits.suspend()

    def resume(self) -> None:
        """Make the change again after `suspend`, the same bytes."""
        self._edits.redo()

    def __enter__(self) -> Change:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in changes(self.model):
            self.undo()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(Registered, abc.ABC, group="hardy.methods"):
    """A frozen, keyword-only dataclass: its fields are its only configuration, checked on construction.

    A subclass declares its fields, checks them in `check`, and does its work in `edit`. Outside of hardy it is
    decorated with `hardy.core.register`, or named by an entry point, to be stored and found again.
    """

    unsaved: ClassVar[str] = ""
    """Why a model with this method applied cannot be stored, if so: what it does has no place in the format."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = checks.unwrapped(getattr(self, field.name))  # a NumPy integer seeds as Python's own does
            # A frozen method is hashable.
            object.__setattr__(self, field.name, tuple(value) if isinstance(value, list | range) else value)
        self.check()

    def check(self) -> None:
        """Raise `InputError` for a field out of range."""

    @abc.abstractmethod
    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        """Replace parts of `model` through `edits` only, and say what was done where."""

    def apply(self, model: nn.Module, data: Iterable[Any] | None = None, *, stored: bool = True) -> Change:
        """Edit `model` in place.

        Args:
            model: any module this method knows how to edit.
            data: calibration batches, for the methods that need them.
            stored: whether `change.stored` has the few bits of quantized weights, beside the new weights that the model
                computes with. Packing needs them; whoever only measures saves their memory.

        Returns:
            The change, with `report` and `undo`.

        Raises:
            InputError: the model or the data do not fit; the model is then as it was.
        """
        edits = Edits(model, keeps_forms=stored)
        try:
            rows = self.edit(model, edits, data)
            edits.settle()
            settings = {field.name: _shown(getattr(self, field.name)) for field in dataclasses.fields(self)}
            report = Report(title=str(self), rows=tuple(rows), settings=settings)
        except BaseException:
            edits.undo()
            raise
        return Change(self, model, edits, report)

    @property
    def reapplied(self) -> bool:
        """Whether a stored model has the weights from before it, and it is applied again when that is loaded."""
        return False

    def recorded(self, model: nn.Module) -> Method:
        """This method as it is stored with `model`, to which it is applied."""
        return self

    def parts(self) -> Iterator[Method]:
        """This method, and those in its fields, theirs included."""
        yield self
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Method):
                    yield from item.parts()

    def to_dict(self) -> dict[str, Any]:
        """The method's id and its fields, as plain data for JSON.

        Raises:
            InputError: a field cannot be stored (a class or predicate as selector), or the method is not registered.
        """
        self.registry.require(type(self))
        values = {field.name: _plain(self, field.name) for field in dataclasses.fields(self)}
        return {"method": self.id, "fields": values}

    def __str__(self) -> str:
        shown = [
            f"{field.name}={value!r}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def from_dict(record: Mapping[str, Any]) -> Method:
    """The method that `to_dict` described.

    Raises:
        InputError: there is no such method here, or a field is unknown or out of range.
    """
    return Method.registry.restore(record.get("method"), record.get("fields", {}), _restored)


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_restored(item) for item in value)
    if isinstance(value, Mapping) and "method" in value:
        return from_dict(value)
    if isinstance(value, Mapping) and set(value) == {field.name for field in dataclasses.fields(Ranking)}:
        return Ranking(**value)
    return value


def _plain(method: Method, name: str) -> Any:
    value = getattr(method, name)
    items = value if isinstance(value, tuple | list) else [value]
    for item in items:
        if isinstance(item, type) or callable(item):
            raise InputError(
                f"{type(method).__name__}.{name}={item!r} cannot be stored; use a role, glob or re: pattern"
            )
    plain = [item.to_dict() if hasattr(item, "to_dict") else item for item in items]
    return plain if isinstance(value, tuple | list) else plain[0]


def _shown(value: Any) -> Any:
    """A field for the report: as it is where it is plain, else what it looks like."""
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    if isinstance(value, Method):
        return str(value)
    return value if isinstance(value, str | int | float | None) else getattr(value, "__name__", str(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightMethod(Method):
    """A method that gives each selected weight a new value and looks at nothing else.

    Args:
        select: which weights, as in `hardy.core.selection.select`.
        layers: in which layers; all by default.
    """

    select: Selector = LINEAR
    layers: Layers | None = None

    @abc.abstractmethod
    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        """The new weight for `site`, and facts about it that add up over sites.

        Args:
            weight: (..., out, in), float32, finite. Not to be written to.
            site: where it is.

        Returns:
            The new weight, same shape, and totals over its elements; "bits" is what it takes to store it.
        """

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        ledger = WeightLedger(model, edits)
        for site in track(select(model, self.select, layers=self.layers), type(self).__name__):
            weight = ledger.read(site)
            ledger.write(site, weight, *self.edit_weight(weight, site))
        return ledger.rows()


class WeightLedger:
    """Reads and writes the weights of one edit, and keeps the account of it: errors, and facts that add up.

    `entries` is that account, plain data for each weight, which a run that is stopped and goes on can keep.
    """

    def __init__(self, model: nn.Module, edits: Edits, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        self.model, self.edits = model, edits
        self.entries: list[dict[str, Any]] = [dict(entry) for entry in entries]

    def read(self, site: Site) -> torch.Tensor:
        """The weight at `site`, (..., out, in), float32. Not to be written to."""
        # Parts of a fused projection share the new tensor that they are written to.
        return weight_of(self.model, site).to(torch.float32, copy=site.rows is not None)

    def write(self, site: Site, weight: torch.Tensor, new: torch.Tensor, facts: Mapping[str, float]) -> bool:
        """Put `new` in the place of `weight`.

        Returns:
            False where the site is tied to one that was edited before: the same weight, counted once.
        """
        if not self.edits.set_weight(site, new):
            return False
        stored = weight_of(self.model, site)  # as rounded to the model's dtype, and refused if it overflowed
        error, energy = squared_norm(stored, minus=weight), squared_norm(weight)
        account = {"site": site.name, "size": weight.numel(), "error": error, "energy": energy, "facts": dict(facts)}
        self.entries.append(account)
        return True

    def rows(self) -> list[Row]:
        """The account: all weights together, then site by site."""
        totals: dict[str, float] = {}
        for entry in self.entries:
            totals |= {name: totals.get(name, 0.0) + value for name, value in entry["facts"].items()}
        error, energy, size = (sum(entry[name] for entry in self.entries) for name in ("error", "energy", "size"))
        rows = _facts(ALL_SELECTED, error, energy, totals, size)
        for entry in self.entries:
            rows += _facts(entry["site"], entry["error"], entry["energy"], entry["facts"], entry["size"])
        return rows


def squared_norm(values: torch.Tensor, *, minus: torch.Tensor | None = None) -> float:
    """Sum of the squares of `values`, or of its difference from `minus`, in float64."""
    # In pieces that stay in the cache: doubles of a whole matrix cost more than all else that is done to it.
    pieces = values.flatten().split(_PIECE)
    if minus is None:
        return sum(piece.double().square_().sum().item() for piece in pieces)
    pairs = zip(pieces, minus.flatten().split(_PIECE), strict=True)
    return sum(piece.double().sub_(other).square_().sum().item() for piece, other in pairs)


_PIECE = 1 << 18

ALL_SELECTED = "all selected weights"
"""The condition of the rows that sum up an edit of weights."""


def _facts(condition: str, error: float, energy: float, facts: Mapping[str, float], size: int) -> list[Row]:
    """Relative Frobenius error, then every additive fact per weight."""
    relative = (error / energy) ** 0.5 if energy else math.inf if error else 0.0
    rows = [Row(metric="relative_error", condition=condition, value=relative, details={"weights": size})]
    for name, total in facts.items():
        rows.append(
            Row(metric=f"{name}_per_weight", condition=condition, value=total / size, details={"weights": size})
        )
    return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain(Method):
    """Several methods, one after the other, as one: applied together and undone together."""

    methods: tuple[Method, ...]

    def check(self) -> None:
        bad = [item for item in self.methods if not isinstance(item, Method)]
        if bad or not self.methods:
            raise InputError(f"a chain takes one or more methods, got {bad[0] if bad else 'none'!r}")

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        rows = []
        if isinstance(data, Iterator):
            data = list(data)  # each method goes through it
        for method in self.methods:
            rows += [
                dataclasses.replace(row, details={**row.details, "method": type(method).__name__})
                for row in method.edit(model, edits, data)
            ]
            edits.settle()
        return rows

    def recorded(self, model: nn.Module) -> Method:
        return Chain(methods=tuple(method.recorded(model) for method in self.methods))


def chain(*methods: Method) -> Chain:
    """`methods` as one, applied in this order."""
    return Chain(methods=tuple(methods))
