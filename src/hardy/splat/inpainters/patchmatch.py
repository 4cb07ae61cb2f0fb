"""A hole filled with patches of the same photo that overlap without seams; nothing to download.

"Space-Time Completion of Video" (Wexler et al., PAMI 29(3), 2007) for one image, with PatchMatch's search (Barnes et
al., 2009): from coarse to fine, in turn the best patch for every place that touches the hole, and the mean of the
colors that overlapping patches give. Where we differ: it starts from the harmonic fill of the rim, and a prior stays
where it is while everything around is fitted to it.
"""

from __future__ import annotations

import dataclasses

import torch

from hardy import checks
from hardy.core.rng import derive, generator
from hardy.errors import InputError
from hardy.ops.patchmatch import nearest_patches, patch_votes
from hardy.splat.harmonic import harmonic_fill


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchMatch:
    """An `Inpainter`.

    Args:
        radius: of patches, which have 2 * radius + 1 pixels a side.
        rounds: of search and vote on each level of the pyramid.
    """

    radius: int = 3
    rounds: int = 6

    def __post_init__(self) -> None:
        checks.integer("radius", self.radius, at_least=1)
        checks.integer("rounds", self.rounds, at_least=1)

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
        return [self._filled(image.float(), unknown, derive(seed, "patchmatch", i)) for i in range(count)]

    def _filled(self, image: torch.Tensor, hole: torch.Tensor, seed: int) -> torch.Tensor:
        if not bool(_usable(hole, self.radius).any()):
            raise InputError(
                f"a photo of {hole.shape[1]} x {hole.shape[0]} has no whole patch of {2 * self.radius + 1} pixels "
                f"outside its hole of {int(hole.sum())} pixels; a smaller radius or hole would leave one"
            )
        levels = [(image, hole)]
        while _thick(levels[-1][1], self.radius) and min(levels[-1][1].shape) >= 4 * (2 * self.radius + 1):
            coarser = _halved(*levels[-1])
            if not bool(_usable(coarser[1], self.radius).any()):
                break
            levels.append(coarser)
        current = levels[-1][0]
        field = None
        for level in range(len(levels) - 1, -1, -1):
            known, missing = levels[level]
            if field is None:
                current = harmonic_fill(known, missing)
            else:
                current = torch.where(missing[..., None], _resized(current, known.shape[:2]), known)
            current, field = self._level(current, missing, seed + level)
        return torch.where(hole[..., None], current, image).clamp(0, 1)

    def _level(self, image: torch.Tensor, hole: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        usable = _usable(hole, self.radius)
        targets = _grown(hole, self.radius).reshape(-1).nonzero()[:, 0]
        sources = usable.reshape(-1).nonzero()[:, 0]
        random = generator(seed, "start")
        field = sources[torch.randint(len(sources), (len(targets),), generator=random)]
        # Votes count less the deeper in the hole they come from: it grows inwards from what is known.
        trust = 1.3 ** -_depths(hole)[targets]
        for turn in range(self.rounds):
            field, distances = nearest_patches(
                image, usable, targets, field, radius=self.radius, seed=derive(seed, "search", turn) & 0xFFFFFFFF
            )
            spread = distances.quantile(0.75).clamp(min=1e-6)
            weights = trust * torch.exp(-distances / (2 * spread)).clamp(min=1e-6)
            colors, votes = patch_votes(image, targets, field, weights, self.radius)
            image = torch.where((hole & (votes > 0))[..., None], colors, image)
        return image, field


def _usable(hole: torch.Tensor, radius: int) -> torch.Tensor:
    """Centres of patches that are known whole."""
    usable = ~_grown(hole, radius)
    inner = torch.zeros_like(usable)
    inner[radius : hole.shape[0] - radius, radius : hole.shape[1] - radius] = True
    return usable & inner


def _grown(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """By `radius` pixels in all directions, as squares are."""
    side = 2 * radius + 1
    return torch.nn.functional.max_pool2d(mask.float()[None, None], side, 1, radius)[0, 0] > 0


def _depths(hole: torch.Tensor) -> torch.Tensor:
    """(height * width,) how many pixels each lies in the hole."""
    depths, left = torch.zeros(hole.shape), hole
    while bool(left.any()):
        depths += left
        left = ~_grown(~left, 1)
    return depths.reshape(-1)


def _thick(hole: torch.Tensor, radius: int) -> bool:
    """Whether a patch could lie in the hole whole."""
    return bool((~_grown(~hole, radius)).any())


def _halved(image: torch.Tensor, hole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the size; colors are means of known pixels, and a pixel is known where at least half of it is."""
    size = ((image.shape[0] + 1) // 2, (image.shape[1] + 1) // 2)
    known = (~hole).float()[None, None]
    share = torch.nn.functional.adaptive_avg_pool2d(known, size)[0, 0]
    planes = image.permute(2, 0, 1)[None] * known
    mean = torch.nn.functional.adaptive_avg_pool2d(planes, size)[0].permute(1, 2, 0) / share.clamp(min=1e-6)[..., None]
    return mean, share < 0.5


def _resized(image: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    planes = image.permute(2, 0, 1)[None]
    made = torch.nn.functional.interpolate(planes, tuple(size), mode="bilinear", align_corners=False)
    return made[0].permute(1, 2, 0)
