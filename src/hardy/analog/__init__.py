"""Models on analog hardware: deployment on a chip, training that survives it."""

from hardy.analog.deploy import Deploy, drift, program
from hardy.analog.halora import HaLoRA
from hardy.analog.modules import AnalogConv1D, AnalogConv2d, AnalogLinear
from hardy.analog.noise_aware import NoiseAware

__all__ = [
    "AnalogConv1D",
    "AnalogConv2d",
    "AnalogLinear",
    "Deploy",
    "HaLoRA",
    "NoiseAware",
    "drift",
    "program",
]
