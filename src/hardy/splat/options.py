"""How Gaussians are trained, besides the strategy of densification."""

from __future__ import annotations

import dataclasses
from typing import get_args

from hardy import checks
from hardy.deprecation import renamed_fields
from hardy.errors import InputError
from hardy.splat.rendering import RasterizeMode


@renamed_fields(degree="sh_degree", degree_every="sh_degree_interval", ssim_share="ssim_lambda", means_rates="means_lr")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How Gaussians are trained, besides the strategy.

    Args:
        steps: one view each.
        sh_degree: of spherical harmonics, 0 to 3; one more every `sh_degree_interval` steps.
        sh_degree_interval: None for a 30th of the steps.
        ssim_lambda: of the loss; the rest is the mean absolute error.
        depth_lambda: of the loss, times the mean relative error of depth where a view has one.
        means_lr: learning rate of centres at the start and the end, times the scene's extent; exponential between.
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
    sh_degree: int = 3
    sh_degree_interval: int | None = None
    ssim_lambda: float = 0.2
    depth_lambda: float = 0.1
    means_lr: tuple[float, float] = (1.6e-4, 1.6e-6)
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rasterize_mode: RasterizeMode = "classic"
    random_points: int = 5000
    evaluate_every: int = 0
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("random_points", 1), ("evaluate_every", 0), ("save_every", 1)):
            object.__setattr__(self, name, checks.integer(name, getattr(self, name), at_least=least))
        checks.integer("sh_degree", self.sh_degree, at_least=0, at_most=3)
        if self.sh_degree_interval is not None:
            checks.integer("sh_degree_interval", self.sh_degree_interval, at_least=1)
        checks.number("ssim_lambda", self.ssim_lambda, at_least=0, at_most=1)
        checks.number("depth_lambda", self.depth_lambda, at_least=0)
        if len(self.background) != 3:
            raise InputError(f"background must be three numbers, red, green and blue, got {self.background!r}")
        for value in self.background:
            checks.number("background", value, at_least=0, at_most=1)
        checks.one_of("rasterize_mode", self.rasterize_mode, get_args(RasterizeMode))
