"""Posed photos and the points seen in them: what Gaussians are trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from hardy.errors import InputError
from hardy.splat.lens import undistorted

PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """One photo and the camera that took it.

    Args:
        name: of the file; views are sorted by it.
        image: (height, width, 3), 0 to 1.
        viewmat: (4, 4), world to camera; x to the right, y down, z forward.
        k: (3, 3), intrinsics in pixels, without distortion.
        mask: (height, width) bool, true where the photo counts; None for everywhere.
    """

    name: str
    image: torch.Tensor
    viewmat: torch.Tensor
    k: torch.Tensor
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
        moved = {name: getattr(self, name).to(device) for name in ("image", "viewmat", "k")}
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
        k = self.k.clone()
        k[0] *= size[1] / width
        k[1] *= size[0] / height
        mask = self.mask
        if mask is not None:
            mask = torch.nn.functional.adaptive_avg_pool2d(mask.float()[None, None], size)[0, 0] >= 1
        return dataclasses.replace(self, image=image.clamp(0, 1).contiguous(), k=k, mask=mask)


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
            for name in ("image", "viewmat", "k"):
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posed:
    """A photo's file and camera, as a reader found them; `distortion` is k1, k2, k3, p1, p2."""

    file: Path
    name: str
    viewmat: np.ndarray
    k: np.ndarray
    width: int
    height: int
    distortion: tuple[float, ...] = (0.0,) * 5


def load_scene(
    path: str | Path,
    *,
    images: str = "images",
    masks: str | Path | None = None,
    downscale: int = 1,
    hold_out_every: int = 8,
) -> Scene:
    """Read posed photos: a COLMAP folder, or a transforms.json of Nerfstudio or instant-ngp.

    Args:
        path: a folder with a COLMAP model in `sparse/0/`, `sparse/` or itself, or with transforms.json, or that file.
        images: the folder of photos beside a COLMAP model. Photos of another size than the camera says are
            accepted if the proportions agree (images_2, images_4 ...).
        masks: a folder of images with the photos' names, white where the photo counts; a missing one means everywhere.
        downscale: whole factor by which photos are made smaller.
        hold_out_every: every so many-th photo, sorted by name, beginning with the first, is held out; 0 for none.

    Raises:
        InputError: there is no such model, a camera model is unknown, no listed photo exists, sizes do not agree, a
            camera cannot be, or the photos do not fit in memory. Photos that are missing are left out, and named in
            `missing`.
    """
    from hardy.splat import colmap, memory, transforms

    path = Path(path)
    if downscale < 1 or hold_out_every < 0 or hold_out_every == 1:
        raise InputError(
            f"downscale must be at least 1 and hold_out_every 0 or at least 2, got {downscale}, {hold_out_every}"
        )
    if not path.exists():
        raise InputError(f"there is no {path}")
    file = path / "transforms.json" if path.is_dir() else path
    model = colmap.model_folder(path) if path.is_dir() else None
    if model is not None:
        posed, points, colors = colmap.read(model, path / images)
    elif file.name.endswith(".json") and file.is_file():
        posed, points, colors = transforms.read(file)
    else:
        raise InputError(f"{path} holds no COLMAP model (sparse/0/cameras.bin or .txt) and no transforms.json")
    present = sorted((item for item in posed if item.file.is_file()), key=lambda item: item.name)
    if not present:
        where = posed[0].file if posed else path
        raise InputError(f"none of the {len(posed)} photos that {path} lists exists, such as {where}")
    for item in present:
        _check_camera(item)
    memory.check_photos([photo_size(item.file) for item in present], downscale)
    mask_folder = None if masks is None else Path(masks)
    if mask_folder is not None and not mask_folder.is_dir():
        raise InputError(f"there is no folder of masks {mask_folder}")
    views = [_view(item, mask_folder).smaller(downscale) for item in present]
    held = [hold_out_every > 0 and len(views) > 1 and i % hold_out_every == 0 for i in range(len(views))]
    return Scene(
        views=tuple(view for view, out in zip(views, held, strict=True) if not out),
        held_out=tuple(view for view, out in zip(views, held, strict=True) if out),
        points=torch.from_numpy(points).float(),
        colors=torch.from_numpy(colors).float(),
        missing=tuple(sorted(item.name for item in posed if not item.file.is_file())),
        extra=_extra(posed),
    )


def _extra(posed: list[Posed]) -> tuple[str, ...]:
    """Names of images in the folders of the listed photos that are not listed."""
    listed = {item.file for item in posed}
    folders = {item.file.parent for item in posed if item.file.parent.is_dir()}
    beside = {file for folder in folders for file in folder.iterdir() if file.suffix.lower() in PHOTOS}
    return tuple(sorted(file.name for file in beside - listed))


def _check_camera(posed: Posed) -> None:
    """Raise InputError for a camera that cannot be."""
    turn, k = posed.viewmat[:3, :3], posed.k
    if posed.width < 1 or posed.height < 1:
        raise InputError(f"the camera of {posed.name} has {posed.width} x {posed.height} pixels")
    if not (np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0 and np.isfinite(posed.distortion).all()):
        raise InputError(
            f"the camera of {posed.name} has the focal lengths {k[0, 0]:g} and {k[1, 1]:g}, or distortion, "
            "that no camera has"
        )
    if (
        not np.isfinite(posed.viewmat).all()
        or np.abs(turn @ turn.T - np.eye(3)).max() > 0.02
        or np.linalg.det(turn) < 0
    ):
        raise InputError(f"the camera of {posed.name} is not turned by a rotation: its axes are stretched or mirrored")


def _view(posed: Posed, masks: Path | None) -> View:
    image = torch.from_numpy(_pixels(posed.file, "RGB")).float() / 255
    height, width = image.shape[:2]
    scale = width / posed.width, height / posed.height
    if abs(posed.width * scale[1] - width) > 1.5:  # the photo may be smaller, rounded to whole pixels
        sizes = f"{width} x {height}, its camera has {posed.width} x {posed.height}"
        raise InputError(f"{posed.file} has {sizes}: sizes must agree up to a factor")
    k = torch.from_numpy(posed.k).float()
    k[0] *= scale[0]
    k[1] *= scale[1]
    mask = None
    if masks is not None:
        found = [file for file in (masks / posed.name, masks / f"{Path(posed.name).stem}.png") if file.is_file()]
        if found:
            mask = torch.from_numpy(_pixels(found[0], "L")) > 127
            if mask.shape != image.shape[:2]:
                sizes = f"{mask.shape[1]} x {mask.shape[0]}, its photo {width} x {height}"
                raise InputError(f"{found[0]} has {sizes}")
    if any(posed.distortion):
        image, valid = undistorted(image, k, posed.distortion)
        if mask is not None:
            valid &= undistorted(mask.float()[..., None], k, posed.distortion)[0][..., 0] > 0.999
        mask = None if bool(valid.all()) else valid
    viewmat = torch.from_numpy(posed.viewmat).float()
    return View(name=posed.name, image=image, viewmat=viewmat, k=k, mask=mask)


def photo_size(file: Path) -> tuple[int, int]:
    """Width and height, without reading the pixels.

    Raises:
        InputError: it is no image.
    """
    return _read(file, lambda image: image.size)


def _pixels(file: Path, mode: str) -> np.ndarray:
    return _read(file, lambda image: np.array(image.convert(mode)))


def _read(file: Path, look: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(file) as image:
            return look(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is not a readable image: {error}") from None
