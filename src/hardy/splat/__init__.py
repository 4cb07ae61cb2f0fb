"""Scenes of 3D Gaussians, trained on a CPU: rasterizer, files, training and densification."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardy.splat.ply import load_ply, save_ply
    from hardy.splat.rendering import rasterize
    from hardy.splat.scene import Scene, View, load_scene
    from hardy.splat.training import Training, evaluate, render_view, train

_HOMES = {
    "ply": ("load_ply", "save_ply"),
    "rendering": ("rasterize",),
    "scene": ("Scene", "View", "load_scene"),
    "training": ("Training", "evaluate", "render_view", "train"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Scene",
    "Training",
    "View",
    "evaluate",
    "load_ply",
    "load_scene",
    "rasterize",
    "render_view",
    "save_ply",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"hardy.splat.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'hardy.splat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
