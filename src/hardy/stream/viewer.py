"""A stream in the browser, while it runs or afterwards: viser shows points and camera of each recorded frame."""

from __future__ import annotations

import collections
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardy import checks
from hardy.browser import BrowserServer
from hardy.errors import InputError
from hardy.stream.recording import PLY_POINTS, Recorded, Recording
from hardy.zoo.vggt.camera import quaternion

_POLL = 0.5
"""Seconds between two looks for new frames."""
_FRUSTUM = 0.05
"""Length of a camera, in median depths of the first frame."""
_PICTURE = 128
"""Pixels of the longer side of the picture in it."""


class StreamViewer(BrowserServer):
    """A server for browsers that shows the folder of `hardy stream run`, until `stop`.

    Args:
        folder: of the run, which may be going on.
        host: where to listen; the default is for this machine only.
        port: the next free one is taken if it is not.
        frames: at most so many are shown, the newest, however long the stream gets.

    Raises:
        InputError: viser is not installed, or there is no frame yet.
    """

    def __init__(self, folder: str | Path, *, host: str = "127.0.0.1", port: int = 8080, frames: int = 100) -> None:
        super().__init__("a stream", host, port)
        self.most = checks.integer("frames", frames, at_least=1)
        self.recording = Recording(folder)
        if not self._there(0):
            raise InputError(f"there is no frame in {folder} yet; `hardy stream run FRAMES {folder}` writes them")
        self.seen = 0
        """Frames that were looked at."""
        self._shown: collections.deque[tuple[Any, Any]] = collections.deque()
        self._length = _FRUSTUM * float(self.recording.read(0).depth.median())
        self.start()
        self.server.scene.set_up_direction((0.0, -1.0, 0.0))  # the world is the first camera's, whose y looks down
        ahead = self._length / _FRUSTUM
        self.server.initial_camera.position = (0.3 * ahead, -0.3 * ahead, -0.6 * ahead)
        self.server.initial_camera.look_at = (0.0, 0.0, ahead)
        known = inspect.signature(self.server.scene.add_camera_frustum).parameters  # before viser 1.1 lines are thin
        self._lines = {"thickness": 0.03 * self._length} if "thickness" in known else {}
        self._status = self.server.gui.add_markdown("")
        self._size = self.server.gui.add_slider("Size of points", 0.2, 5.0, 0.1, 1.0)
        self._cameras = self.server.gui.add_checkbox("Cameras", True)
        self._size.on_update(lambda _: self._restyle())
        self._cameras.on_update(lambda _: self._restyle())
        self.refresh()
        self.watch(self.refresh, _POLL)

    def refresh(self) -> int:
        """Show the frames that have come since, and let the oldest go; how many are shown."""
        while self._there(self.seen):
            index = self.seen
            self.seen += 1
            if not self._there(index + self.most):  # no older than will stay
                self._add(*self.recording.cloud(index, max(1, PLY_POINTS // self.most)))
        while len(self._shown) > self.most:
            for handle in self._shown.popleft():
                handle.remove()
        older = f"\n\nthe newest {len(self._shown)} of them" if len(self._shown) < self.seen else ""
        self._status.content = f"**{self.seen:,} frames**{older}"
        return len(self._shown)

    def _there(self, index: int) -> bool:
        return (self.recording.folder / "frames" / f"{index:06}.npz").is_file()

    def _add(self, frame: Recorded, points: np.ndarray, colors: np.ndarray) -> None:
        height, width = frame.depth.shape
        to_world = torch.linalg.inv(frame.viewmat.double())
        x, y, z, w = quaternion(to_world[:3, :3]).tolist()
        picture = self.recording.picture(frame.index)
        step = max(1, -(-max(picture.shape) // _PICTURE))
        cloud = self.server.scene.add_point_cloud(
            f"/{frame.index:06}/points", points, colors, point_size=self._point(), point_shape="rounded"
        )
        camera = self.server.scene.add_camera_frustum(
            f"/{frame.index:06}/camera",
            fov=2 * math.atan(height / 2 / float(frame.K[1, 1])),
            aspect=width / height,
            scale=self._length,
            **self._lines,
            image=picture[::step, ::step],
            wxyz=(w, x, y, z),
            position=tuple(to_world[:3, 3].tolist()),
            visible=self._cameras.value,
        )
        self._shown.append((cloud, camera))

    def _point(self) -> float:
        return 0.15 * self._length * float(self._size.value)

    def _restyle(self) -> None:
        for cloud, camera in list(self._shown):
            cloud.point_size, camera.visible = self._point(), self._cameras.value
