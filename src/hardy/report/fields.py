"""Checks for the fields of result records, and their form in JSON, which knows no infinity and no NaN."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hardy.errors import InputError, near_misses

_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_MARK = "non-finite"
"""Marks a non-finite number among free values, where the string "inf" could also be a name."""


def text(value: object, name: str) -> str:
    """`value`, which must be a string that UTF-8 can hold; `name` is for the error message."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} must be valid Unicode, got {value!r}") from None
    return value


def texts(values: object, name: str) -> tuple[str, ...]:
    """A tuple of strings from any iterable of them (but not from a single string)."""
    return tuple(text(value, f"{name}[{i}]") for i, value in enumerate(items(values, name)))


def items(values: object, name: str) -> tuple[Any, ...]:
    """A tuple from any iterable but a string or a mapping."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InputError(f"{name} must be a list, got {values!r}")
    return tuple(values)


def number(value: Any, name: str) -> float:
    """A Python float from any real number, also of NumPy or torch, or from "inf", "-inf", "nan" as in JSON."""
    value = _unwrapped(value)
    if isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} must be a number that float64 can hold, got {value!r:.40}...") from None


def numbers(values: object, name: str) -> tuple[float, ...]:
    """A tuple of Python floats from any iterable of numbers."""
    return tuple(number(value, f"{name}[{i}]") for i, value in enumerate(items(values, name)))


def whole(value: Any, name: str) -> int:
    """A Python int from any whole number, also of NumPy or torch."""
    value = _unwrapped(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    return value


def scalar(value: Any, name: str) -> float | int | str | bool | None:
    """A number, a text, a truth value or None."""
    value = _unwrapped(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return text(value, name)
    raise InputError(f"{name} must be a number, a text, a truth value or None, got {value!r}")


def free(value: Any, name: str) -> Any:
    """A scalar, or a list or mapping of free values; lists become tuples."""
    if isinstance(value, Mapping):
        if _MARK in value:
            raise InputError(f"{name} must not have the key {_MARK!r}: it marks infinity and NaN in the file")
        return {text(key, f"a key of {name}"): free(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(free(item, f"{name}[{i}]") for i, item in enumerate(value))
    return scalar(value, name)


def to_json(value: Any) -> Any:
    """Numbers, texts, lists and mappings for JSON; infinity and NaN as the strings "inf", "-inf", "nan"."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def free_to_json(value: Any) -> Any:
    """As `to_json` for free values, where infinity is `{"non-finite": "inf"}` and so no text can be mistaken for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_MARK: repr(value)}
    if isinstance(value, tuple):
        return [free_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: free_to_json(item) for key, item in value.items()}
    return value


def free_from_json(value: Any, name: str) -> Any:
    """The inverse of `free_to_json`."""
    if isinstance(value, dict) and set(value) == {_MARK}:
        return number(value[_MARK], name)
    if isinstance(value, dict):
        return {key: free_from_json(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list):
        return tuple(free_from_json(item, f"{name}[{i}]") for i, item in enumerate(value))
    return value


def known(value: object, required: Iterable[str], optional: Iterable[str], name: str) -> dict[str, Any]:
    """`value`, which must be a JSON object with all `required` keys and no key beyond those and the `optional`."""
    if not isinstance(value, dict):
        raise InputError(f"{name} must be an object with fields, got {value!r:.80}")
    required, allowed = tuple(required), {*required, *optional}
    for key in value:
        if key not in allowed:
            raise InputError(f"{name} has an unknown field {key!r}{near_misses(str(key), allowed)}")
    for key in required:
        if key not in value:
            raise InputError(f"{name} lacks the field {key!r}")
    return dict(value)


def _unwrapped(value: Any) -> Any:
    """NumPy and torch scalars as Python's own."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
