"""Scenes of 3D Gaussians, trained on a CPU: rasterizer, files, training and densification."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardy.splat.rendering import rasterize

_HOMES = {"rendering": ("rasterize",)}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["rasterize"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"hardy.splat.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'hardy.splat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
