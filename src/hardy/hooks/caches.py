"""How a model of transformers is given its cache: as `cache` from 5.24 on, as `past_key_values` before."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

NAMES = ("cache", "past_key_values")


def cache_argument(model: nn.Module, cache: Any) -> dict[str, Any]:
    """The keyword argument that gives `model` its cache."""
    known = inspect.signature(type(model).forward).parameters
    return {next((name for name in NAMES if name in known), NAMES[-1]): cache}


def cache_of(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a model, or None."""
    return next((arguments[name] for name in NAMES if arguments.get(name) is not None), None)
