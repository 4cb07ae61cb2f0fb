"""A small network that learns to fill holes from the scene's own photos, in about two minutes on two cores.

Gated convolutions ("Free-Form Image Inpainting with Gated Convolution", arXiv 1806.03589), a few of them dilated, at
half resolution: about 140,000 parameters. It is trained on crops whose pixels are known, under holes cut from the
scene's masks, and knows nothing but this scene.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.runs.progress import track
from hardy.splat.harmonic import harmonic_fill

_SIDES = (48, 40, 32, 24)  # of crops; the largest of which there is one
_BATCH = 8


class _Gated(torch.nn.Module):
    def __init__(self, inside: int, outside: int, size: int = 3, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.both = torch.nn.Conv2d(inside, 2 * outside, size, stride, dilation * (size // 2), dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, gates = self.both(x).chunk(2, 1)
        return torch.nn.functional.elu(values) * gates.sigmoid()


class _Network(torch.nn.Module):
    """(batch, 5, height, width), colors with the harmonic fill, hole, noise -> (batch, 3, height, width)."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        wide = 2 * channels
        self.down = torch.nn.Sequential(_Gated(5, channels, 5), _Gated(channels, wide, 3, 2))
        self.middle = torch.nn.ModuleList([_Gated(wide, wide, dilation=dilation) for dilation in (1, 2, 4, 8, 1)])
        self.up = _Gated(wide, channels)
        self.last = torch.nn.Conv2d(channels + 5, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(x)
        for layer in self.middle:
            y = y + layer(y)
        y = torch.nn.functional.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=False)
        return x[:, :3] + self.last(torch.cat([self.up(y), x], 1))


@dataclasses.dataclass(frozen=True)
class Tiny:
    """An `Inpainter`; `Tiny.trained` makes one. Candidates differ by a channel of noise."""

    network: torch.nn.Module

    @classmethod
    def trained(
        cls, images: Sequence[torch.Tensor], holes: Sequence[torch.Tensor], *, steps: int = 1200, seed: int = 0
    ) -> Tiny:
        """Train on a scene's photos (height, width, 3), only where they are not holes (height, width).

        Raises:
            InputError: there are no photos, or no crop is wholly known.
        """
        checks.integer("steps", steps, at_least=1)
        random = generator(seed, "tiny-inpainter")
        whole, corners, side = [], [], _SIDES[-1]
        for side in _SIDES:
            corners = [_crops(hole, side) for hole in holes]
            whole = [i for i, places in enumerate(corners) if len(places)]
            if whole:
                break
        cut = [hole for hole in holes if bool(hole.any())]
        if not whole or not cut:
            raise InputError(
                f"the inpainter 'tiny' learns from crops of at least {side} x {side} without a hole and from holes; of "
                f"{len(images)} photos {len(whole)} have such a crop and {len(cut)} a hole"
            )

        def number(below: int) -> int:
            return int(torch.randint(below, (1,), generator=random))

        def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            photo = whole[number(len(whole))]
            y, x = corners[photo][number(len(corners[photo]))].tolist()
            crop = images[photo][y : y + side, x : x + side].float()
            hole = cut[number(len(cut))]
            at = hole.nonzero()[number(int(hole.sum()))] - side // 2
            mask = torch.zeros(side, side, dtype=torch.bool)
            places = hole.nonzero() - at
            places = places[((places >= 4) & (places < side - 4)).all(1)]  # some rim must be left
            mask[places[:, 0], places[:, 1]] = True
            return _input(crop, mask, random), crop.permute(2, 0, 1), mask

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << 31, (1,), generator=random)))
            network = _Network()
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in track(range(steps), "train the inpainter"):
            inputs, targets, masks = (
                torch.stack(part) for part in zip(*(example() for _ in range(_BATCH)), strict=True)
            )
            made = network(inputs)
            off = (made - targets).abs() * masks[:, None]
            loss = off.sum() / (3 * masks.sum().clamp(min=1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return cls(network.eval())

    def __call__(
        self,
        image: torch.Tensor,
        hole: torch.Tensor,
        *,
        prior: torch.Tensor | None = None,
        count: int = 1,
        seed: int = 0,
    ) -> list[torch.Tensor]:
        unknown = hole if prior is None else hole & ~prior
        if not bool(unknown.any()):
            return [image.clone()]
        made = []
        for i in range(count):
            inputs = _input(image.float(), unknown, generator(seed, "tiny-candidate", i))
            with torch.no_grad():
                filled = self.network(inputs[None])[0].permute(1, 2, 0).clamp(0, 1)
            made.append(torch.where(unknown[..., None], filled, image))
        return made


def _input(image: torch.Tensor, hole: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """(5, height, width)."""
    smooth = harmonic_fill(image, hole)
    noise = torch.rand(hole.shape, generator=random) * hole
    return torch.cat([smooth.permute(2, 0, 1), hole[None].float(), noise[None]])


def _crops(hole: torch.Tensor, side: int) -> torch.Tensor:
    """(M, 2) corners y, x of crops without a hole."""
    if min(hole.shape) < side:
        return torch.zeros(0, 2, dtype=torch.long)
    inside = torch.nn.functional.max_pool2d(hole.float()[None, None], side, 1)[0, 0]
    return (inside == 0).nonzero()
