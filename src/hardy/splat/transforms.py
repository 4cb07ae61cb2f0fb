"""Cameras in a transforms.json, as Nerfstudio and instant-ngp write it."""

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from hardy.errors import InputError
from hardy.reading import reading
from hardy.splat.photos import PosedImage, photo_in, photo_size
from hardy.splat.ply import read_vertices

_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "")


def read(file: Path, outside: bool = False) -> tuple[list[PosedImage], np.ndarray, np.ndarray]:
    """The photos that a transforms.json lists, and the points and colors (0 to 1) of its `ply_file_path`, if any.

    `outside` is whether these may lie outside the folder of the file.

    Raises:
        InputError: it is damaged, or its cameras are of an unknown model.
    """
    with reading(file):
        return _read(file, outside)


def split_files(folder: Path) -> dict[str, Path]:
    """The files of a scene in parts, transforms_train.json and so on, by part; as of the NeRF-synthetic scenes."""
    found = {part: folder / f"transforms_{part}.json" for part in ("train", "val", "test")}
    return {part: file for part, file in found.items() if file.is_file()}


def read_split(files: dict[str, Path], outside: bool = False) -> tuple[list[PosedImage], np.ndarray, np.ndarray]:
    """`read` of all parts of a scene; photos go by their path without an ending, such as train/r_0.

    Raises:
        InputError: there is no part to train on, or a file is damaged.
    """
    if "train" not in files:
        raise InputError(f"{next(iter(files.values())).parent} has no transforms_train.json")
    images: list[PosedImage] = []
    for part, file in files.items():
        listed, _, _ = read(file, outside)
        images += [dataclasses.replace(image, name=f"{part}/{image.file.name}", part=part) for image in listed]
    return images, np.zeros((0, 3)), np.zeros((0, 3))


def _read(file: Path, outside: bool) -> tuple[list[PosedImage], np.ndarray, np.ndarray]:
    record = json.loads(file.read_text(encoding="utf-8"))
    if not (isinstance(record, dict) and isinstance(frames := record.get("frames"), list)):
        raise InputError("it lists no cameras")
    with np.errstate(all="ignore"):  # what is not finite is said for the photo
        images = [_posed_image(file, {**record, **frame}, outside) for frame in frames]
    if len({image.name for image in images}) < len(images):  # photos of the same name in several folders
        names = [
            str(Path(frame["file_path"]).with_suffix(image.file.suffix))
            for frame, image in zip(frames, images, strict=True)
        ]
        images = [dataclasses.replace(image, name=name) for image, name in zip(images, names, strict=True)]
    repeated = sorted(name for name, times in Counter(image.name for image in images).items() if times > 1)
    if repeated:
        raise InputError(f"{file} lists the photo {repeated[0]} more than once")
    images = _parted(record, frames, images)
    points = colors = np.zeros((0, 3))
    cloud = record.get("ply_file_path")
    if cloud:
        place = photo_in(file.parent, cloud, file, outside)
        if not place.is_file():
            raise InputError(
                f"{file} names the points {cloud}, which do not exist; take ply_file_path out for a random start"
            )
        columns = read_vertices(place)
        if not {"x", "y", "z"} <= columns.keys():
            raise InputError(f"{place} holds no points: it lacks x, y or z")
        points = np.stack([columns[name] for name in "xyz"], 1).astype(float)
        colors = np.full_like(points, 0.5)
        if {"red", "green", "blue"} <= columns.keys():
            colors = np.stack([columns[name] for name in ("red", "green", "blue")], 1) / 255
    return images, points, colors


def _parted(record: dict[str, Any], frames: list[Any], images: list[PosedImage]) -> list[PosedImage]:
    """The photos with the parts that the lists train_filenames, val_filenames and test_filenames put them in."""
    lists = {part: record[f"{part}_filenames"] for part in ("train", "val", "test") if f"{part}_filenames" in record}
    if not lists:
        return images
    part_of = {Path(name).as_posix(): part for part, names in lists.items() for name in names}
    paths = [Path(frame["file_path"]).as_posix() for frame in frames]
    unknown = [name for name in part_of if name not in paths]
    if unknown:
        raise InputError(
            f"its lists of parts name {len(unknown)} photos that it has no camera of, such as {unknown[0]}"
        )
    pairs = zip(images, paths, strict=True)
    return [dataclasses.replace(image, part=part_of.get(path, "")) for image, path in pairs]


def _posed_image(file: Path, values: dict[str, Any], outside: bool) -> PosedImage:
    model = values.get("camera_model", "")
    if model not in _MODELS or values.get("is_fisheye"):
        name = "fisheye" if values.get("is_fisheye") else model
        raise InputError(f"{file} has cameras of the model {name!r}; known are {', '.join(_MODELS[:-1])}")
    path = photo_in(file.parent, values["file_path"], file, outside)
    if not path.suffix:
        path = path.with_suffix(".png")  # the Blender scenes leave it out
    width, height = (int(values[name]) if name in values else 0 for name in ("w", "h"))
    if not (width or height):
        width, height = photo_size(path) if path.is_file() else (1, 1)  # a missing photo is left out later
    if min(width, height) < 1:
        raise InputError(f"the camera of {values['file_path']} has {width} x {height} pixels")
    fx = values.get("fl_x") or width / 2 / math.tan(values["camera_angle_x"] / 2)
    fy = values.get("fl_y") or fx
    k = np.array([[fx, 0, values.get("cx", width / 2)], [0, fy, values.get("cy", height / 2)], [0, 0, 1]], dtype=float)
    camtoworld = np.array(values["transform_matrix"], dtype=float)
    if camtoworld.shape != (4, 4) or not np.isfinite(camtoworld).all() or abs(np.linalg.det(camtoworld[:3, :3])) < 1e-9:
        raise InputError(f"{file}: the transform_matrix of {values['file_path']} is no camera's place")
    camtoworld[:3, 1:3] *= -1  # from y up, z backward to y down, z forward
    distortion = tuple(float(values.get(name, 0)) for name in ("k1", "k2", "k3", "p1", "p2", "k4"))
    mask = values.get("mask_path")
    return PosedImage(
        file=path,
        name=path.name,
        viewmat=np.linalg.inv(camtoworld),
        K=k,
        width=width,
        height=height,
        distortion=distortion,
        mask=photo_in(file.parent, mask, file, outside) if mask else None,
    )
