"""SONOS charge-trapping flash: spread, mean drift over five days, and read noise.

Source: Agrawal et al., IEDM 2022, in CrossSim's fits of 128K measured cells. Between whole days the fits are
interpolated linearly, as there; beyond five days nothing is known, where CrossSim extrapolates. A cell keeps its place
in the distribution as that widens. The source works in nA at a read voltage of 0.1 V: 100 nA are 1 uS.
"""

import dataclasses

import torch

from hardy.errors import InputError
from hardy.hardware.device import Device, polynomial, require_seconds
from hardy.hardware.reram import DAY

_NANOAMPERE = 100.0  # of current to one uS

# By day: spread A (nA) and B (nA), then the coefficients of the mean drift (nA over nA), lowest order first.
_DAYS: tuple[tuple[float, float, tuple[float, ...]], ...] = (
    (19.88665, 176.3115, (0.0,) * 11),
    (
        25.59102,
        186.85544,
        (6.83650e-01, 6.51250e-03, -4.03163e-04, 3.37944e-06, -1.87435e-08, 5.88902e-11, -1.07685e-13, 1.17751e-16,
         -7.60016e-20, 2.67255e-23, -3.94954e-27),
    ),
    (
        28.72753,
        193.56834,
        (6.60925e-01, 8.60627e-03, -1.72936e-04, 7.44096e-07, -5.94866e-09, 2.36734e-11, -4.83740e-14, 5.56072e-17,
         -3.65397e-20, 1.28405e-23, -1.87450e-27),
    ),
    (
        31.04318,
        198.90332,
        (1.15821e00, 1.96116e-02, -4.70807e-04, 3.67510e-06, -2.08786e-08, 6.59752e-11, -1.19499e-13, 1.28435e-16,
         -8.11574e-20, 2.78802e-23, -4.02057e-27),
    ),
    (
        33.76214,
        204.77023,
        (8.72216e-01, 1.70926e-02, -2.23370e-04, 1.57526e-06, -1.32779e-08, 5.08256e-11, -1.01251e-13, 1.14633e-16,
         -7.46124e-20, 2.60559e-23, -3.78724e-27),
    ),
    (
        34.57909,
        207.34309,
        (1.15294e00, 1.03149e-02, -6.05199e-05, 1.76086e-08, -6.46690e-09, 3.39044e-11, -7.53872e-14, 8.98185e-17,
         -6.00346e-20, 2.12615e-23, -3.11099e-27),
    ),
)  # fmt: skip


def _saturating(a: float, b: float, current: torch.Tensor) -> torch.Tensor:
    return (a * (1 - torch.exp(-current / b))).clamp(min=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sonos(Device):
    """40 nm SONOS cells, up to 1600 nA (16 uS)."""

    g_max: float = 16.0

    def check(self) -> None:
        super().check()
        if self.g_max > 16:
            raise InputError(f"g_max must be at most 16 uS, the largest conductance of the fit, got {self.g_max!r}")

    def conductance(self, target: torch.Tensor, normals: torch.Tensor, seconds: float) -> torch.Tensor:
        require_seconds(seconds, 5 * DAY, "Sonos")
        day = min(int(seconds // DAY), 4)
        fraction = seconds / DAY - day
        (a0, b0, drift0), (a1, b1, drift1) = _DAYS[day], _DAYS[day + 1]
        a, b = a0 + fraction * (a1 - a0), b0 + fraction * (b1 - b0)
        drift = [c0 + fraction * (c1 - c0) for c0, c1 in zip(drift0, drift1, strict=True)]
        current = (target * _NANOAMPERE).double()  # powers up to the tenth of 1600 cancel: not in float32
        mean = current + polynomial(drift, current)
        held = mean + _saturating(a, b, mean) * normals[0]
        return (held.clamp(min=0) / _NANOAMPERE).to(target.dtype)

    def read_std(self, programmed: torch.Tensor, held: torch.Tensor, seconds: float) -> torch.Tensor | None:
        return _saturating(12.58037, 215.36557, held * _NANOAMPERE) / _NANOAMPERE
