"""Checks of arguments: each returns the value as Python's own, or raises an `InputError` that names the thing, its
value and what is accepted."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from hardy.errors import InputError, near_misses

T = TypeVar("T")


def number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float:
    """`value` as a float: any finite real number, also of NumPy or torch, within the bounds; no truth value."""
    bare = unwrapped(value)
    if isinstance(bare, int | float) and not isinstance(bare, bool):
        result = as_float(name, bare)
        if math.isfinite(result) and _within(result, at_least, above, at_most, below):
            return result
    raise InputError(f"{name} must be a finite number{_range(at_least, above, at_most, below)}, got {value!r}")


def integer(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """`value` as an int: any integer, also of NumPy or torch, within the bounds; no truth value and no float."""
    bare = unwrapped(value)
    if isinstance(bare, int) and not isinstance(bare, bool) and _within(bare, at_least, None, at_most, None):
        return bare
    raise InputError(f"{name} must be an integer{_range(at_least, None, at_most, None)}, got {value!r}")


def one_of(name: str, value: Any, choices: Iterable[T]) -> T:
    """The member of `choices` that `value` equals; True is not 1 here, and 2.0 not 2."""
    known = list(choices)
    bare = unwrapped(value)
    for choice in known:
        kind = int | float if isinstance(choice, float) else type(choice)
        if isinstance(bare, kind) and bare == choice and isinstance(bare, bool) == isinstance(choice, bool):
            return choice
    close = near_misses(bare, [str(choice) for choice in known]) if isinstance(bare, str) else ""
    raise InputError(f"{name} must be {listed(known)}, got {value!r}{close}")


def boolean(name: str, value: Any) -> bool:
    """`value`, which must be True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")
    return value


def text(name: str, value: Any) -> str:
    """`value`, which must be a string that UTF-8 can hold."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} must be valid Unicode, got {value!r}") from None
    return value


def items(name: str, values: Any) -> tuple[Any, ...]:
    """A tuple from any iterable but a string or a mapping."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InputError(f"{name} must be a list, got {values!r}")
    return tuple(values)


def texts(name: str, values: Any) -> tuple[str, ...]:
    """A tuple of strings from any iterable of them, but not from a single string."""
    return tuple(text(f"{name}[{i}]", value) for i, value in enumerate(items(name, values)))


def finite(name: str, values: T) -> T:
    """`values`, a torch tensor or NumPy array, which must hold neither NaN nor infinity."""
    array: Any = values
    if hasattr(array, "detach"):
        import torch

        array, isfinite = array.detach(), torch.isfinite
    else:
        import numpy as np

        isfinite = np.isfinite
    # A sum is finite only if every term is, and needs no mask the size of the values; it may also just be too large.
    if isfinite(array.sum()) or (fine := isfinite(array)).all():
        return values
    raise InputError(
        f"{name} must be finite, got NaN or infinity in {int((~fine).sum())} of {math.prod(array.shape)} values"
    )


def listed(choices: Iterable[object]) -> str:
    """ "a, b or c"."""
    *first, last = [str(choice) for choice in choices]
    return f"{', '.join(first)} or {last}" if first else last


def unwrapped(value: Any) -> Any:
    """NumPy and torch scalars as Python's own; everything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def as_float(name: str, value: float) -> float:
    """A float from a Python number, which float64 must be able to hold."""
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} must be a number that float64 can hold, got {value!r:.40}...") from None


def _within(
    value: float, at_least: float | None, above: float | None, at_most: float | None, below: float | None
) -> bool:
    low = (at_least is None or value >= at_least) and (above is None or value > above)
    return low and (at_most is None or value <= at_most) and (below is None or value < below)


def _range(at_least: float | None, above: float | None, at_most: float | None, below: float | None) -> str:
    """ " of at least 1", " from 0 to 1", " above 0 and below 1", as it stands after "a number"."""
    if at_least is not None and at_most is not None and above is None and below is None:
        return f" from {_short(at_least)} to {_short(at_most)}"
    bounds = [("of at least", at_least), ("above", above), ("of at most", at_most), ("below", below)]
    parts = [f"{word} {_short(bound)}" for word, bound in bounds if bound is not None]
    return f" {' and '.join(parts)}" if parts else ""


def _short(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
