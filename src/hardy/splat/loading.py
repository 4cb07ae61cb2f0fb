"""Scenes from files: COLMAP models, and transforms.json of Nerfstudio and instant-ngp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hardy.errors import InputError
from hardy.reading import reading
from hardy.splat import colmap, memory, transforms
from hardy.splat.lens import undistorted
from hardy.splat.photos import SUFFIXES, PosedImage, photo_size, read_pixels
from hardy.splat.scene import Scene, View


def load_scene(
    path: str | Path,
    *,
    images: str = "images",
    masks: str | Path | None = None,
    downscale: int = 1,
    hold_out_every: int = 8,
    outside: bool = False,
) -> Scene:
    """Read posed photos: a COLMAP folder, or a transforms.json of Nerfstudio or instant-ngp.

    Args:
        path: a folder with a COLMAP model in `sparse/0/`, `sparse/` or itself, or with transforms.json, or that file.
        images: the folder of photos beside a COLMAP model. Photos of another size than the camera says are
            accepted if the proportions agree (images_2, images_4 ...).
        masks: a folder of images with the photos' names, white where the photo counts; a missing one means everywhere.
        downscale: whole factor by which photos are made smaller.
        hold_out_every: every so many-th photo, sorted by name, beginning with the first, is held out; 0 for none.
        outside: whether a scene's files may name photos and points outside the scene's folder; only for a scene whose
            author you trust.

    Raises:
        InputError: there is no such model, a camera model is unknown, no listed photo exists, sizes do not agree, a
            camera cannot be, or the photos do not fit in memory. Photos that are missing are left out, and named in
            `missing`.
    """
    path = Path(path)
    if downscale < 1 or hold_out_every < 0 or hold_out_every == 1:
        raise InputError(
            f"downscale must be at least 1 and hold_out_every 0 or at least 2, got {downscale}, {hold_out_every}"
        )
    with reading(path):
        if not path.exists():
            raise InputError(f"there is no {path}")
        return _loaded(path, images, masks, downscale, hold_out_every, outside)


def _loaded(
    path: Path, images: str, masks: str | Path | None, downscale: int, hold_out_every: int, outside: bool
) -> Scene:
    file = path / "transforms.json" if path.is_dir() else path
    model = colmap.model_folder(path) if path.is_dir() else None
    if model is not None:
        listed, points, colors = colmap.read(model, path / images, outside)
    elif file.name.endswith(".json") and file.is_file():
        listed, points, colors = transforms.read(file, outside)
    else:
        raise InputError(f"{path} holds no COLMAP model (sparse/0/cameras.bin or .txt) and no transforms.json")
    present = sorted((image for image in listed if image.file.is_file()), key=lambda image: image.name)
    if not present:
        where = listed[0].file if listed else path
        raise InputError(f"none of the {len(listed)} photos that {path} lists exists, such as {where}")
    for image in present:
        _check_camera(image)
    memory.check_photos([photo_size(image.file) for image in present], downscale)
    mask_folder = None if masks is None else Path(masks)
    if mask_folder is not None and not mask_folder.is_dir():
        raise InputError(f"there is no folder of masks {mask_folder}")
    views = [_view(image, mask_folder).smaller(downscale) for image in present]
    every = hold_out_every if len(views) > 1 else 0
    return Scene(
        views=tuple(view for i, view in enumerate(views) if not every or i % every),
        held_out=tuple(views[::every]) if every else (),
        points=torch.from_numpy(points).float(),
        colors=torch.from_numpy(colors).float(),
        missing=tuple(sorted(image.name for image in listed if not image.file.is_file())),
        extra=_extra(listed),
    )


def _extra(images: list[PosedImage]) -> tuple[str, ...]:
    """Names of images in the folders of the listed photos that are not listed."""
    listed = {image.file for image in images}
    folders = {image.file.parent for image in images if image.file.parent.is_dir()}
    beside = {file for folder in folders for file in folder.iterdir() if file.suffix.lower() in SUFFIXES}
    return tuple(sorted(file.name for file in beside - listed))


def _check_camera(image: PosedImage) -> None:
    """Raise InputError for a camera that cannot be."""
    rotation, k = image.viewmat[:3, :3], image.K
    if image.width < 1 or image.height < 1:
        raise InputError(f"the camera of {image.name} has {image.width} x {image.height} pixels")
    if not (np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0 and np.isfinite(image.distortion).all()):
        raise InputError(
            f"the camera of {image.name} has the focal lengths {k[0, 0]:g} and {k[1, 1]:g}, or distortion, "
            "that no camera has"
        )
    stretched = np.abs(rotation @ rotation.T - np.eye(3)).max() > 0.02
    if not np.isfinite(image.viewmat).all() or stretched or np.linalg.det(rotation) < 0:
        raise InputError(f"the camera of {image.name} is not turned by a rotation: its axes are stretched or mirrored")


def _view(image: PosedImage, masks: Path | None) -> View:
    photo = torch.from_numpy(read_pixels(image.file, "RGB")).float() / 255
    height, width = photo.shape[:2]
    scale = width / image.width, height / image.height
    if abs(image.width * scale[1] - width) > 1.5:  # the photo may be smaller, rounded to whole pixels
        sizes = f"{width} x {height}, its camera has {image.width} x {image.height}"
        raise InputError(f"{image.file} has {sizes}: sizes must agree up to a factor")
    k = torch.from_numpy(image.K).float()
    k[0] *= scale[0]
    k[1] *= scale[1]
    mask = None
    if masks is not None:
        candidates = (masks / image.name, masks / f"{Path(image.name).stem}.png")
        file = next((file for file in candidates if file.is_file()), None)
        if file is not None:
            mask = torch.from_numpy(read_pixels(file, "L")) > 127
            if mask.shape != photo.shape[:2]:
                raise InputError(f"{file} has {mask.shape[1]} x {mask.shape[0]}, its photo {width} x {height}")
    if any(image.distortion):
        photo, valid = undistorted(photo, k, image.distortion)
        if mask is not None:
            valid &= undistorted(mask.float()[..., None], k, image.distortion)[0][..., 0] > 0.999
        mask = None if bool(valid.all()) else valid
    viewmat = torch.from_numpy(image.viewmat).float()
    return View(name=image.name, image=photo, viewmat=viewmat, K=k, mask=mask)
