"""Sparse models of COLMAP, text and binary: cameras, images, points3D."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hardy.errors import InputError
from hardy.reading import reading
from hardy.splat.photos import PosedImage, photo_in

# Number in binary files: name, how many parameters.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    6: ("FULL_OPENCV", 12),
}
_NUMBER_OF = {name: number for number, (name, _) in _MODELS.items()}
_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", ".")


def model_folder(path: Path) -> Path | None:
    """Where below `path` the model lies, if anywhere; of several in numbered folders the one with the largest files."""
    for folder in _FOLDERS:
        beside = sorted((path / folder).parent.glob("[0-9]*")) if folder.endswith("/0") else [path / folder]
        models = [each for each in beside if _is_model(each)]
        if models:
            return max(models, key=lambda each: sum(file.stat().st_size for file in each.glob("images.*")))
    return None


def other_models(model: Path) -> list[Path]:
    """Models beside one in a numbered folder."""
    return [each for each in sorted(model.parent.glob("[0-9]*")) if each != model and _is_model(each)]


def _is_model(folder: Path) -> bool:
    return any((folder / f"cameras{kind}").is_file() for kind in (".bin", ".txt"))


def read(model: Path, images: Path, outside: bool = False) -> tuple[list[PosedImage], np.ndarray, np.ndarray]:
    """The photos of a model, in the folder `images`, and its points and their colors (0 to 1).

    `outside` is whether names of photos may lead out of that folder.

    Raises:
        InputError: a file is missing, damaged or cut short, or a camera model is unknown.
    """
    binary = (model / "cameras.bin").is_file()
    kind = ".bin" if binary else ".txt"
    for name in ("images", "points3D"):
        if not (model / f"{name}{kind}").is_file():
            raise InputError(f"{model} lacks {name}{kind}")
    readers = (_binary_cameras, _binary_images, _binary_points) if binary else (_cameras, _images, _points)
    tables: list[Any] = []
    for name, reader in zip(("cameras", "images", "points3D"), readers, strict=True):
        file = model / f"{name}{kind}"
        with reading(file):
            tables.append(reader(file))
    cameras, poses, cloud = tables
    with reading(model):
        return _posed(model, images, cameras, poses, outside), *_colored(cloud)


def _posed(model: Path, images: Path, cameras: dict[int, Any], poses: list[Any], outside: bool) -> list[PosedImage]:
    images_of_model = []
    for name, camera, quat, translation in poses:
        if camera not in cameras:
            raise InputError(f"{model}: image {name} was taken by camera {camera}, which is not listed")
        k, distortion, width, height = cameras[camera]
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = _rotation(quat, name), translation
        images_of_model.append(
            PosedImage(
                file=photo_in(images, name, model, outside), name=name, viewmat=viewmat, K=k, distortion=distortion,
                width=width, height=height,
            )
        )  # fmt: skip
    return images_of_model


def _colored(cloud: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    points = np.array([point[:3] for point in cloud], dtype=float).reshape(-1, 3)
    return points, np.array([point[3:6] for point in cloud], dtype=float).reshape(-1, 3) / 255


def _rotation(quat: np.ndarray, name: str) -> np.ndarray:
    length = np.linalg.norm(quat)
    if not length > 0:
        raise InputError(f"the rotation of image {name} is zero")
    w, x, y, z = quat / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _camera(model: str, width: int, height: int, p: list[float]) -> tuple[np.ndarray, tuple[float, ...], int, int]:
    two = model in ("PINHOLE", "OPENCV", "FULL_OPENCV")
    fx, fy = (p[0], p[1]) if two else (p[0], p[0])
    cx, cy, *rest = p[2:] if two else p[1:]
    k1, k2, p1, p2, k3 = (*rest, *(0.0,) * 5)[:5]
    if any(rest[5:]):
        raise InputError(
            "a camera of the model FULL_OPENCV has k4, k5 or k6 other than 0, a quotient that is not known here; "
            "colmap image_undistorter turns it into PINHOLE"
        )
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (k1, k2, k3, p1, p2), width, height


def _unknown(file: Path, model: object) -> InputError:
    return InputError(
        f"{file} has a camera of the model {model}; known are {', '.join(_NUMBER_OF)}; "
        "colmap image_undistorter turns others into PINHOLE"
    )


def _lines(file: Path) -> Iterator[list[str]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield line.split()


def _cameras(file: Path) -> dict[int, Any]:
    cameras = {}
    for words in filter(None, _lines(file)):
        if words[1] not in _NUMBER_OF:
            raise _unknown(file, words[1])
        parameters = [float(word) for word in words[4 : 4 + _MODELS[_NUMBER_OF[words[1]]][1]]]
        cameras[int(words[0])] = _camera(words[1], int(words[2]), int(words[3]), parameters)
    return cameras


def _images(file: Path) -> list[Any]:
    images = []
    for words in list(_lines(file))[::2]:  # every other line lists the points seen, and may be empty
        if words:
            pose = np.array([float(word) for word in words[1:8]])
            images.append((" ".join(words[9:]), int(words[8]), pose[:4], pose[4:]))
    return images


def _points(file: Path) -> list[Any]:
    return [[float(word) for word in words[1:7]] for words in filter(None, _lines(file))]


class _Bytes:
    def __init__(self, file: Path) -> None:
        self.data, self.at = file.read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        text, self.at = self.data[self.at : end].decode(), end + 1
        return text

    def skip(self, count: int, size: int) -> None:
        self.at += count * size
        if self.at > len(self.data):
            raise ValueError(f"{self.at - len(self.data)} bytes are missing")


def _binary_cameras(file: Path) -> dict[int, Any]:
    data, cameras = _Bytes(file), {}
    for _ in range(data.take("Q")[0]):
        camera, model, width, height = data.take("iiQQ")
        if model not in _MODELS:
            raise _unknown(file, f"number {model}")
        name, count = _MODELS[model]
        cameras[camera] = _camera(name, width, height, list(data.take(f"{count}d")))
    return cameras


def _binary_images(file: Path) -> list[Any]:
    data, images = _Bytes(file), []
    for _ in range(data.take("Q")[0]):
        pose = np.array(data.take("i7d")[1:])
        camera = data.take("i")[0]
        name = data.text()
        data.skip(data.take("Q")[0], 24)
        images.append((name, camera, pose[:4], pose[4:]))
    return images


def _binary_points(file: Path) -> list[Any]:
    data, points = _Bytes(file), []
    for _ in range(data.take("Q")[0]):
        points.append(data.take("Q3d3Bd")[1:7])
        data.skip(data.take("Q")[0], 8)
    return points
