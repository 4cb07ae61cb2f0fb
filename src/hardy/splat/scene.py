"""PosedImage photos and the points seen in them: what Gaussians are trained on."""

from __future__ import annotations

import dataclasses

import torch

from hardy.deprecation import renamed_fields
from hardy.errors import InputError

_TENSORS = ("image", "viewmat", "K", "mask", "weight", "depth")


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
        weight: (height, width), at least 0, how much each pixel counts in training; None for 1 everywhere.
        depth: (height, width), the depth that training shall come close to; 0 where it is unknown. None for nowhere.
    """

    name: str
    image: torch.Tensor
    viewmat: torch.Tensor
    K: torch.Tensor
    mask: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    depth: torch.Tensor | None = None

    @property
    def eye(self) -> torch.Tensor:
        """(3,), where the camera is."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def to(self, device: torch.device) -> View:
        """The view on a device."""
        if self.image.device == device:
            return self
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return dataclasses.replace(self, **{k: each.to(device) for k, each in tensors.items() if each is not None})

    def smaller(self, factor: int) -> View:
        """The photo and its camera at 1 / `factor` of the size.

        A mask keeps what is wholly true, a weight is the mean, a depth the mean of what is known.
        """
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
            mask = _pooled(mask.float(), size) >= 1
        weight = None if self.weight is None else _pooled(self.weight, size)
        depth = self.depth
        if depth is not None:
            known = _pooled((depth > 0).float(), size)
            depth = torch.where(known > 0, _pooled(depth, size) / known.clamp(min=1e-9), 0)
        smaller = image.clamp(0, 1).contiguous()
        return dataclasses.replace(self, image=smaller, K=k, mask=mask, weight=weight, depth=depth)


def _pooled(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(values[None, None], size)[0, 0]


def _shrunk_hole(hole: torch.Tensor, factor: int) -> torch.Tensor:
    """A pixel is to go if any part of it is."""
    if factor == 1:
        return hole
    size = (max(1, round(hole.shape[0] / factor)), max(1, round(hole.shape[1] / factor)))
    return _pooled(hole.float(), size) > 0


def _counts(view: View) -> bool:
    """Whether any pixel of the view does."""
    mask = True if view.mask is None else bool(view.mask.any())
    return mask and (view.weight is None or bool((view.weight > 0).any()))


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
        holes: (height, width) bool for each of the views, what is to be removed or filled; () where nothing is.
        notes: what was found and done when it was read, one sentence each.

    Raises:
        InputError: there is nothing to train on, points and colors do not fit, or a value is not finite.
    """

    views: tuple[View, ...]
    held_out: tuple[View, ...] = ()
    points: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, 3))
    colors: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, 3))
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    holes: tuple[torch.Tensor, ...] = ()
    notes: tuple[str, ...] = ()

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
            for name in _TENSORS:
                tensor = getattr(view, name)
                if tensor is not None and not torch.isfinite(tensor).all():
                    raise InputError(f"the {name} of view {view.name} holds values that are not finite")
                if name in ("weight", "depth") and tensor is not None and bool((tensor < 0).any()):
                    raise InputError(f"the {name} of view {view.name} holds values below 0")
                if name in ("mask", "weight", "depth") and tensor is not None and tensor.shape != view.image.shape[:2]:
                    sizes = f"{tuple(tensor.shape)}, its image {tuple(view.image.shape[:2])}"
                    raise InputError(f"the {name} of view {view.name} has the shape {sizes}")
        if not any(_counts(view) for view in self.views):
            raise InputError(f"no pixel of the {len(self.views)} views counts: their masks or weights are 0 everywhere")

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
            holes=tuple(_shrunk_hole(hole, factor) for hole in self.holes),
        )
