"""A value for each pixel from tokens of four depths: the head of dense prediction transformers.

Source: DPT (arXiv 2103.13413) as VGGT has it. A residual unit adds what its first ReLU made of its input, and not the
input: there that ReLU works in place, and the public weights were trained so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate, relu

from hardy.zoo.vggt.config import VGGTConfig

PLACE = 0.1
"""Weight of the embedding that says where in the image a feature is."""


class ResidualUnit(nn.Module):
    """Two convolutions, added to ReLU of the input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(x)
        return self.conv2(relu(self.conv1(x))) + x


class Fusion(nn.Module):
    """What came from deeper tokens, with that of a level, made as large as the next level."""

    def __init__(self, features: int, *, deepest: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if not deepest:
            self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)

    def forward(self, x: torch.Tensor, level: torch.Tensor | None, size: Sequence[int]) -> torch.Tensor:
        x = x if level is None else x + self.resConfUnit1(level)
        x = interpolate(self.resConfUnit2(x), tuple(size), mode="bilinear", align_corners=True)
        return self.out_conv(x)


class Scratch(nn.Module):
    """The fusion of four levels and the last convolutions, under the names that public weights have for them."""

    def __init__(self, channels: Sequence[int], features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        for number, width in enumerate(channels, 1):
            self.add_module(f"layer{number}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{number}", Fusion(features, deepest=number == len(channels)))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, outputs, 1)
        )

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """(batch, features / 2, height, width), twice as large as the largest level."""
        made = [self.get_submodule(f"layer{number}_rn")(level) for number, level in enumerate(levels, 1)]
        x = made[-1]
        for number in range(len(made), 0, -1):
            size = made[number - 2].shape[2:] if number > 1 else [2 * side for side in made[0].shape[2:]]
            level = None if number == len(made) else made[number - 1]
            x = self.get_submodule(f"refinenet{number}")(x, level, size)
        return self.output_conv1(x)


class DenseHead(nn.Module):
    """Tokens to `outputs` numbers for each pixel.

    Args:
        config: the sizes.
        outputs: 2 for depths and their confidence, 4 for points.
    """

    def __init__(self, config: VGGTConfig, outputs: int) -> None:
        super().__init__()
        one, two, _, four = config.channels
        self.special = config.special
        self.norm = nn.LayerNorm(2 * config.dim)
        self.projects = nn.ModuleList(nn.Conv2d(2 * config.dim, width, 1) for width in config.channels)
        self.resize_layers = nn.ModuleList((
            nn.ConvTranspose2d(one, one, 4, 4), nn.ConvTranspose2d(two, two, 2, 2), nn.Identity(),
            nn.Conv2d(four, four, 3, stride=2, padding=1),
        ))  # fmt: skip
        self.scratch = Scratch(config.channels, config.features, config.hidden, outputs)

    def forward(self, taps: Sequence[torch.Tensor], down: int, across: int, size: tuple[int, int]) -> torch.Tensor:
        """(batch, frames, outputs, height, width) from four of (batch, frames, tokens, 2 dim) and a grid's sides."""
        batch, frames = taps[0].shape[:2]
        aspect, levels = size[1] / size[0], []
        for tokens, project, resize in zip(taps, self.projects, self.resize_layers, strict=True):
            x = self.norm(tokens[:, :, self.special :].flatten(0, 1)).mT.unflatten(2, (down, across))
            levels.append(resize(_placed(project(x), aspect)))
        x = interpolate(self.scratch(levels), size, mode="bilinear", align_corners=True)
        return self.scratch.output_conv2(_placed(x, aspect)).unflatten(0, (batch, frames))


def _placed(x: torch.Tensor, aspect: float) -> torch.Tensor:
    return x + PLACE * place_embedding(x.shape[1], x.shape[2], x.shape[3], aspect).to(x)


def place_embedding(channels: int, height: int, width: int, aspect: float) -> torch.Tensor:
    """Sines and cosines (channels, height, width) of the places on an image whose half diagonal is 1.

    The first half of the channels tells the column, the second the row; wave numbers fall from 1 to 1/100.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    across = aspect / diagonal * torch.linspace(-1 + 1 / width, 1 - 1 / width, width, dtype=torch.float64)
    down = 1 / diagonal * torch.linspace(-1 + 1 / height, 1 - 1 / height, height, dtype=torch.float64)
    speeds = 100 ** -(torch.arange(channels // 4, dtype=torch.float64) / (channels / 4))
    waves = [place[:, None] * speeds for place in (across, down)]
    x, y = (torch.cat([wave.sin(), wave.cos()], 1).T for wave in waves)
    x, y = x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)
    return torch.cat([x, y]).float()
