"""What a stream of frames leaves behind: files of each frame as it comes, and what all of them make at the end.

    frames/000000.npz     depth and confidence (height, width), viewmat (4, 4), K (3, 3), float32
    depth/000000.png      the depth as a picture, near is bright
    images/000000.jpg     the frame as it came
    trajectory.txt        TUM: time tx ty tz qx qy qz qw, camera to world
    points.ply            colored points
    sparse/0/*.txt        a COLMAP model over images/, which `hardy splat train` takes

Everything at the end is made from the files of the frames, one at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.files import write_atomic, write_text
from hardy.reading import check_picture, reading
from hardy.stream.session import FrameGeometry
from hardy.zoo.vggt.camera import quaternion, unprojected

PLY_POINTS, COLMAP_POINTS = 200_000, 20_000
"""The most points of each file."""
_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A frame's file, read again."""

    index: int
    depth: torch.Tensor
    confidence: torch.Tensor
    viewmat: torch.Tensor
    K: torch.Tensor


class Recording:
    """The folder that a stream is written into."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._range: tuple[float, float] | None = None

    def write(self, found: FrameGeometry, pixels: np.ndarray) -> None:
        """The files of one frame, whose picture is (height, width, 3) uint8."""
        name = f"{found.index:06}"
        tensors = {"depth": found.depth, "confidence": found.confidence, "viewmat": found.viewmat, "K": found.K}
        arrays = {key: tensor.numpy().astype(np.float32) for key, tensor in tensors.items()}

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]

        picture = Image.fromarray(pixels)
        write_atomic(self.folder / "images" / f"{name}.jpg", lambda path: picture.save(path, "JPEG", quality=_QUALITY))
        depth = Image.fromarray(self.colored(found.depth))
        write_atomic(self.folder / "depth" / f"{name}.png", lambda path: depth.save(path, "PNG"))
        write_atomic(self.folder / "frames" / f"{name}.npz", save)

    def colored(self, depth: torch.Tensor) -> np.ndarray:
        """(height, width, 3) uint8: a depth as a picture, on the scale of the first frame of the recording."""
        import matplotlib

        if self._range is None:
            first = self.folder / "frames" / "000000.npz"
            nearness = 1 / (self.read(0).depth if first.is_file() else depth)
            low, high = (float(torch.quantile(nearness.flatten(), share)) for share in (0.02, 0.98))
            self._range = 0.5 * low, max(1.3 * high, 0.5 * low + 1e-6)
        low, high = self._range
        shares = ((1 / depth.numpy() - low) / (high - low)).clip(0, 1)
        return (matplotlib.colormaps["magma"](shares)[..., :3] * 255).astype(np.uint8)

    def read(self, index: int) -> Recorded:
        """The file of frame `index`.

        Raises:
            InputError: it is missing or damaged.
        """
        path = self.folder / "frames" / f"{index:06}.npz"
        with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            depth, confidence, viewmat, k = (
                torch.from_numpy(arrays[name]) for name in ("depth", "confidence", "viewmat", "K")
            )
        return Recorded(index, depth, confidence, viewmat, k)

    def picture(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8: the frame as it came."""
        path = self.folder / "images" / f"{index:06}.jpg"
        with reading(path), Image.open(path) as image:
            check_picture(image)
            return np.asarray(image.convert("RGB"))

    def finish(self, count: int, *, rate: float = 1.0) -> int:
        """Path, points and the COLMAP model of the first `count` frames; how many points there are.

        Args:
            count: frames.
            rate: frames in a second, for the times of the path.
        """
        if not count:
            raise InputError("a recording needs at least one frame")
        lines, cameras, images = [], [], []
        places, colors = [], []
        for frame, points, shades in self._clouds(count):
            to_world = torch.linalg.inv(frame.viewmat.double())
            quat, eye = quaternion(to_world[:3, :3]), to_world[:3, 3]
            lines.append(" ".join(f"{value:.7g}" for value in (frame.index / rate, *eye.tolist(), *quat.tolist())))
            cameras.append(self._camera(frame))
            x, y, z, w = quaternion(frame.viewmat[:3, :3].double()).tolist()
            pose = (w, x, y, z, *frame.viewmat[:3, 3].tolist())
            numbers = " ".join(f"{value:.9g}" for value in pose)
            images.append(f"{frame.index + 1} {numbers} {frame.index + 1} {frame.index:06}.jpg\n")
            places.append(points)
            colors.append(shades)
        cloud, shades = np.concatenate(places), np.concatenate(colors)
        write_text(self.folder / "trajectory.txt", "# time tx ty tz qx qy qz qw\n" + "\n".join(lines) + "\n")
        _write_ply(self.folder / "points.ply", cloud, shades)
        step = -(-len(cloud) // COLMAP_POINTS)
        model = self.folder / "sparse" / "0"
        write_text(model / "cameras.txt", "\n".join(cameras) + "\n")
        write_text(model / "images.txt", "".join(line + "\n" for line in images))
        rows = [
            f"{number} {x:.6g} {y:.6g} {z:.6g} {r} {g} {b} 0"
            for number, ((x, y, z), (r, g, b)) in enumerate(zip(cloud[::step], shades[::step], strict=True), 1)
        ]
        write_text(model / "points3D.txt", "\n".join(rows) + "\n")
        return len(cloud)

    def _clouds(self, count: int) -> Iterator[tuple[Recorded, np.ndarray, np.ndarray]]:
        """Each frame with some of its points and their colors."""
        for index in range(count):
            yield self.cloud(index, max(1, PLY_POINTS // count))

    def cloud(self, index: int, most: int) -> tuple[Recorded, np.ndarray, np.ndarray]:
        """Frame `index` with at most so many points (n, 3) of its more confident half, drawn, and colors (n, 3) uint8.

        Raises:
            InputError: a file of the frame is missing or damaged.
        """
        frame = self.read(index)
        height, width = frame.depth.shape
        small = np.asarray(Image.fromarray(self.picture(index)).resize((width, height))).reshape(-1, 3)
        sure = (frame.confidence >= frame.confidence.median()).flatten().nonzero().flatten().numpy()
        random = np.random.Generator(np.random.PCG64(derive(0, "points", index)))
        chosen = np.sort(random.permutation(sure)[:most])
        points = unprojected(frame.depth, frame.viewmat, frame.K).reshape(-1, 3).numpy()
        return frame, points[chosen], small[chosen]

    def _camera(self, frame: Recorded) -> str:
        height, width = self.picture(frame.index).shape[:2]
        down, across = height / frame.depth.shape[0], width / frame.depth.shape[1]
        k = frame.K.double()
        parameters = (k[0, 0] * across, k[1, 1] * down, k[0, 2] * across, k[1, 2] * down)
        numbers = " ".join(f"{float(value):.9g}" for value in parameters)
        return f"{frame.index + 1} PINHOLE {width} {height} {numbers}"


def _write_ply(path: Path, points: np.ndarray, colors: np.ndarray) -> None:
    shades = ("red", "green", "blue")
    table = np.empty(len(points), [*((name, "<f4") for name in "xyz"), *((name, "u1") for name in shades)])
    for column, name in enumerate("xyz"):
        table[name] = points[:, column]
    for column, name in enumerate(shades):
        table[name] = colors[:, column]
    properties = "".join(f"property float {name}\n" for name in "xyz")
    properties += "".join(f"property uchar {name}\n" for name in shades)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n"
    write_atomic(path, lambda temporary: temporary.write_bytes(header.encode() + table.tobytes()))
