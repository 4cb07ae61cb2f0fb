"""Cameras placed by hand, paths around scenes, and films."""

import dataclasses
import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from splat.scenes import known_scene

from hardy.errors import InputError
from hardy.ffmpeg import program
from hardy.splat import film
from hardy.splat.cameras import camera_at, camera_of, circle_of_gaussians, circle_of_scene, render_camera
from hardy.splat.film import save_film
from hardy.splat.points import gaussians_from


def eye(viewmat: torch.Tensor) -> np.ndarray:
    return (-viewmat[:3, :3].T @ viewmat[:3, 3]).double().numpy()


def test_a_camera_sees_where_it_looks() -> None:
    up = np.array([0.0, -1, 0])
    camera = camera_at(np.array([3.0, -1, 2]), np.array([0.5, 0, 0.2]), up, math.radians(60), 80, 60)
    turn = camera.viewmat[:3, :3]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3))
    assert torch.det(turn) > 0
    seen = camera.viewmat @ torch.tensor([0.5, 0, 0.2, 1])
    torch.testing.assert_close(seen[:2], torch.zeros(2), atol=1e-6, rtol=0)
    assert seen[2] > 0
    above = camera.viewmat[:3, :3] @ torch.tensor([0.0, -1, 0])
    assert above[1] < 0  # up is up in the image, where y points down
    straight = camera_at(np.array([0.0, -3, 0]), np.zeros(3), up, 1.0, 8, 8)  # looking down along up
    assert torch.isfinite(straight.viewmat).all()


def test_viser_cameras_are_those_of_the_photos() -> None:
    scene = known_scene()
    view = scene.views[3]
    turn = view.viewmat[:3, :3].T.double()
    w = math.sqrt(max(0.0, 1 + turn.trace().item())) / 2
    cross = torch.stack([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / (4 * w)
    wxyz = np.array([w, *cross.tolist()])
    fov = 2 * math.atan(30 / 2 / float(view.K[1, 1]))
    camera = camera_of(wxyz, view.eye.numpy(), fov, 40, 30)
    torch.testing.assert_close(camera.viewmat, view.viewmat, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(camera.K, view.K)
    with pytest.raises(InputError, match="rotation of a camera must be finite and not zero"):
        camera_of(np.zeros(4), np.zeros(3), 1.0, 4, 4)


def test_circles_around_what_cameras_look_at() -> None:
    scene = known_scene(views=20)
    circle = circle_of_scene(scene)
    np.testing.assert_allclose(circle.center, 0, atol=0.2)
    assert circle.arc == 2 * math.pi
    assert 2.8 < circle.radius < 3.2
    np.testing.assert_allclose(circle.up, [0, -1, 0], atol=0.1)
    for share in (0.0, 0.3, 0.7):
        camera = circle.camera(share, 40, 30)
        assert 2.8 < np.linalg.norm(eye(camera.viewmat)) < 3.3
        assert camera.viewmat[2, 3] > 2.5  # the middle lies ahead
    np.testing.assert_allclose(circle.camera(0.0, 4, 4).viewmat, circle.camera(1.0, 4, 4).viewmat, atol=1e-5)


def test_nobody_goes_where_no_camera_was() -> None:
    scene = known_scene(views=20)
    front = dataclasses.replace(scene, views=tuple(view for view in scene.views if view.eye[2] < -2), held_out=())
    circle = circle_of_scene(front)
    assert circle.arc < math.pi / 2 + 0.3
    for i in range(12):
        assert eye(circle.camera(i / 12, 40, 30).viewmat)[2] < -1.5
    alone = circle_of_scene(dataclasses.replace(scene, views=scene.views[:1], held_out=()))
    assert alone.arc == pytest.approx(math.radians(20))
    assert torch.isfinite(alone.camera(0.2, 8, 6).viewmat).all()


def test_gaussians_without_a_scene_are_in_the_picture() -> None:
    parameters = gaussians_from(known_scene(), 1)
    parameters["opacities"] = torch.full_like(parameters["opacities"], 3.0)
    parameters["scales"] -= 2
    circle = circle_of_gaussians(parameters)
    pictures = [render_camera(parameters, circle.camera(share, 64, 48)) for share in (0.0, 0.5)]
    for picture in pictures:
        assert picture.shape == (48, 64, 3)
        assert picture.dtype == np.uint8
        assert (picture[12:36, 16:48].max(-1) > 20).mean() > 0.2
        assert (picture[0].max(-1) > 20).mean() < 0.3
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 50
    with pytest.raises(InputError, match="no Gaussians to look at"):
        circle_of_gaussians({name: value[:0] for name, value in parameters.items()})


def frames(count: int) -> list[np.ndarray]:
    return [np.full((12, 17, 3), 40 * i, dtype=np.uint8) for i in range(count)]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.apng"])
def test_films_hold_every_frame(name: str, tmp_path: Path) -> None:
    save_film(iter(frames(5)), tmp_path / name, fps=10)
    with Image.open(tmp_path / name) as image:
        shown = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        assert image.info["duration"] == 100
    assert [int(frame[5, 5, 0]) for frame in shown] == [0, 40, 80, 120, 160]
    assert shown[0].shape == (12, 17, 3)


def test_frames_in_a_folder(tmp_path: Path) -> None:
    save_film(iter(frames(3)), tmp_path / "shots")
    assert [file.name for file in sorted((tmp_path / "shots").iterdir())] == ["0000.png", "0001.png", "0002.png"]


@pytest.mark.skipif(program() is None, reason="no ffmpeg")
def test_mp4_through_ffmpeg(tmp_path: Path) -> None:
    save_film(iter(frames(5)), tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"


def test_refuses_films_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.avi must end with .gif, .png, .apng or .mp4, or be a folder"):
        save_film(iter(frames(1)), tmp_path / "a.avi")
    with pytest.raises(InputError, match="at least one frame"):
        save_film(iter([]), tmp_path / "a.gif")
    with pytest.raises(InputError, match="fps must be a finite number above 0, got 0"):
        save_film(iter(frames(1)), tmp_path / "a.gif", fps=0)
    with patch.object(film, "program", return_value=None), pytest.raises(InputError, match=r"a.mp4 needs ffmpeg"):
        save_film(iter(frames(1)), tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
