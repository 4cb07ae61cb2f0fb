"""Distances between points, and Gaussians from a cloud of them."""

from collections.abc import Sequence

import torch
from scipy.spatial import KDTree

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.ops.spherical_harmonics import FIRST
from hardy.splat.scene import Scene, View


def neighbour_distances(points: torch.Tensor, neighbours: int = 3) -> torch.Tensor:
    """(N,) root of the mean squared distance of each of the points (N, 3) to its nearest neighbours, at least 1e-7^0.5.

    Fewer neighbours are taken where there are not so many points; a single point gets 1.
    """
    cloud = points.detach().cpu().double().numpy()
    count = min(neighbours, len(cloud) - 1)
    if count < 1:
        return points.new_ones(len(cloud))
    distances, _ = KDTree(cloud).query(cloud, k=count + 1)
    squared = torch.from_numpy(distances[:, 1:]).square().mean(1)
    return squared.clamp(min=1e-7).sqrt().to(points)


def gaussians_from(scene: Scene, degree: int = 3, random_points: int = 5000, seed: int = 0) -> dict[str, torch.Tensor]:
    """Gaussians at a scene's points, in their colors, as large as their neighbours are apart, of opacity 0.1.

    None is larger than the scene's extent or three times what nine tenths of them are, whichever is more.

    A scene without points gets random ones, gray, where its cameras look: in a cube about the point nearest to all
    their axes, as wide as the cameras are far from it.

    Args:
        scene: views and points.
        degree: of the spherical harmonics that there is room for, 0 to 3.
        random_points: how many where the scene has none.
        seed: of those.

    Returns:
        means (N, 3), log scales (N, 3), quats (N, 4), opacity logits (N,), sh0 (N, 1, 3), and shN (N, K, 3) with
        K = (degree + 1)^2 - 1.

    Raises:
        InputError: no camera has a point in front of it, or the degree is not 0 to 3.
    """
    checks.integer("degree", degree, at_least=0, at_most=3)
    means, colors = scene.points.float(), scene.colors.float()
    if not len(means):
        means, colors = random_cloud(scene, random_points, seed), torch.full((random_points, 3), 0.5)
    check_ahead(means, scene.views)
    count = len(means)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    sizes = neighbour_distances(means)
    # A point far from all others would begin as a Gaussian in front of everything.
    sizes = sizes.clamp(max=max(scene.extent, 3 * sizes.quantile(0.9).item() if count <= 1 << 24 else 0.0))
    return {
        "means": means.clone(),
        "scales": sizes.log()[:, None].expand(-1, 3).clone(),
        "quats": quats,
        "opacities": torch.full((count,), 0.1).logit(),
        "sh0": ((colors - 0.5) / FIRST)[:, None],
        "shN": torch.zeros(count, (degree + 1) ** 2 - 1, 3),
    }


def check_ahead(means: torch.Tensor, views: Sequence[View]) -> None:
    """Raise InputError if all points (N, 3) lie behind all cameras."""
    rows = [view.viewmat[2].to(means.device) for view in views]
    if not any(bool((means @ row[:3] + row[3] > 0.01).any()) for row in rows):
        raise InputError(f"all {len(means)} points lie behind all {len(views)} cameras: is an axis turned around?")


def random_cloud(scene: Scene, count: int, seed: int) -> torch.Tensor:
    """(count, 3) points, uniform in a cube where a scene's cameras look."""
    eyes = torch.stack([view.eye for view in scene.views]).double().cpu()
    middle = looked_at(scene)
    half = (eyes - middle).norm(dim=1).mean()
    drawn = torch.rand(count, 3, generator=generator(seed, "random-cloud"), dtype=torch.float64)
    return (middle + half * (2 * drawn - 1)).float()


def looked_at(scene: Scene) -> torch.Tensor:
    """(3,) float64: the point nearest to the axes of all training cameras."""
    eyes = torch.stack([view.eye for view in scene.views]).double().cpu()
    axes = torch.stack([view.viewmat[2, :3] for view in scene.views]).double().cpu()
    # A little pull to a place ahead of the cameras decides where their axes are parallel.
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    ahead = (eyes + scene.extent * axes).mean(0)
    pull = 1e-3 * len(eyes)
    left = across.sum(0) + pull * torch.eye(3, dtype=torch.float64)
    return torch.linalg.solve(left, (across @ eyes[..., None]).sum(0)[:, 0] + pull * ahead)
