"""Models on analog hardware: deployment on a chip."""

from hardy.analog.deploy import Deploy, drift, program
from hardy.analog.modules import AnalogConv1D, AnalogConv2d, AnalogLinear

__all__ = ["AnalogConv1D", "AnalogConv2d", "AnalogLinear", "Deploy", "drift", "program"]
