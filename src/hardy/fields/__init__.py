"""Signals as small networks: sharp, robust to weight noise, shared between images, and exact in integers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardy.fields.activations import Activation, Finer, Gauss, Quad, Relu, Sine, Triangle, Wire
    from hardy.fields.chips import noisy_psnr, robustness
    from hardy.fields.descent import Fit, Schedule
    from hardy.fields.field import Field
    from hardy.fields.fitting import fit, fit_many
    from hardy.fields.hadamard_quant import HadamardQuant
    from hardy.fields.hash_grid import HashGrid
    from hardy.fields.integer import IntegerField
    from hardy.fields.integer_model import IntegerModel
    from hardy.fields.latent_field import LatentField
    from hardy.fields.losses import GradientNorm, Loss, SharpnessAware, SquaredError, WeightPerturbation
    from hardy.fields.saving import load_field, save_field
    from hardy.fields.shared import SharedField, add_images, fit_shared
    from hardy.fields.signals import Signal, audio, distance, grid_coordinates, image, sample_photo, video

_HOMES = {
    "activations": ("Activation", "Finer", "Gauss", "Quad", "Relu", "Sine", "Triangle", "Wire"),
    "descent": ("Fit", "Schedule"),
    "field": ("Field",),
    "fitting": ("fit", "fit_many"),
    "hadamard_quant": ("HadamardQuant",),
    "hash_grid": ("HashGrid",),
    "integer": ("IntegerField",),
    "integer_model": ("IntegerModel",),
    "losses": ("GradientNorm", "Loss", "SharpnessAware", "SquaredError", "WeightPerturbation"),
    "chips": ("noisy_psnr", "robustness"),
    "latent_field": ("LatentField",),
    "saving": ("load_field", "save_field"),
    "shared": ("SharedField", "add_images", "fit_shared"),
    "signals": ("Signal", "audio", "distance", "grid_coordinates", "image", "sample_photo", "video"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Activation",
    "Field",
    "Finer",
    "Fit",
    "Gauss",
    "GradientNorm",
    "HadamardQuant",
    "HashGrid",
    "IntegerField",
    "IntegerModel",
    "LatentField",
    "Loss",
    "Quad",
    "Relu",
    "Schedule",
    "SharedField",
    "SharpnessAware",
    "Signal",
    "Sine",
    "SquaredError",
    "Triangle",
    "WeightPerturbation",
    "Wire",
    "add_images",
    "audio",
    "distance",
    "fit",
    "fit_many",
    "fit_shared",
    "grid_coordinates",
    "image",
    "load_field",
    "noisy_psnr",
    "robustness",
    "sample_photo",
    "save_field",
    "video",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"hardy.fields.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'hardy.fields' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
