"""Distances between points, and Gaussians from a cloud of them."""

import torch
from scipy.spatial import KDTree


def neighbour_distances(points: torch.Tensor, neighbours: int = 3) -> torch.Tensor:
    """(N,) root of the mean squared distance of each of the points (N, 3) to its nearest neighbours, at least 1e-7^0.5.

    Fewer neighbours are taken where there are not so many points; a single point gets 1.
    """
    cloud = points.detach().cpu().double().numpy()
    found = min(neighbours, len(cloud) - 1)
    if found < 1:
        return torch.ones(len(cloud), dtype=points.dtype)
    distances, _ = KDTree(cloud).query(cloud, k=found + 1)
    squared = torch.from_numpy(distances[:, 1:]).square().mean(1)
    return squared.clamp(min=1e-7).sqrt().to(points)
