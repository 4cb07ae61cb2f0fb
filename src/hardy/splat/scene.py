"""PosedImage photos and the points seen in them: what Gaussians are trained on."""

from __future__ import annotations

import dataclasses

import torch

from hardy.deprecation import renamed_fields
from hardy.errors import InputError


@renamed_fields(k="K")
@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """One photo and the camera that took it.

    Args:
        name: of the file; views are sorted by it.
        image: (height, width, 3), 0 to 1.
        viewmat: (4, 4), world to camera; x to the right, y down, z forward.
        K: (3, 3), intrinsics in pixels, without distortion.
        mask: (height, width) bool, true where the photo counts; None for everywhere.
    """

    name: str
    image: torch.Tensor
    viewmat: torch.Tensor
    K: torch.Tensor
    mask: torch.Tensor | None = None

    @property
    def eye(self) -> torch.Tensor:
        """(3,), where the camera is."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def to(self, device: torch.device) -> View:
        """The view on a device."""
        if self.image.device == device:
            return self
        mask = None if self.mask is None else self.mask.to(device)
        moved = {name: getattr(self, name).to(device) for name in ("image", "viewmat", "K")}
        return dataclasses.replace(self, mask=mask, **moved)

    def smaller(self, factor: int) -> View:
        """The photo and its camera at 1 / `factor` of the size; a mask keeps what is wholly true."""
        if factor == 1:
            return self
        height, width = self.image.shape[:2]
        size = (max(1, round(height / factor)), max(1, round(width / factor)))
        image = torch.nn.functional.interpolate(
            self.image.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True, align_corners=False
        )[0].permute(1, 2, 0)
        k = self.K.clone()
        k[0] *= size[1] / width
        k[1] *= size[0] / height
        mask = self.mask
        if mask is not None:
            mask = torch.nn.functional.adaptive_avg_pool2d(mask.float()[None, None], size)[0, 0] >= 1
        return dataclasses.replace(self, image=image.clamp(0, 1).contiguous(), K=k, mask=mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Views to train on, views held out, and a cloud of points to start from.

    Args:
        views: for training, at least one.
        held_out: for evaluation only.
        points: (N, 3), may be empty.
        colors: (N, 3), 0 to 1.
        missing: names of photos that the scene's files list and that are not there.
        extra: names of photos beside the others whose cameras the scene's files do not list.

    Raises:
        InputError: there is nothing to train on, points and colors do not fit, or a value is not finite.
    """

    views: tuple[View, ...]
    held_out: tuple[View, ...] = ()
    points: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, 3))
    colors: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, 3))
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.views:
            raise InputError("a scene needs at least one view to train on")
        if self.points.shape != self.colors.shape or self.points.ndim != 2 or self.points.shape[1] != 3:
            shapes = f"{tuple(self.points.shape)} and {tuple(self.colors.shape)}"
            raise InputError(f"points and colors must both have the shape (N, 3), got {shapes}")
        for name in ("points", "colors"):
            wrong = int((~torch.isfinite(getattr(self, name))).any(1).sum())
            if wrong:
                raise InputError(f"{wrong} of the {len(self.points)} {name} of the scene are not finite")
        for view in (*self.views, *self.held_out):
            for name in ("image", "viewmat", "K"):
                if not torch.isfinite(getattr(view, name)).all():
                    raise InputError(f"the {name} of view {view.name} holds values that are not finite")

    @property
    def extent(self) -> float:
        """1.1 times the radius of the sphere about the mean camera that holds all cameras; 1 for one camera."""
        eyes = torch.stack([view.eye for view in self.views])
        radius = 1.1 * (eyes - eyes.mean(0)).norm(dim=1).max().item()
        return radius if radius > 1e-6 else 1.0

    def to(self, device: torch.device) -> Scene:
        """The scene's photos and cameras on a device; points stay."""
        if all(view.image.device == device for view in self.views):
            return self
        return dataclasses.replace(
            self,
            views=tuple(view.to(device) for view in self.views),
            held_out=tuple(view.to(device) for view in self.held_out),
        )

    def smaller(self, factor: int) -> Scene:
        """The scene with all photos smaller by a whole factor."""
        return dataclasses.replace(
            self,
            views=tuple(view.smaller(factor) for view in self.views),
            held_out=tuple(view.smaller(factor) for view in self.held_out),
        )
