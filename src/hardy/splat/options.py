"""How Gaussians are trained, besides the strategy of densification."""

from __future__ import annotations

import dataclasses

from hardy.errors import InputError
from hardy.splat.rendering import RasterizeMode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How Gaussians are trained, besides the strategy.

    Args:
        steps: one view each.
        degree: of spherical harmonics, 0 to 3; one more every `degree_every` steps.
        degree_every: None for a 30th of the steps.
        ssim_share: of the loss; the rest is the mean absolute error.
        means_rates: learning rate of centres at the start and the end, times the scene's extent; exponential between.
        background: shown behind the Gaussians, per channel.
        rasterize_mode: "classic" or "antialiased".
        random_points: how many to start with in a scene without points.
        evaluate_every: steps between looks at the held-out views; 0 for only the last. They change nothing.
        save_every: steps between checkpoints, where there is a folder.
        seed: of the order of views and of random points.

    Raises:
        InputError: a field is out of range.
    """

    steps: int = 3000
    degree: int = 3
    degree_every: int | None = None
    ssim_share: float = 0.2
    means_rates: tuple[float, float] = (1.6e-4, 1.6e-6)
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rasterize_mode: RasterizeMode = "classic"
    random_points: int = 5000
    evaluate_every: int = 0
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("random_points", 1), ("evaluate_every", 0), ("save_every", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.degree not in range(4):
            raise InputError(f"degree must be 0 to 3, got {self.degree!r}")
        if not 0 <= self.ssim_share <= 1:
            raise InputError(f"ssim_share must be in [0, 1], got {self.ssim_share}")
        if self.rasterize_mode not in ("classic", "antialiased"):
            raise InputError(f"rasterize_mode must be classic or antialiased, got {self.rasterize_mode!r}")
