"""What the browser is shown: images for a camera, at a size that keeps up, from a file that is renewed."""

import socket
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from splat.scenes import known_scene

from hardy.errors import InputError
from hardy.splat import save_ply, strategies, train
from hardy.splat.cameras import circle_of_scene, render_camera
from hardy.splat.points import gaussians_from
from hardy.splat.training import Options
from hardy.splat.viewer import Pace, Renderer, Snapshots, Viewer


def window(width: int = 90, height: int = 60, **changes: Any) -> SimpleNamespace:
    camera = {"wxyz": np.array([1.0, 0, 0, 0]), "position": np.array([0.0, 0, -3]), "fov": 0.9}
    return SimpleNamespace(**{**camera, "image_width": width, "image_height": height, **changes})


@pytest.fixture
def ply(tmp_path: Path) -> Path:
    save_ply(gaussians_from(known_scene(), 1), tmp_path / "gaussians.ply")
    return tmp_path / "gaussians.ply"


def test_full_images_when_still_and_small_ones_that_keep_up(ply: Path) -> None:
    renderer = Renderer(Snapshots(ply), height=240)
    still = renderer.image(window(900, 600), moving=False)
    assert still is not None
    assert still.shape == (240, 360, 3)
    assert still.std() > 3
    renderer.pace = Pace(seconds=0.01, per_pixel=1e-6)
    small = renderer.image(window(900, 600), moving=True)
    assert small is not None
    assert small.shape[0] < 100
    assert abs(small.shape[1] / small.shape[0] - 1.5) < 0.03
    assert renderer.image(window(0, 0), moving=False) is None  # a window without a size, as at the first moment
    assert renderer.image(window(30, 20), moving=False).shape == (20, 30, 3)  # pyright: ignore[reportOptionalMemberAccess]


def test_pace_follows_what_images_took() -> None:
    pace = Pace(seconds=0.1, per_pixel=1e-5)
    assert pace.size(400, 300)[0] * pace.size(400, 300)[1] == pytest.approx(10_000, rel=0.02)
    for _ in range(20):
        width, height = pace.size(400, 300)
        pace.learn(width * height, 2e-6 * width * height)
    width, height = pace.size(400, 300)
    assert width * height == pytest.approx(50_000, rel=0.02)
    for _ in range(30):
        pace.learn(100, 10.0)
    assert pace.size(400, 300) == (85, 64)  # never so small that nothing is seen
    for _ in range(60):
        pace.learn(1_000_000, 1e-3)
    assert pace.size(400, 300) == (400, 300)


def test_snapshots_are_taken_up_and_damaged_ones_left(tmp_path: Path, ply: Path) -> None:
    snapshots = Snapshots(tmp_path)
    assert snapshots.parameters is None
    first = snapshots.wait(5)
    assert not snapshots.refresh()
    half = {name: tensor[:30] for name, tensor in first.items()}
    save_ply(half, ply)
    assert snapshots.refresh()
    assert snapshots.parameters is not None
    assert len(snapshots.parameters["means"]) == 30
    whole = ply.read_bytes()
    ply.write_bytes(whole[:-50])
    assert not snapshots.refresh()
    ply.unlink()
    assert not snapshots.refresh()
    assert len(snapshots.parameters["means"]) == 30
    ply.write_bytes(whole)
    assert snapshots.refresh()
    assert snapshots.loads == 3


def test_refuses_what_it_cannot_show(tmp_path: Path, ply: Path) -> None:
    with pytest.raises(InputError, match="there is no .*nothing"):
        Snapshots(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"gaussians.ply is not there; .*--snapshot-every"):
        Snapshots(tmp_path / "empty").wait(0)
    ply.write_bytes(b"no PLY")
    with pytest.raises(InputError, match="is not a PLY file"):
        Snapshots(ply)
    with pytest.raises(InputError, match="is not a PLY file"):
        Snapshots(tmp_path).wait(0)
    with pytest.raises(InputError, match="height must be an integer of at least 1, got 0"):
        Renderer(Snapshots(tmp_path), height=0)


def test_viser_is_asked_for_when_it_is_missing(ply: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    with pytest.raises(InputError, match=r'pip install "hardy-nn\[view\]"'):
        Viewer(ply)


def test_a_training_writes_what_is_shown_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardy.splat import training

    scene, options = known_scene(), Options(steps=60, sh_degree=1)
    strategy = strategies.vanilla(60, cap_max=150)
    plain = train(scene, strategy, options=options)
    written = []
    whole = training.save_ply
    monkeypatch.setattr(
        training, "save_ply", lambda made, path: (written.append(len(made["means"])), whole(made, path))
    )
    found = train(scene, strategy, options=options, out=tmp_path, snapshot_every=20)
    assert len(written) == 4  # at the start, at 20, at 40 and at the end
    assert written[0] == 60
    for name, tensor in plain.parameters.items():
        assert torch.equal(tensor, found.parameters[name])
    for wrong in ({"snapshot_every": -1, "out": tmp_path}, {"snapshot_every": 5}):
        with pytest.raises(InputError, match="snapshot_every must be at least 0 and needs a folder"):
            train(scene, strategy, options=options, **wrong)


class Browser:
    """What a `Viewer` calls of viser's client, and keeps of it."""

    def __init__(self, camera: SimpleNamespace) -> None:
        self.client_id, self.camera, self.scene = 7, camera, self
        self.images: list[np.ndarray] = []
        camera.on_update = lambda moved: setattr(self, "moved", moved)

    def set_background_image(self, image: np.ndarray, **_: Any) -> None:
        self.images.append(image)


def test_the_server_answers_and_follows_a_camera(ply: Path) -> None:
    pytest.importorskip("viser")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scene = known_scene()
    viewer = Viewer(ply, scene=scene, port=port, height=60)
    try:
        with urllib.request.urlopen(viewer.url, timeout=10) as page:
            assert b"<html" in page.read().lower()
        middle = circle_of_scene(scene).camera(0.0, 90, 60)
        expected = render_camera(viewer.snapshots.parameters or {}, middle)
        browser = Browser(window())
        import threading

        thread = threading.Thread(target=viewer._serve, args=(browser,))
        thread.start()
        wait_for(lambda: len(browser.images) >= 2)
        assert browser.images[-1].shape == expected.shape
        before = browser.images[-1]
        browser.camera.position = np.array([0.4, 0, -2.5])
        browser.moved(None)
        wait_for(lambda: np.abs(browser.images[-1].astype(int) - before).max() > 20 if same(browser, before) else False)
        count = len(browser.images)
        save_ply({name: tensor[:20] for name, tensor in gaussians_from(scene, 1).items()}, ply)
        wait_for(lambda: len(browser.images) >= count + 2)  # a new snapshot is shown without any movement
        assert "20 Gaussians" in viewer._status.content
        viewer._wakes.pop(7)
        thread.join(10)
        assert not thread.is_alive()
    finally:
        viewer.stop()


def same(browser: Browser, image: np.ndarray) -> bool:
    return browser.images[-1].shape == image.shape


def wait_for(reached: Any, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def test_refuses_a_port_that_cannot_be(ply: Path) -> None:
    pytest.importorskip("viser")
    with pytest.raises(InputError, match=r"port must be an integer from 0 to 65535, got 70000"):
        Viewer(ply, port=70_000)
