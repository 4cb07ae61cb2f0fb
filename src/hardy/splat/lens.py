"""Photos without the distortion of their lens (the model of Brown and Conrady, with OpenCV's coefficients)."""

from collections.abc import Sequence

import torch


def undistorted(image: torch.Tensor, k: torch.Tensor, distortion: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The photo (height, width, D) as a pinhole camera with the same intrinsics would take it, by bilinear sampling.

    Args:
        image: the photo.
        k: (3, 3) intrinsics; the centre of the first pixel is at (0.5, 0.5).
        distortion: k1, k2, k3, p1, p2, and k4, if any, of the eighth power.

    Returns:
        The photo, and (height, width) bool: which of its pixels lie within the old one.
    """
    height, width = image.shape[:2]
    x = ((torch.arange(width) + 0.5 - k[0, 2]) / k[0, 0]).expand(height, -1)
    y = ((torch.arange(height) + 0.5 - k[1, 2]) / k[1, 1])[:, None].expand(-1, width)
    x, y = distorted(x, y, distortion)
    column, row = x * k[0, 0] + k[0, 2], y * k[1, 1] + k[1, 2]
    grid = torch.stack([2 * column / width - 1, 2 * row / height - 1], -1)
    made = torch.nn.functional.grid_sample(
        image.permute(2, 0, 1)[None], grid[None], padding_mode="border", align_corners=False
    )[0].permute(1, 2, 0)
    return made.contiguous(), (grid.abs() <= 1).all(-1)


def distorted(x: torch.Tensor, y: torch.Tensor, distortion: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a lens puts the directions (x, y, 1)."""
    k1, k2, k3, p1, p2, *more = distortion
    k4 = more[0] if more else 0.0
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x),
        y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y,
    )
