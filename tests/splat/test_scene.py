"""PosedImage photos from COLMAP and transforms.json."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from splat.scenes import photos

from hardy.errors import InputError
from hardy.splat import Scene, load_scene
from hardy.splat.lens import distorted, undistorted
from hardy.splat.room import room

QUAT, SHIFT = (0.8, 0.1, -0.5, 0.3), (0.4, -1.0, 2.5)
NAMES = [f"{i:02}.png" for i in range(10)]


def colmap_text(root: Path, camera: str = "1 PINHOLE 24 16 20 21 12.5 8") -> Path:
    photos(root / "images", NAMES)
    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"# list\n{camera}\n")
    pose = " ".join(map(str, (*QUAT, *SHIFT)))
    lines = [f"{i + 1} {pose} 1 {name}\n1.0 2.0 -1" if i else f"1 {pose} 1 {name}\n" for i, name in enumerate(NAMES)]
    (model / "images.txt").write_text("# list\n" + "\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("# list\n7 1 2 3 255 0 51 0.5 1 0\n8 -1 -2 -3 0 255 0 0.5\n")
    return model


def colmap_binary(root: Path, model: int = 1) -> Path:
    photos(root / "images", NAMES)
    folder = root / "sparse" / "0"
    folder.mkdir(parents=True)
    parameters = {1: (20, 21, 12.5, 8), 2: (20, 12.5, 8, 0.0), 9: (1.0,)}[model]
    camera = struct.pack(f"<QiiQQ{len(parameters)}d", 1, 1, model, 24, 16, *parameters)
    (folder / "cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", len(NAMES))
    for i, name in enumerate(NAMES):
        images += struct.pack("<i7di", i + 1, *QUAT, *SHIFT, 1) + name.encode() + b"\0"
        images += struct.pack("<Q", 2) + struct.pack("<ddq", 1.0, 2.0, -1) * 2
    (folder / "images.bin").write_bytes(images)
    points = struct.pack("<Q", 2)
    points += struct.pack("<Q3d3BdQii", 7, 1, 2, 3, 255, 0, 51, 0.5, 1, 1, 0)
    points += struct.pack("<Q3d3BdQ", 8, -1, -2, -3, 0, 255, 0, 0.5, 0)
    (folder / "points3D.bin").write_bytes(points)
    return folder


def transforms(root: Path, **changes: Any) -> Path:
    photos(root / "images", NAMES)
    place = np.eye(4)
    place[:3, 3] = (1, 2, 3)
    frames = [{"file_path": f"images/{name}", "transform_matrix": place.tolist()} for name in NAMES]
    record = {"fl_x": 20, "fl_y": 21, "cx": 12.5, "cy": 8, "w": 24, "h": 16, "frames": frames} | changes
    (root / "transforms.json").write_text(json.dumps(record))
    return root


def test_colmap_text_and_binary_say_the_same(tmp_path: Path) -> None:
    colmap_text(tmp_path / "text")
    colmap_binary(tmp_path / "binary")
    text, binary = load_scene(tmp_path / "text"), load_scene(tmp_path / "binary")
    assert [view.name for view in text.held_out] == [NAMES[0], NAMES[8]]
    assert len(text.views) == 8
    assert torch.equal(text.points, torch.tensor([[1.0, 2, 3], [-1, -2, -3]]))
    torch.testing.assert_close(text.colors, torch.tensor([[1.0, 0, 0.2], [0, 1, 0]]))
    assert torch.equal(text.points, binary.points)
    for a, b in zip(text.views, binary.views, strict=True):
        assert torch.equal(a.image, b.image)
        torch.testing.assert_close(a.viewmat, b.viewmat)
        torch.testing.assert_close(a.K, b.K)
    torch.testing.assert_close(text.views[0].K, torch.tensor([[20, 0, 12.5], [0, 21, 8], [0, 0, 1]]))
    turn = text.views[0].viewmat[:3, :3]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3))
    torch.testing.assert_close(text.views[0].viewmat[:3, 3], torch.tensor(SHIFT))


def test_transforms_turn_the_axes(tmp_path: Path) -> None:
    scene = load_scene(transforms(tmp_path), hold_out_every=0)
    assert len(scene.views) == 10
    torch.testing.assert_close(scene.views[0].eye, torch.tensor([1.0, 2, 3]))
    ahead = scene.views[0].viewmat @ torch.tensor([1.0, 2, -2, 1])  # five in front of a camera that looks along -z
    torch.testing.assert_close(ahead, torch.tensor([0.0, 0, 5, 1]))
    above = scene.views[0].viewmat @ torch.tensor([1.0, 3, 3, 1])
    torch.testing.assert_close(above[1], torch.tensor(-1.0))
    assert scene.points.shape == (0, 3)
    assert load_scene(tmp_path / "transforms.json").views[0].name == NAMES[1]


def test_a_straight_line_seen_through_a_lens_is_straight_again() -> None:
    k = torch.tensor([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])
    coefficients = (0.12, -0.05, 0.01, 0.004, -0.003)
    column, row = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(60) + 0.5, indexing="xy")
    # What the lens shows at each pixel: found by going backwards until the lens leads there.
    x, y = (column - 40) / 60, (row - 30) / 60
    there = x.clone(), y.clone()
    for _ in range(50):
        found = distorted(*there, coefficients)
        there = there[0] + x - found[0], there[1] + y - found[1]
    smooth = torch.sin(6 * there[0] + 2 * there[1])[..., None]
    straight, valid = undistorted(smooth, k, coefficients)
    assert valid.float().mean() > 0.7
    error = (straight[..., 0] - torch.sin(6 * x + 2 * y))[valid]
    assert error[torch.isfinite(error)].abs().quantile(0.95) < 0.003
    assert (smooth[..., 0] - torch.sin(6 * x + 2 * y)).abs().max() > 0.1


def test_smaller_photos_and_masks(tmp_path: Path) -> None:
    model = colmap_text(tmp_path)
    assert model.is_dir()
    photos(tmp_path / "images_2", NAMES, (12, 8))
    half = load_scene(tmp_path, images="images_2")
    torch.testing.assert_close(half.views[0].K, torch.tensor([[10, 0, 6.25], [0, 10.5, 4], [0, 0, 1]]))
    (tmp_path / "masks").mkdir()
    white = np.zeros((16, 24), dtype=np.uint8)
    white[:, :13] = 255
    Image.fromarray(white).save(tmp_path / "masks" / NAMES[1])
    masked = load_scene(tmp_path, masks=tmp_path / "masks", downscale=2)
    assert masked.views[0].mask is not None
    assert masked.views[1].mask is None
    assert masked.views[0].mask[:, :6].all()
    assert not masked.views[0].mask[:, 6:].any()
    full = load_scene(tmp_path)
    torch.testing.assert_close(masked.views[1].image.mean(), full.views[1].image.mean(), atol=0.01, rtol=0)


def test_missing_photos_are_left_out_and_extra_ones_ignored(tmp_path: Path) -> None:
    colmap_text(tmp_path)
    (tmp_path / "images" / NAMES[3]).unlink()
    photos(tmp_path / "images", ["extra.png"])
    scene = load_scene(tmp_path, hold_out_every=0)
    assert [view.name for view in scene.views] == [name for name in NAMES if name != NAMES[3]]
    assert scene.missing == (NAMES[3],)
    assert scene.extra == ("extra.png",)


def test_photos_of_the_same_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    frame = {"transform_matrix": np.eye(4).tolist()}
    frames = [{"file_path": f"{side}/{name}", **frame} for side in ("left", "right") for name in NAMES[:2]]
    transforms(tmp_path, frames=frames)
    for side in ("left", "right"):
        photos(tmp_path / side, NAMES[:2])
    scene = load_scene(tmp_path, hold_out_every=0)
    assert [view.name for view in scene.views] == ["left/00.png", "left/01.png", "right/00.png", "right/01.png"]


def test_a_scene_of_one_photo_holds_out_none(tmp_path: Path) -> None:
    transforms(tmp_path)
    for name in NAMES[1:]:
        (tmp_path / "images" / name).unlink()
    scene = load_scene(tmp_path)
    assert (len(scene.views), len(scene.held_out), len(scene.missing)) == (1, 0, 9)


def test_cameras_around_something_look_at_it(tmp_path: Path) -> None:
    """Photos of the ray-traced room as transforms.json says them, in another convention than they were made in."""
    made = room(width=16, height=12, views=16, points=20)
    views = sorted((*made.views, *made.held_out), key=lambda view: view.name)
    poses = [np.linalg.inv(view.viewmat.double().numpy()) @ np.diag([1.0, -1, -1, 1]) for view in views]
    frames = [
        {"file_path": f"images/{view.name}", "transform_matrix": pose.tolist()}
        for view, pose in zip(views, poses, strict=True)
    ]
    photos(tmp_path / "images", [view.name for view in views], (16, 12))
    (tmp_path / "transforms.json").write_text(json.dumps({"fl_x": 12, "w": 16, "h": 12, "frames": frames}))
    looks_at_its_middle(load_scene(tmp_path), 14, 2)


def test_the_fox(data: Path) -> None:
    looks_at_its_middle(load_scene(data / "splat" / "fox", downscale=4), 43, 7)


def looks_at_its_middle(scene: Scene, views: int, held_out: int) -> None:
    assert (len(scene.views), len(scene.held_out)) == (views, held_out)
    assert scene.views[0].image.shape[2] == 3
    assert 1 < scene.extent < 20
    for view in scene.views:  # every camera looks at the middle of the others
        middle = view.viewmat @ torch.tensor([0.0, 0, 0, 1])
        assert middle[2] > 0


CAMERAS: dict[str, dict[str, Any]] = {
    "no pixels": {"w": 0},
    "no focal length": {"fl_x": -20},
    "distortion": {"k1": float("nan")},
    "no points": {"ply_file_path": "points.ply"},
    "nan points": {"ply_file_path": "cloud.ply"},
    "stretched": {},
    "mirrored": {},
    "twice": {},
}


def bad(root: Path, case: str) -> Path:
    if case == "empty":
        return root
    if case == "absent":
        return root / "nothing"
    if case == "json":
        (transforms(root) / "transforms.json").write_text('{"frames": [{}]}')
    elif case == "fisheye":
        transforms(root, camera_model="OPENCV_FISHEYE")
    elif case == "flat":
        transforms(root, frames=[{"file_path": "images/00.png", "transform_matrix": np.zeros((4, 4)).tolist()}])
    elif case == "no photos":
        for file in (transforms(root) / "images").glob("*"):
            file.unlink()
    elif case == "size":
        photos(transforms(root) / "images", ["04.png"], (24, 24))
    elif case == "picture":
        (transforms(root) / "images" / "04.png").write_bytes(b"no picture")
    elif case == "model":
        colmap_text(root, "1 FOV 24 16 20 21 12 8 0.1")
    elif case == "binary model":
        colmap_binary(root, 9)
    elif case == "cut":
        file = colmap_binary(root) / "images.bin"
        file.write_bytes(file.read_bytes()[:-9])
    elif case == "lacks":
        (colmap_binary(root) / "points3D.bin").unlink()
    elif case in CAMERAS:
        place = np.eye(4)
        if case == "stretched":
            place[0, 0] = 1.2
        elif case == "mirrored":
            place[0, 0] = -1.0
        shot = {"file_path": "images/00.png", "transform_matrix": place.tolist()}
        changes: dict[str, Any] = {"frames": [shot] * (2 if case == "twice" else 1)}
        transforms(root, **changes, **CAMERAS[case])
        names = "".join(f"property float {name}\n" for name in "xyz")
        header = f"ply\nformat ascii 1.0\nelement vertex 2\n{names}end_header\n"
        (root / "cloud.ply").write_text(f"{header}1 2 3\nnan 1 2\n")
    elif case == "zero turn":
        model = colmap_text(root)
        text = (model / "images.txt").read_text()
        (model / "images.txt").write_text(text.replace(" ".join(map(str, QUAT)), "0 0 0 0"))
    elif case == "colmap focal length":
        colmap_text(root, "1 PINHOLE 24 16 0 21 12.5 8")
    elif case == "camera":
        colmap_text(root, "2 PINHOLE 24 16 20 21 12.5 8")
    return root


BAD = {
    "empty": r"holds no COLMAP model \(sparse/0/cameras.bin or .txt\) and no transforms.json",
    "absent": r"there is no .*nothing",
    "json": r"transforms.json is damaged: it lacks 'file_path'",
    "fisheye": r"cameras of the model 'OPENCV_FISHEYE'; known are OPENCV, PINHOLE",
    "flat": r"the transform_matrix of images/00.png is no camera's place",
    "no photos": r"none of the 10 photos that .* lists exists, such as .*00.png",
    "size": r"04.png has 24 x 24, its camera has 24 x 16: sizes must agree up to a factor",
    "picture": r"cannot read the image .*04.png",
    "model": r"a camera of the model FOV; known are SIMPLE_PINHOLE.*image_undistorter",
    "binary model": r"a camera of the model number 9; known are",
    "cut": r"images.bin is damaged: .* bytes are missing",
    "lacks": r"lacks points3D.bin",
    "no pixels": r"the camera of images/00.png has 0 x 16 pixels",
    "no focal length": r"the camera of 00.png has the focal lengths -20 and 21, or distortion, that no camera has",
    "colmap focal length": r"the camera of 00.png has the focal lengths 0 and 21",
    "distortion": r"the camera of 00.png has the focal lengths 20 and 21, or distortion, that no camera has",
    "stretched": r"the camera of 00.png is not turned by a rotation: its axes are stretched or mirrored",
    "mirrored": r"the camera of 00.png is not turned by a rotation",
    "twice": r"lists the photo images/00.png more than once",
    "no points": r"names the points points.ply, which do not exist; take ply_file_path out for a random start",
    "nan points": r"1 of the 2 points of the scene are not finite",
    "zero turn": r"the rotation of image 00.png is zero",
    "camera": r"image 00.png was taken by camera 1, which is not listed",
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_what_is_no_scene(case: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=BAD[case]):
        load_scene(bad(tmp_path, case))


def test_refuses_options_that_make_no_sense(tmp_path: Path) -> None:
    transforms(tmp_path)
    with pytest.raises(InputError, match="downscale must be at least 1"):
        load_scene(tmp_path, downscale=0)
    with pytest.raises(InputError, match="hold_out_every 0 or at least 2"):
        load_scene(tmp_path, hold_out_every=1)
    with pytest.raises(InputError, match="no folder of masks"):
        load_scene(tmp_path, masks=tmp_path / "none")
