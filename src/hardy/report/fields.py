"""Checks for the fields of result records, which take infinity and NaN where `hardy.checks` does not."""

from collections.abc import Iterable, Mapping
from typing import Any

from hardy.checks import as_float, items, text, unwrapped
from hardy.errors import InputError, near_misses
from hardy.files import NON_FINITE

_WORDS = ("inf", "-inf", "nan")  # as the first reports stored them


def real(name: str, value: Any) -> float:
    """A Python float from any real number, also of NumPy or torch, infinity and NaN included."""
    value = unwrapped(value)
    if isinstance(value, str) and value in _WORDS:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, got {value!r}")
    return as_float(name, value)


def reals(name: str, values: object) -> tuple[float, ...]:
    """A tuple of Python floats from any iterable of numbers."""
    return tuple(real(f"{name}[{i}]", value) for i, value in enumerate(items(name, values)))


def scalar(name: str, value: Any) -> float | int | str | bool | None:
    """A number, a text, a truth value or None."""
    value = unwrapped(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return text(name, value)
    raise InputError(f"{name} must be a number, a text, a truth value or None, got {value!r}")


def free(name: str, value: Any) -> Any:
    """A scalar, or a list or mapping of free values; lists become tuples."""
    if isinstance(value, Mapping):
        if NON_FINITE in value:
            raise InputError(f"{name} must not have the key {NON_FINITE!r}: it marks infinity and NaN in the file")
        return {text(f"a key of {name}", key): free(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(free(f"{name}[{i}]", item) for i, item in enumerate(value))
    return scalar(name, value)


def known(name: str, value: object, required: Iterable[str], optional: Iterable[str]) -> dict[str, Any]:
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


def store(record: object, **values: object) -> None:
    """Put checked values into a frozen record, from its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(record, name, value)
