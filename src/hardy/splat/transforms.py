"""Cameras in a transforms.json, as Nerfstudio and instant-ngp write it."""

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from hardy.errors import InputError
from hardy.splat.photos import PosedImage
from hardy.splat.ply import read_vertices

_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "")


def read(file: Path) -> tuple[list[PosedImage], np.ndarray, np.ndarray]:
    """The photos that a transforms.json lists, and the points and colors (0 to 1) of its `ply_file_path`, if any.

    Raises:
        InputError: it is damaged, or its cameras are of an unknown model.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        frames = record["frames"]
        images = [_posed_image(file, {**record, **frame}) for frame in frames]
        if len({image.name for image in images}) < len(images):  # photos of the same name in several folders
            names = [
                str(Path(frame["file_path"]).with_suffix(image.file.suffix))
                for frame, image in zip(frames, images, strict=True)
            ]
            images = [dataclasses.replace(image, name=name) for image, name in zip(images, names, strict=True)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is damaged or lists no cameras: {type(error).__name__} {error}") from None
    repeated = sorted(name for name, times in Counter(image.name for image in images).items() if times > 1)
    if repeated:
        raise InputError(f"{file} lists the photo {repeated[0]} more than once")
    points = colors = np.zeros((0, 3))
    cloud = record.get("ply_file_path")
    if cloud:
        if not (file.parent / cloud).is_file():
            raise InputError(
                f"{file} names the points {cloud}, which do not exist; take ply_file_path out for a random start"
            )
        columns = read_vertices(file.parent / cloud)
        if not {"x", "y", "z"} <= columns.keys():
            raise InputError(f"{file.parent / cloud} holds no points: it lacks x, y or z")
        points = np.stack([columns[name] for name in "xyz"], 1).astype(float)
        colors = np.full_like(points, 0.5)
        if {"red", "green", "blue"} <= columns.keys():
            colors = np.stack([columns[name] for name in ("red", "green", "blue")], 1) / 255
    return images, points, colors


def _posed_image(file: Path, values: dict[str, Any]) -> PosedImage:
    model = values.get("camera_model", "")
    if model not in _MODELS or values.get("is_fisheye"):
        name = "fisheye" if values.get("is_fisheye") else model
        raise InputError(f"{file} has cameras of the model {name!r}; known are {', '.join(_MODELS[:-1])}")
    path = file.parent / values["file_path"]
    if not path.suffix:
        path = path.with_suffix(".png")  # the Blender scenes leave it out
    width, height = int(values["w"]), int(values["h"])
    fx = values.get("fl_x") or width / 2 / math.tan(values["camera_angle_x"] / 2)
    fy = values.get("fl_y") or fx
    k = np.array([[fx, 0, values.get("cx", width / 2)], [0, fy, values.get("cy", height / 2)], [0, 0, 1]], dtype=float)
    camtoworld = np.array(values["transform_matrix"], dtype=float)
    if camtoworld.shape != (4, 4) or abs(np.linalg.det(camtoworld[:3, :3])) < 1e-9:
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
