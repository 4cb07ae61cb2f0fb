"""How alike two images look: structural similarity (Wang et al. 2004)."""

import torch

from hardy.errors import InputError

_REACH, _SIGMA = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean structural similarity of two images with values in [0, 1]; 1 where they are equal; differentiable.

    A Gaussian window of 11 x 11 pixels with sigma 1.5, zeros beyond the border, as 3D Gaussian splatting computes it.

    Args:
        estimate: (height, width, channels).
        target: the same shape.

    Raises:
        InputError: the shapes differ or are not those of images.
    """
    if estimate.shape != target.shape or estimate.ndim != 3:
        raise InputError(f"ssim takes two images (height, width, channels), got {_shapes(estimate, target)}")
    offsets = torch.arange(-_REACH, _REACH + 1, dtype=estimate.dtype, device=estimate.device)
    window = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    window = window / window.sum()
    a, b = estimate.permute(2, 0, 1), target.permute(2, 0, 1)
    maps = torch.cat([a, b, a * a, b * b, a * b])
    # Maps as channels of one image: as images of one channel the convolutions take 15 times as long on CPUs.
    window = window.expand(len(maps), 1, 1, -1)
    maps = torch.nn.functional.conv2d(maps, window.transpose(2, 3), padding=(_REACH, 0), groups=len(maps))
    maps = torch.nn.functional.conv2d(maps, window, padding=(0, _REACH), groups=len(maps))
    mean_a, mean_b, aa, bb, ab = maps.chunk(5)
    variance_a, variance_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return (likeness / ((mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2))).mean()


def _shapes(*tensors: torch.Tensor) -> str:
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
