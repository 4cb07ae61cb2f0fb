"""Old names for one version: they work, and warn of the new ones."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from hardy.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class")


def warn_renamed(old: str, new: str) -> None:
    """Say that `old` is called `new` now, where the caller's caller stands."""
    warnings.warn(
        f"{old} is now called {new}; the old name goes with the next version", DeprecationWarning, stacklevel=3
    )


def renamed(**names: str) -> Callable[[Function], Function]:
    """A decorator: the keyword arguments `names`, old=new, are still taken under their old names, with a warning.

    Raises:
        InputError: by the decorated function, if it is given both names.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            for old, new in names.items():
                if old in keywords:
                    if new in keywords:
                        raise InputError(f"{function.__name__} was given {new} and, under its old name {old}, again")
                    warn_renamed(f"{old} of {function.__name__}", new)
                    keywords[new] = keywords.pop(old)
            return function(*arguments, **keywords)

        return wrapper  # pyright: ignore[reportReturnType]

    return decorate


def renamed_fields(**names: str) -> Callable[[type[Class]], type[Class]]:
    """A decorator of dataclasses: the fields `names`, old=new, are still taken and given under their old names."""

    def decorate(kind: type[Class]) -> type[Class]:
        def attribute(old: str, new: str) -> property:
            def value(self: Any) -> Any:
                warn_renamed(f"{old} of {kind.__name__}", new)
                return getattr(self, new)

            return property(value)

        take_old = renamed(**names)
        init = kind.__init__
        init.__name__ = kind.__name__  # which the warning names
        kind.__init__ = take_old(init)
        for old, new in names.items():
            setattr(kind, old, attribute(old, new))
        return kind

    return decorate
