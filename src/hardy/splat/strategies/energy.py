"""Training from small images to large ones, as the energy in their spectra says (coarse to fine).

Decomposing Densification (arXiv 2507.20239). The energy of the photos at 1/r of their size is the sum of the magnitudes
of their unnormalized Fourier transforms, times r^2; size 1/r is used up to the step that is its share of the energy at
full size. Where we differ: no size whose shorter side is below `least` pixels is used (the paper's photos are larger),
and steps are made not to rise with r.
"""

import dataclasses
from collections.abc import Sequence

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergySchedule:
    """Which factor images are shrunk by at which step.

    Args:
        factors: the largest.
        least: pixels that the shorter side keeps.
    """

    factors: int = 8
    least: int = 48

    def ends(self, images: Sequence[torch.Tensor], stop: int) -> list[int]:
        """The first step at which factor r = 1, 2, ... is no longer used; the list's first number is `stop`.

        Args:
            images: (height, width, D) each.
            stop: step at which densification ends.
        """
        shorter = min(min(image.shape[:2]) for image in images)
        energies = [
            sum(energy(image, factor) for image in images)
            for factor in range(1, max(1, min(self.factors, shorter // self.least)) + 1)
        ]
        ends = [stop]
        for value in energies[1:]:
            ends.append(min(ends[-1], round(value / energies[0] * stop)))
        return ends


def energy(image: torch.Tensor, factor: int) -> float:
    """The sum of magnitudes of the spectrum of an image (height, width, D) at 1 / `factor`, times `factor` squared."""
    height, width = image.shape[:2]
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    small = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True, align_corners=False
    )
    return torch.fft.fft2(small[0]).abs().sum().item() * factor**2


def factor_at(ends: Sequence[int], step: int) -> int:
    """The factor to use at `step`: the largest whose end is not reached, or 1."""
    return max((factor for factor, end in enumerate(ends, start=1) if step < end), default=1)
