"""The chip: weight noise, each kind with its scale named."""

from hardy.hardware.noise import AdditiveNoise, ProportionalNoise, additive, noise_scale, proportional

__all__ = ["AdditiveNoise", "ProportionalNoise", "additive", "noise_scale", "proportional"]
