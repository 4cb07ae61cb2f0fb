"""Ids that last: how a stored record finds the class that it names, in hardy or in another package.

Records name classes by id, `quant.trit_planes`, not by where their code stands. A class of hardy is found by importing
the room that its id begins with. A class of another package is found once it is decorated with `register`, or through
an entry point of that package, which other processes find too:

    [project.entry-points."hardy.methods"]
    "mylab.shrink" = "mylab.methods:Shrink"
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from hardy.entry_points import entry_points
from hardy.errors import InputError, near_misses


class Registry:
    """The classes of one kind that records may name.

    Args:
        base: what they are subclasses of.
        group: of the entry points by which other packages name theirs.
    """

    def __init__(self, base: type[Registered], group: str) -> None:
        self.base, self.group = base, group
        self.kind = _snake_case(base.__name__).replace("_", " ")
        self._classes: dict[str, type[Any]] = {}

    def add(self, cls: type[Any]) -> None:
        """Let records name `cls`. Defining a class again, as a notebook does, replaces it.

        Raises:
            InputError: another class has its id.
        """
        known = self._classes.get(cls.id, cls)
        if _path(known) != _path(cls):
            raise InputError(f"{_path(cls)} and {_path(known)} have the same id, {cls.id!r}; give one another")
        self._classes[cls.id] = cls

    def find(self, name: object) -> type[Any]:
        """The class whose id is `name`; the module path of a class of hardy, which older records hold, does too.

        Raises:
            InputError: there is none, or the package that has it cannot be imported.
        """
        text = str(name)
        path = text.split(".")
        if path[0] == "hardy" and len(path) > 2:
            text = f"{path[1]}.{_snake_case(path[-1])}"
        cls = self._classes.get(text) or self._of_hardy(text) or self._of_packages(text)
        if cls is None:
            known = near_misses(text, [*self._classes, *(point.name for point in self._entry_points())])
            raise InputError(
                f"{name!r} is not a {self.kind} of hardy, nor of a package installed here that names it among its "
                f'entry points "{self.group}"{known}'
            )
        return cls

    def restore(self, name: object, fields: object, restored: Callable[[Any], Any]) -> Any:
        """The instance of the dataclass `name` whose fields, stored as JSON, were `fields`.

        Args:
            restored: makes a field of what JSON holds in its place.

        Raises:
            InputError: there is no such class here, or a field is unknown or out of range.
        """
        cls = self.find(name)
        if not isinstance(fields, Mapping):
            raise InputError(f"the fields of {cls.__name__} must be a mapping, got {fields!r}")
        known = [field.name for field in dataclasses.fields(cls)]
        for field in fields:
            if field not in known:
                close = near_misses(str(field), known)
                raise InputError(f"{cls.__name__} has no field {field!r}{close}; its fields are {', '.join(known)}")
        try:
            return cls(**{field: restored(value) for field, value in fields.items()})
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RuntimeError) as error:
            raise InputError(f"{cls.__name__}: {error}") from None

    def all(self) -> list[type[Any]]:
        """All that are registered, those of installed packages included."""
        for point in self._entry_points():
            self._of_packages(point.name)
        return list(self._classes.values())

    def require(self, cls: type[Any]) -> None:
        """Raise `InputError` unless a record that names `cls` will find it again."""
        if not _is_ours(cls) and self._classes.get(cls.id) is not cls and self._of_packages(cls.id) is not cls:
            raise InputError(
                f"{_path(cls)} cannot be stored: nothing says how to find it again; decorate it with "
                f'hardy.core.register, or name it "{cls.id}" among the entry points "{self.group}" of its package'
            )

    def _of_hardy(self, name: str) -> type[Any] | None:
        room = name.partition(".")[0]
        spec = importlib.util.find_spec(f"hardy.{room}") if room.isidentifier() else None
        if spec is None or spec.submodule_search_locations is None:
            return None
        names = vars(importlib.import_module(f"hardy.{room}")).values()
        return next((value for value in names if self._is_one(value) and value.id == name), None)

    def _of_packages(self, name: str) -> type[Any] | None:
        for point in self._entry_points():
            if point.name != name:
                continue
            try:
                cls = point.load()
            except Exception as error:  # whatever goes wrong in another package
                raise InputError(f"the {self.kind} {name!r} is {point.value}, which fails: {error}") from error
            if not self._is_one(cls) or cls.id != name:
                what = f"has the id {cls.id!r}" if self._is_one(cls) else f"is no {self.kind}"
                raise InputError(f"the entry point {name!r} of {self.group} names {point.value}, which {what}")
            self.add(cls)
            return cls
        return None

    def _entry_points(self) -> Iterator[importlib.metadata.EntryPoint]:
        yield from entry_points(self.group)

    def _is_one(self, value: object) -> bool:
        return isinstance(value, type) and issubclass(value, self.base) and not inspect.isabstract(value)


class Registered:
    """Base of what records name. The id of a class is `room.class_name` (`package.class_name` outside of hardy) unless
    it says another; a class that is renamed or moved keeps the old one by saying it.
    """

    id: ClassVar[str]
    registry: ClassVar[Registry]

    def __init_subclass__(cls, group: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if group is not None:
            cls.registry = Registry(cls, group)
        if "id" not in vars(cls):
            package, _, rest = cls.__module__.partition(".")
            cls.id = f"{(rest or package).partition('.')[0] if _is_ours(cls) else package}.{_snake_case(cls.__name__)}"


_R = TypeVar("_R", bound=type[Registered])


def register(cls: _R) -> _R:
    """Let records name `cls`, a `Method`, a `Device` or a `PackedLayer`: a decorator.

    Enough within processes that import its module; for all others its package names it by an entry point.

    Raises:
        InputError: it is of no such kind, or another class has its id.
    """
    if not (isinstance(cls, type) and issubclass(cls, Registered)):
        raise InputError(f"only methods, devices and packed layers are registered, got {cls!r}")
    cls.registry.add(cls)
    return cls


def _snake_case(name: str) -> str:
    """ "TritPlanes" -> "trit_planes", "ReramCMO" -> "reram_cmo"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("hardy.")


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
