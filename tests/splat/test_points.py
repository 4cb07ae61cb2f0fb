"""Distances between points."""

import torch

from hardy.splat.points import neighbour_distances


def test_neighbour_distances_are_those_of_all_pairs() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    nearest = torch.cdist(points, points).sort(dim=1).values[:, 1:4]
    torch.testing.assert_close(neighbour_distances(points), nearest.square().mean(1).sqrt())


def test_few_and_equal_points() -> None:
    assert neighbour_distances(torch.zeros(1, 3)).tolist() == [1.0]
    assert len(neighbour_distances(torch.zeros(0, 3))) == 0
    torch.testing.assert_close(neighbour_distances(torch.zeros(5, 3)), torch.full((5,), 1e-7).sqrt())
    torch.testing.assert_close(neighbour_distances(torch.tensor([[0.0, 0, 0], [3, 4, 0]])), torch.tensor([5.0, 5.0]))
