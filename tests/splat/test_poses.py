"""Photos without poses: found by pycolmap, and compared with where they were really taken."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardy.errors import InputError
from hardy.splat import load_scene
from hardy.splat import room as module
from hardy.splat.poses import find_poses
from hardy.zoo.traced_room import TracedRoom


def photograph(folder: Path, count: int, ring: int = 48, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """Photos of the room from neighbouring places; where they were taken."""
    folder.mkdir(parents=True)
    focal = width / 2 / math.tan(math.radians(40))
    eyes = []
    for i in range(count):
        turn, eye = module._camera(i, ring)
        image = TracedRoom().photograph(turn, eye, width, height, focal)[0]
        Image.fromarray((image * 255).round().astype(np.uint8)).save(folder / f"{i:02}.png")
        eyes.append(eye)
    return eyes


def test_finds_where_photos_of_the_room_were_taken(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    eyes = torch.from_numpy(np.array(photograph(tmp_path / "photos", 10)))
    Image.fromarray(np.full((240, 320, 3), 90, dtype=np.uint8)).save(tmp_path / "photos" / "blank.png")
    found = find_poses(tmp_path / "photos", tmp_path / "scene")
    assert found.left_out == ("blank.png",)
    assert len(found.registered) == 10
    assert found.points > 100
    assert found.error < 1
    scene = load_scene(tmp_path / "scene", hold_out_every=0)
    assert len(scene.views) == 10
    assert scene.extra == ("blank.png",)
    assert len(scene.points) == found.points
    assert 0.8 < float(scene.views[0].K[0, 0]) / (160 / math.tan(math.radians(40))) < 1.25
    # Up to a similarity, which nobody can know, the cameras stand where they stood.
    placed = torch.stack([view.eye for view in scene.views]).double()
    a, b = placed - placed.mean(0), eyes - eyes.mean(0)
    u, s, vt = torch.linalg.svd(a.T @ b)
    sign = torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ vt))], dtype=torch.float64))
    turned = a @ u @ sign @ vt * (s * sign.diagonal()).sum() / a.square().sum()
    assert (turned - b).norm(dim=1).max() < 0.03  # of a room 5 wide
    with pytest.raises(InputError, match="holds a COLMAP model already"):
        find_poses(tmp_path / "photos", tmp_path / "scene")


def test_says_which_photos_got_no_pose(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(4):  # that have nothing in common
        noise = random.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((120, 90)).save(tmp_path / "photos" / f"{i}.png")
    with pytest.raises(InputError, match=r"only 0 of the 4 photos got a pose; without one are 0.png, 1.png, 2.png"):
        find_poses(tmp_path / "photos", tmp_path / "scene")
    assert not (tmp_path / "scene").exists()


def test_refuses_what_it_cannot_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycolmap")
    with pytest.raises(InputError, match="there is no folder of photos"):
        find_poses(tmp_path / "none", tmp_path / "scene")
    with pytest.raises(InputError, match="poses need at least 3 photos, and .* has 0"):
        find_poses(tmp_path, tmp_path / "scene")
    with pytest.raises(InputError, match="matching must be exhaustive or sequential, got 'x'"):
        find_poses(tmp_path, tmp_path / "scene", matching="x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"least_share must be a finite number from 0 to 1, got 2"):
        find_poses(tmp_path, tmp_path / "scene", least_share=2)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot read the image .*a.png"):
        find_poses(tmp_path, tmp_path / "scene")
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    with pytest.raises(InputError, match=r'pip install "hardy-nn\[poses\]"'):
        find_poses(tmp_path, tmp_path / "scene")
