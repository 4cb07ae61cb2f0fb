"""The chip: weight noise, each kind with its scale named; memory cells; crossbar tiles, what they compute and cost."""

from hardy.hardware import wires
from hardy.hardware.chip import Chip
from hardy.hardware.cost import Cost, Parts, lossless_adc_bits, matrix_cost, model_cost
from hardy.hardware.crossbar import ArrayState, program_matrix
from hardy.hardware.device import AdditiveDevice, Device, FittedDevice, LogNormalDevice, ProportionalDevice
from hardy.hardware.flash import Sonos
from hardy.hardware.noise import (
    AdditiveNoise,
    LogNormalNoise,
    ProportionalNoise,
    WeightNoise,
    additive,
    log_normal,
    noise_scale,
    proportional,
)
from hardy.hardware.pcm import PCM, FoundationPCM, HermesPCM
from hardy.hardware.product import Periphery, analog_product
from hardy.hardware.reram import ReramCMO, ReramWan
from hardy.hardware.table import TableDevice

__all__ = [
    "PCM",
    "AdditiveDevice",
    "AdditiveNoise",
    "ArrayState",
    "Chip",
    "Cost",
    "Device",
    "FittedDevice",
    "FoundationPCM",
    "HermesPCM",
    "LogNormalDevice",
    "LogNormalNoise",
    "Parts",
    "Periphery",
    "ProportionalDevice",
    "ProportionalNoise",
    "ReramCMO",
    "ReramWan",
    "Sonos",
    "TableDevice",
    "WeightNoise",
    "additive",
    "analog_product",
    "log_normal",
    "lossless_adc_bits",
    "matrix_cost",
    "model_cost",
    "noise_scale",
    "program_matrix",
    "proportional",
    "wires",
]
