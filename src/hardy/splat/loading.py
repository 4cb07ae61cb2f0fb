"""Scenes from files: COLMAP models, and transforms.json of Nerfstudio, instant-ngp and the NeRF-synthetic scenes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from hardy import checks
from hardy.errors import InputError
from hardy.reading import reading
from hardy.splat import colmap, memory, transforms
from hardy.splat.lens import undistorted
from hardy.splat.photos import SUFFIXES, PosedImage, photo_size, read_mask, read_photo
from hardy.splat.scene import Scene, View


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reading:
    """How the photos of one scene are read, and what was found."""

    masks: Path | None
    removed: Path | None
    background: tuple[float, float, float]
    found: dict[str, list[str]] = dataclasses.field(default_factory=lambda: {"masks": [], "removed": []})


def load_scene(
    path: str | Path,
    *,
    images: str = "images",
    masks: str | Path | None = None,
    removed: str | Path | None = None,
    downscale: int = 1,
    hold_out_every: int = 8,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    outside: bool = False,
) -> Scene:
    """Read posed photos: a COLMAP folder, or a transforms.json of Nerfstudio or instant-ngp, or several in parts.

    Where the files say which photos are for training and which for tests (train_filenames, transforms_train.json), that
    holds: those for validation and tests do not train, and a photo in no list is left out.

    Args:
        path: a folder with a COLMAP model in `sparse/0/`, `sparse/` or itself, or with transforms.json, or that file,
            or with transforms_train.json, transforms_val.json, transforms_test.json.
        images: the folder of photos beside a COLMAP model. Photos of another size than the camera says are
            accepted if the proportions agree (images_2, images_4 ...).
        masks: a folder of images with the photos' names (`a.jpg`, `a.png` or `a.jpg.png` for `a.jpg`), white where the
            photo counts; a missing one means everywhere. Masks that a transforms.json names count as well.
        removed: such a folder with the other meaning: white is what is to be removed or filled (`Scene.holes`).
        downscale: whole factor by which photos are made smaller.
        hold_out_every: every so many-th photo, sorted by name, beginning with the first, is held out, unless the files
            say which; 0 for none.
        background: shown by what is transparent in a photo.
        outside: whether a scene's files may name photos and points outside the scene's folder; only for a scene whose
            author you trust.

    Raises:
        InputError: there is no such model, a camera model is unknown, no listed photo exists, sizes do not agree, a
            camera cannot be, no mask has the name of a photo, or the photos do not fit in memory. Photos that are
            missing are left out, and named in `missing`.
    """
    path = Path(path)
    if downscale < 1 or hold_out_every < 0 or hold_out_every == 1:
        raise InputError(
            f"downscale must be at least 1 and hold_out_every 0 or at least 2, got {downscale}, {hold_out_every}"
        )
    for value in background:
        checks.number("background", value, at_least=0, at_most=1)
    how = _Reading(masks=_folder(masks), removed=_folder(removed), background=background)
    with reading(path):
        if not path.exists():
            raise InputError(f"there is no {path}")
        return _loaded(path, images, how, downscale, hold_out_every, outside)


def _folder(masks: str | Path | None) -> Path | None:
    folder = None if masks is None else Path(masks)
    if folder is not None and not folder.is_dir():
        raise InputError(f"there is no folder of masks {folder}")
    return folder


def _loaded(path: Path, images: str, how: _Reading, downscale: int, hold_out_every: int, outside: bool) -> Scene:
    file = path / "transforms.json" if path.is_dir() else path
    model = colmap.model_folder(path) if path.is_dir() else None
    parts = transforms.split_files(path) if path.is_dir() else {}
    notes = []
    if model is not None:
        listed, points, colors = colmap.read(model, path / images, outside)
        if others := colmap.other_models(model):
            notes.append(f"Of {len(others) + 1} models the largest is taken: {model}")
    elif file.name.endswith(".json") and file.is_file():
        listed, points, colors = transforms.read(file, outside)
    elif parts:
        listed, points, colors = transforms.read_split(parts, outside)
    else:
        raise InputError(f"{path} holds no COLMAP model (sparse/0/cameras.bin or .txt) and no transforms.json")
    present = sorted((image for image in listed if image.file.is_file()), key=lambda image: image.name)
    if not present:
        where = listed[0].file if listed else path
        raise InputError(f"none of the {len(listed)} photos that {path} lists exists, such as {where}")
    for image in present:
        _check_camera(image)
    used, tested, unlisted = _split(present, hold_out_every)
    if not used:
        raise InputError(f"none of the {len(present)} photos of {path} is for training: its lists name others")
    memory.check_photos([photo_size(image.file) for image in (*used, *tested)], downscale)
    read = {image.name: _view(image, how) for image in (*used, *tested)}
    if unlisted:
        notes.append(f"Left out: {len(unlisted)} photos that are in none of the scene's lists, such as {unlisted[0]}")
    notes += _mask_notes(how, len(read), any(image.mask for image in present))
    holes = [read[image.name][1] for image in used] if how.removed is not None else []
    scene = Scene(
        views=tuple(read[image.name][0] for image in used),
        held_out=tuple(read[image.name][0] for image in tested),
        points=torch.from_numpy(points).float(),
        colors=torch.from_numpy(colors).float(),
        missing=tuple(sorted(image.name for image in listed if not image.file.is_file())),
        extra=_extra(listed),
        holes=tuple(holes),
        notes=tuple(notes),
    )
    return scene.smaller(downscale)


def _split(present: list[PosedImage], every: int) -> tuple[list[PosedImage], list[PosedImage], list[str]]:
    """Photos to train on and to test on, or to validate if none is for tests, and names of those in no list."""
    if any(image.part is not None for image in present):
        parts = {part: [image for image in present if image.part == part] for part in ("train", "val", "test", "")}
        return parts["train"], parts["test"] or parts["val"], [image.name for image in parts[""]]
    every = every if len(present) > 1 else 0
    used = [image for i, image in enumerate(present) if not every or i % every]
    return used, present[::every] if every else [], []


def _mask_notes(how: _Reading, photos: int, named: bool) -> list[str]:
    """How many photos have a mask.

    Raises:
        InputError: a folder was given, and none has.
    """
    notes = []
    for kind, folder in (("masks", how.masks), ("removed", how.removed)):
        count = len(how.found[kind])
        if folder is not None and not count:
            there = sorted(file.name for file in folder.rglob("*") if file.is_file())
            shown = f"{len(there)} files there, such as {there[0]}" if there else "the folder is empty"
            raise InputError(
                f"0 of {photos} photos have a mask in {folder} ({shown}); a mask has the name of its photo, with its "
                "ending, with .png instead, or with .png after it"
            )
        if folder is not None or (named and kind == "masks"):
            notes.append(f"Masks: {count} of {photos} photos" + (f", in {folder}" if folder is not None else ""))
    return notes


def _extra(images: list[PosedImage]) -> tuple[str, ...]:
    """Names of images in the folders of the listed photos that are not listed, masks and depths of others aside."""
    listed = {image.file for image in images} | {image.mask for image in images}
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


def _view(image: PosedImage, how: _Reading) -> tuple[View, torch.Tensor]:
    """The view, and what of it is to be removed."""
    photo = torch.from_numpy(read_photo(image.file, how.background, (image.width, image.height)))
    height, width = photo.shape[:2]
    scale = width / image.width, height / image.height
    if abs(image.width * scale[1] - width) > 1.5:  # the photo may be smaller, rounded to whole pixels
        sizes = f"{width} x {height}, its camera has {image.width} x {image.height}"
        raise InputError(f"{image.file} has {sizes}: sizes must agree up to a factor")
    k = torch.from_numpy(image.K).float()
    k[0] *= scale[0]
    k[1] *= scale[1]
    mask = _mask(image, how, "masks", photo)
    hole = _mask(image, how, "removed", photo)
    hole = torch.zeros(height, width, dtype=torch.bool) if hole is None else hole
    if any(image.distortion):
        photo, valid = undistorted(photo, k, image.distortion)
        if mask is not None:
            valid &= undistorted(mask.float()[..., None], k, image.distortion)[0][..., 0] > 0.999
        hole = undistorted(hole.float()[..., None], k, image.distortion)[0][..., 0] > 0.001
        mask = None if bool(valid.all()) else valid
    viewmat = torch.from_numpy(image.viewmat).float()
    return View(name=image.name, image=photo, viewmat=viewmat, K=k, mask=mask), hole


def _mask(image: PosedImage, how: _Reading, kind: str, photo: torch.Tensor) -> torch.Tensor | None:
    """The mask in the folder of that kind, or what the scene's files name; None where there is none."""
    folder: Path | None = getattr(how, kind)
    # By the path the scene gives it, or by the end of the photo's own, the longest first: masks lie as photos do.
    ends = [image.name, *("/".join(image.file.parts[-count:]) for count in (4, 3, 2, 1))]
    candidates = [] if folder is None else [folder / name for path in ends for name in _mask_names(path)]
    if kind == "masks" and image.mask is not None:
        candidates.append(image.mask)
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        return None
    how.found[kind].append(image.name)
    mask = torch.from_numpy(read_mask(file))
    if mask.shape != photo.shape[:2]:
        width, height, of_photo = mask.shape[1], mask.shape[0], f"{photo.shape[1]} x {photo.shape[0]}"
        raise InputError(f"the mask {file} has {width} x {height}, its photo {of_photo}")
    return mask


def _mask_names(photo: str) -> list[str]:
    return [photo, str(Path(photo).with_suffix(".png")), f"{photo}.png"]
