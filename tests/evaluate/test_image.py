"""Structural similarity against loops over windows."""

import numpy as np
import pytest
import torch

from hardy.errors import InputError
from hardy.evaluate import ssim


def by_windows(a: np.ndarray, b: np.ndarray) -> float:
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / 4.5)
    window /= window.sum()
    a, b = (np.pad(image, ((5, 5), (5, 5), (0, 0))) for image in (a, b))
    values = []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            for channel in range(a.shape[2]):
                x, y = (image[row : row + 11, column : column + 11, channel] for image in (a, b))
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                both = (window * (x - mx) * (y - my)).sum()
                top = (2 * mx * my + 1e-4) * (2 * both + 9e-4)
                values.append(top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(np.mean(values))


def test_ssim_is_that_of_loops_over_windows() -> None:
    random = torch.Generator().manual_seed(0)
    a = torch.rand(13, 17, 3, generator=random, dtype=torch.float64)
    b = (a + 0.2 * torch.randn(13, 17, 3, generator=random, dtype=torch.float64)).clamp(0, 1)
    assert abs(ssim(a, b).item() - by_windows(a.numpy(), b.numpy())) < 1e-12
    assert abs(ssim(a.float(), b.float()).item() - ssim(a, b).item()) < 1e-5
    assert abs(ssim(a, a).item() - 1) < 1e-12


def test_ssim_refuses_other_shapes() -> None:
    with pytest.raises(InputError, match=r"two images \(height, width, channels\), got \(4, 4\) and \(4, 4\)"):
        ssim(torch.zeros(4, 4), torch.zeros(4, 4))
