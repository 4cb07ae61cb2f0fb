"""Models on analog hardware: deployment on a chip, training that survives it, and repairs that need no training."""

from hardy.analog.deploy import Deploy, drift, program
from hardy.analog.halora import HaLoRA
from hardy.analog.hybrid_projection import HybridProjection
from hardy.analog.layers import clipping
from hardy.analog.modules import (
    AnalogConv1D,
    AnalogConv1d,
    AnalogConv2d,
    AnalogConv3d,
    AnalogConvTranspose1d,
    AnalogConvTranspose2d,
    AnalogConvTranspose3d,
    AnalogLinear,
)
from hardy.analog.noise_aware import NoiseAware
from hardy.analog.redundancy import Redundancy, equivalent_noise
from hardy.analog.romer import ExpertReplacement, RandomReplacement, RouterCalibration
from hardy.analog.sensitivity import noise_sensitivity

__all__ = [
    "AnalogConv1D",
    "AnalogConv1d",
    "AnalogConv2d",
    "AnalogConv3d",
    "AnalogConvTranspose1d",
    "AnalogConvTranspose2d",
    "AnalogConvTranspose3d",
    "AnalogLinear",
    "Deploy",
    "ExpertReplacement",
    "HaLoRA",
    "HybridProjection",
    "NoiseAware",
    "RandomReplacement",
    "Redundancy",
    "RouterCalibration",
    "clipping",
    "drift",
    "equivalent_noise",
    "noise_sensitivity",
    "program",
]
