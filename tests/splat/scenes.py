"""Scenes for tests: renderings of known Gaussians seen from a ring of cameras, and photos of nothing in files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hardy.splat import Scene, View, rasterization


def known_scene(views: int = 10, size: tuple[int, int] = (40, 30), points: bool = True, seed: int = 0) -> Scene:
    random = torch.Generator().manual_seed(seed)
    count = 60
    means = torch.randn(count, 3, generator=random) * 0.6
    quats = torch.randn(count, 4, generator=random)
    scales = (0.4 * torch.randn(count, 3, generator=random) - 1.8).exp()
    colors = torch.rand(count, 3, generator=random)
    width, height = size
    k = torch.tensor([[width * 0.9, 0, width / 2], [0, width * 0.9, height / 2], [0, 0, 1]])
    made = []
    for i in range(views):
        angle = torch.tensor(2 * torch.pi * i / views)
        eye = torch.stack([3 * angle.sin(), torch.tensor(0.3 * (i % 3 - 1)), -3 * angle.cos()])
        ahead = -eye / eye.norm()
        right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1, 0]), ahead), dim=0)
        view = torch.eye(4)
        view[:3, :3] = torch.stack([right, torch.linalg.cross(ahead, right), ahead])
        view[:3, 3] = -view[:3, :3] @ eye
        opacities = torch.full((count,), 0.9)
        image = rasterization(means, quats, scales, opacities, colors, view[None], k[None], width, height)[0][0]
        made.append(View(name=f"{i:02}.png", image=image.clamp(0, 1), viewmat=view, K=k))
    cloud = means + 0.03 * torch.randn(count, 3, generator=random)
    empty = torch.zeros(0, 3)
    return Scene(
        views=tuple(view for i, view in enumerate(made) if i % 5),
        held_out=tuple(made[::5]),
        points=cloud if points else empty,
        colors=colors if points else empty,
    )


def photos(folder: Path, names: list[str], size: tuple[int, int] = (24, 16)) -> None:
    """Files of noise, `size` as (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name in names:
        Image.fromarray(random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)
