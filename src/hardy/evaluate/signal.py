"""How close a signal is to another: peak signal-to-noise ratio."""

import torch

from hardy.errors import InputError


def psnr_of_error(error: torch.Tensor, peak: float = 1.0) -> torch.Tensor:
    """The peak signal-to-noise ratio in dB, `10 log10(peak^2 / error)`, of mean squared errors of any shape."""
    return 10 * torch.log10(peak**2 / error)


def psnr(estimate: torch.Tensor, target: torch.Tensor, peak: float = 1.0) -> float:
    """The peak signal-to-noise ratio of `estimate` in dB; infinite where it equals `target`.

    Args:
        estimate: any shape. Clip it to the range of the signal first, as whoever shows it would.
        target: same shape.
        peak: largest value less smallest value that the signal can have: 1 for [0, 1], 2 for [-1, 1].

    Raises:
        InputError: shapes differ, or `peak` is not above zero.
    """
    if estimate.shape != target.shape:
        raise InputError(f"an estimate of shape {tuple(estimate.shape)} for a target of {tuple(target.shape)}")
    if not peak > 0:
        raise InputError(f"peak must be above 0, got {peak!r}")
    return psnr_of_error((estimate.double() - target.double()).square().mean(), peak).item()
