"""Gaussians in the browser: viser moves the camera, this machine's processor renders what it sees.

While the camera moves, images are small enough to keep up; once it rests, one of full size follows. The file is looked
at again and again, so a training that writes snapshots is shown as it goes on.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from hardy import checks
from hardy.browser import BrowserServer
from hardy.errors import InputError
from hardy.splat.cameras import Camera, Circle, camera_of, circle_of_gaussians, circle_of_scene, render_camera
from hardy.splat.ply import Parameters, load_ply
from hardy.splat.scene import Scene
from hardy.splat.training import PLY

_REST = 0.25  # seconds without movement, after which the full image is rendered
_POLL = 0.5  # seconds between looks at the file
_MIN_HEIGHT = 64  # pixels of height, however slow it is
_TIMEOUT = 600  # seconds to wait for the first snapshot


class Snapshots:
    """The Gaussians in a PLY file, or in that of a training's folder, as they are renewed.

    Args:
        path: the file or the folder.

    Raises:
        InputError: there is neither.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.exists():
            raise InputError(f"there is no {path}")
        self.file = path / PLY if path.is_dir() else path
        self.parameters: Parameters | None = None
        self.loads = 0
        self._seen: tuple[int, ...] | None = None
        if not path.is_dir():
            self._load()

    def refresh(self) -> bool:
        """Read the file if it has changed; whether there is something new. A file that cannot be read is left."""
        try:
            if self._signature() == self._seen:
                return False
            self._load()
        except (OSError, InputError):
            return False  # just being written by something that does not do so in one step, or gone for a moment
        return True

    def wait(self, seconds: float) -> Parameters:
        """The Gaussians, once there are any.

        Raises:
            InputError: there are none within that time, or the file is damaged.
        """
        end = time.monotonic() + seconds
        while not self.refresh() and self.parameters is None:
            if time.monotonic() >= end:
                if self.file.is_file():
                    load_ply(self.file)  # says what is wrong with it
                raise InputError(f"{self.file} is not there; hardy splat train --snapshot-every writes it meanwhile")
            time.sleep(min(_POLL, max(0.0, end - time.monotonic())))
        assert self.parameters is not None
        return self.parameters

    def _signature(self) -> tuple[int, ...]:
        status = self.file.stat()
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _load(self) -> None:
        seen = self._signature()
        parameters = load_ply(self.file)
        if not len(parameters["means"]):
            raise InputError(f"{self.file} holds no Gaussians")
        self.parameters, self._seen = parameters, seen
        self.loads += 1


@dataclasses.dataclass
class Pace:
    """How large an image may be to be there in time, learned from those before.

    Args:
        seconds: that an image of a moving camera may take.
        per_pixel: seconds; the first guess.
    """

    seconds: float = 0.1
    per_pixel: float = 5e-7

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an image with these proportions, no larger, in time."""
        shrink = min(1.0, math.sqrt(self.seconds / (self.per_pixel * width * height)))
        shrink = max(shrink, min(1.0, _MIN_HEIGHT / height))
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    def learn(self, pixels: int, seconds: float) -> None:
        """Take note of how long an image took."""
        self.per_pixel = 0.5 * self.per_pixel + 0.5 * max(seconds / pixels, 1e-10)


class Renderer:
    """Images for a camera of viser, from the newest snapshot.

    Args:
        snapshots: of the Gaussians.
        height: the most that a full image gets.
    """

    def __init__(self, snapshots: Snapshots, height: int = 720) -> None:
        self.snapshots, self.height = snapshots, checks.integer("height", height, at_least=1)
        self.pace = Pace()
        self._lock = threading.Lock()

    def image(self, camera: Any, moving: bool) -> np.ndarray | None:
        """(height, width, 3) uint8, small while moving.

        Args:
            camera: with viser's wxyz, position, fov, image_width and image_height.
            moving: whether the next one is about to come.

        Returns:
            The image; None as long as there are no Gaussians or the window has no size.
        """
        parameters = self.snapshots.parameters
        if parameters is None or not camera.image_width or not camera.image_height:
            return None
        height = min(self.height, int(camera.image_height))
        width = max(1, round(height * camera.image_width / camera.image_height))
        with self._lock:
            if moving:
                width, height = self.pace.size(width, height)
            made = camera_of(camera.wxyz, camera.position, float(camera.fov), width, height)
            began = time.perf_counter()
            image = render_camera(parameters, made)
            if moving:
                self.pace.learn(width * height, time.perf_counter() - began)
        return image


class Viewer(BrowserServer):
    """A server for browsers, running until `stop`.

    Args:
        path: a PLY file, or the folder of a training, which may still be running.
        scene: whose cameras can be visited; None for none.
        host: where to listen; the default is for this machine only.
        port: the next free one is taken if it is not.
        height: the most that a full image gets, in pixels.
        timeout: seconds to wait for the first snapshot of a training.

    Raises:
        InputError: viser is not installed, or there is nothing to show.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        scene: Scene | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        height: int = 720,
        timeout: float = _TIMEOUT,
    ) -> None:
        super().__init__("Gaussians", host, port)
        self.snapshots = Snapshots(path)
        parameters = self.snapshots.wait(timeout)
        self.renderer = Renderer(self.snapshots, height)
        circle = circle_of_gaussians(parameters) if scene is None else circle_of_scene(scene)
        self._wakes: dict[int, threading.Event] = {}
        self.start()
        self._set_initial_camera(circle)
        self._status = self.server.gui.add_markdown(self._status_text())
        if scene is not None:
            self._add_cameras(scene, circle)
        self.server.on_client_connect(self._serve)
        self.server.on_client_disconnect(lambda client: self._wakes.pop(client.client_id, None))
        self.watch(self._look, _POLL)

    def _set_initial_camera(self, circle: Circle) -> None:
        """Let browsers begin at the middle of the circle."""
        self.server.scene.set_up_direction(tuple(circle.up.tolist()))
        camera = circle.camera(0.0, 2, 2)
        self.server.initial_camera.position = tuple(_eye(camera).tolist())
        self.server.initial_camera.look_at = tuple(circle.center.tolist())
        self.server.initial_camera.fov = circle.fov

    def _add_cameras(self, scene: Scene, circle: Circle) -> None:
        """A list of the photos, whose cameras can be visited."""
        views = {view.name: view for view in (*scene.views, *scene.held_out)}
        chosen = self.server.gui.add_dropdown("Camera of", tuple(sorted(views)))

        @chosen.on_update
        def _(event: Any) -> None:
            view = views[chosen.value]
            eye = view.eye.double().numpy()
            distance = float(np.linalg.norm(circle.center - eye)) or 1.0
            camera = event.client.camera
            with event.client.atomic():
                camera.up_direction = -view.viewmat[1, :3].double().numpy()
                camera.position = eye
                camera.look_at = eye + distance * view.viewmat[2, :3].double().numpy()
                camera.fov = 2 * math.atan(view.image.shape[0] / 2 / float(view.K[1, 1]))

    def _status_text(self) -> str:
        assert self.snapshots.parameters is not None
        count = len(self.snapshots.parameters["means"])
        when = time.strftime("%H:%M:%S", time.localtime(self.snapshots.file.stat().st_mtime))
        return f"**{count:,} Gaussians**\n\n{self.snapshots.file.name} of {when}"

    def _look(self) -> None:
        """Renew what is shown if the file is."""
        if self.snapshots.refresh():
            self._status.content = self._status_text()
            for wake in list(self._wakes.values()):
                wake.set()

    def _serve(self, client: Any) -> None:
        """Follow a browser's camera until it goes."""
        wake = self._wakes[client.client_id] = threading.Event()
        wake.set()
        client.camera.on_update(lambda _: wake.set())
        while client.client_id in self._wakes and not self.closed.is_set():
            if not wake.wait(_POLL):
                continue
            while wake.is_set():
                wake.clear()
                self._show(client, moving=True)
                wake.wait(_REST)
            self._show(client, moving=False)

    def _show(self, client: Any, moving: bool) -> None:
        image = self.renderer.image(client.camera, moving)
        if image is not None:
            client.scene.set_background_image(image, format="jpeg", jpeg_quality=70 if moving else 95)


def _eye(camera: Camera) -> np.ndarray:
    view = camera.viewmat.double().numpy()
    return -view[:3, :3].T @ view[:3, 3]
