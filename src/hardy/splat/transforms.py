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
from hardy.splat.photos import PosedImage, photo_in
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


def _posed_image(file: Path, values: dict[str, Any], outside: bool) -> PosedImage:
    model = values.get("camera_model", "")
    if model not in _MODELS or values.get("is_fisheye"):
        name = "fisheye" if values.get("is_fisheye") else model
        raise InputError(f"{file} has cameras of the model {name!r}; known are {', '.join(_MODELS[:-1])}")
    path = photo_in(file.parent, values["file_path"], file, outside)
    if not path.suffix:
        path = path.with_suffix(".png")  # the Blender scenes leave it out
    width, height = int(values["w"]), int(values["h"])
    if min(width, height) < 1:
        raise InputError(f"the camera of {values['file_path']} has {width} x {height} pixels")
    fx = values.get("fl_x") or width / 2 / math.tan(values["camera_angle_x"] / 2)
    fy = values.get("fl_y") or fx
    k = np.array([[fx, 0, values.get("cx", width / 2)], [0, fy, values.get("cy", height / 2)], [0, 0, 1]], dtype=float)
    camtoworld = np.array(values["transform_matrix"], dtype=float)
    if camtoworld.shape != (4, 4) or not np.isfinite(camtoworld).all() or abs(np.linalg.det(camtoworld[:3, :3])) < 1e-9:
        raise InputError(f"{file}: the transform_matrix of {values['file_path']} is no camera's place")
    camtoworld[:3, 1:3] *= -1  # from y up, z backward to y down, z forward
    distortion = tuple(float(values.get(name, 0)) for name in ("k1", "k2", "k3", "p1", "p2"))
    return PosedImage(
        file=path,
        name=path.name,
        viewmat=np.linalg.inv(camtoworld),
        K=k,
        width=width,
        height=height,
        distortion=distortion,
    )
