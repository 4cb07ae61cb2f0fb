"""Scenes of 3D Gaussians, trained on a CPU: rasterizer, files, training and densification."""

import importlib
from typing import TYPE_CHECKING, Any

from hardy.deprecation import warn_renamed

if TYPE_CHECKING:
    from hardy.splat import inpainters
    from hardy.splat.conversion import convert
    from hardy.splat.inpainting import inpaint
    from hardy.splat.loading import load_scene
    from hardy.splat.ply import load_ply, save_ply
    from hardy.splat.removal import remove
    from hardy.splat.rendering import rasterization
    from hardy.splat.scene import Scene, View
    from hardy.splat.training import Training, evaluate, render_view, train

_HOMES = {
    "conversion": ("convert",),
    "inpainting": ("inpaint",),
    "loading": ("load_scene",),
    "ply": ("load_ply", "save_ply"),
    "removal": ("remove",),
    "rendering": ("rasterization",),
    "scene": ("Scene", "View"),
    "training": ("Training", "evaluate", "render_view", "train"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Scene",
    "Training",
    "View",
    "convert",
    "evaluate",
    "inpaint",
    "inpainters",
    "load_ply",
    "load_scene",
    "rasterization",
    "remove",
    "render_view",
    "save_ply",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"hardy.splat.{_HOME_OF[name]}"), name)
    if name == "inpainters":
        return importlib.import_module("hardy.splat.inpainters")
    if name == "rasterize":
        warn_renamed("hardy.splat.rasterize", "rasterization")
        return importlib.import_module("hardy.splat.rendering").rasterization
    raise AttributeError(f"module 'hardy.splat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
