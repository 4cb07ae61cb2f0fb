"""Scenes as people have them: transparent and 16-bit photos, masks by any name, lists of parts, several models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from splat.scenes import known_scene, photos

from hardy.errors import InputError
from hardy.splat import evaluate, load_scene
from hardy.splat.lens import distorted
from hardy.splat.photos import read_mask, read_photo
from hardy.splat.points import gaussians_from

SIZE = (24, 16)
NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def frames(names: list[str], **more: Any) -> dict[str, Any]:
    listed = []
    for i, name in enumerate(names):
        matrix = np.eye(4)
        matrix[0, 3] = i
        listed.append({"file_path": name, "transform_matrix": matrix.tolist()})
    return {"fl_x": 20.0, "fl_y": 20.0, "w": SIZE[0], "h": SIZE[1], "frames": listed} | more


def write(folder: Path, names: list[str] = NAMES, **more: Any) -> Path:
    photos(folder, names, SIZE)
    (folder / "transforms.json").write_text(json.dumps(frames(names, **more)))
    return folder


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_show_the_background_and_not_their_hidden_color(mode: str, tmp_path: Path) -> None:
    pixels = np.zeros((16, 24, 4), dtype=np.uint8)
    pixels[..., 0], pixels[:, 12:, 3], pixels[:, 6:12, 3] = 200, 255, 128
    image = Image.fromarray(pixels)
    image = image.convert(mode) if mode != "PA" else image.quantize(16)
    image.save(tmp_path / "a.png")
    for background in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        photo = read_photo(tmp_path / "a.png", background, SIZE)
        np.testing.assert_allclose(photo[:, :6], background[0], atol=0.02)
        whole = photo[0, 20]
        np.testing.assert_allclose(photo[0, 8], (whole + background[0]) / 2, atol=0.03)


def test_sixteen_bits_keep_their_range_and_precision(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 24 * 16).astype(np.uint16).reshape(16, 24)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png", (0, 0, 0), SIZE)
    np.testing.assert_allclose(photo[..., 1], ramp / 65535, atol=1e-6)
    assert len(np.unique(photo)) == 24 * 16
    mask = read_mask(tmp_path / "a.png")
    assert mask.mean() == pytest.approx(0.5, abs=0.01)


def test_a_photo_held_sideways_is_turned_if_its_camera_says_so(tmp_path: Path) -> None:
    pixels = np.zeros((24, 16, 3), dtype=np.uint8)
    pixels[:3] = 255  # stored on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = read_photo(tmp_path / "a.png", (0, 0, 0), (24, 16))
    assert upright.shape == (16, 24, 3)
    assert upright[:, -2:].mean() > 0.9
    assert read_photo(tmp_path / "a.png", (0, 0, 0), (16, 24)).shape == (24, 16, 3)  # its camera knows it unturned


def test_heic_says_what_to_do(tmp_path: Path) -> None:
    if ".heic" in Image.registered_extensions():
        pytest.skip("this Pillow reads HEIC")
    (tmp_path / "a.heic").write_bytes(b"?")
    with pytest.raises(InputError, match="pip install pillow-heif"):
        read_photo(tmp_path / "a.heic", (0, 0, 0), SIZE)


@pytest.mark.parametrize("naming", ["a.jpg", "a.png", "a.jpg.png", "sub/a.png", "sub/a.jpg.png"])
def test_masks_by_any_of_their_names(naming: str, tmp_path: Path) -> None:
    sub = naming.startswith("sub/")
    names = [f"sub/{name}" if sub else name for name in NAMES]
    photos(tmp_path, [], SIZE)
    (tmp_path / "sub").mkdir()
    write(tmp_path, names)
    for name in ("a", "b"):
        file = tmp_path / "masks" / naming.replace("a.", f"{name}.")
        file.parent.mkdir(parents=True, exist_ok=True)
        half = np.zeros((16, 24), dtype=np.uint8)
        half[:, :12] = 255
        Image.fromarray(half).save(file)
    scene = load_scene(tmp_path, masks=tmp_path / "masks", hold_out_every=0)
    assert scene.views[0].mask is not None
    assert scene.views[0].mask[:, :10].all()
    assert scene.views[2].mask is None
    assert f"Masks: 2 of 4 photos, in {tmp_path / 'masks'}" in scene.notes
    removed = load_scene(tmp_path, removed=tmp_path / "masks", hold_out_every=0, downscale=2)
    assert removed.views[0].mask is None
    assert removed.holes[0][:, :5].all()
    assert not removed.holes[0][:, 7:].any()
    assert not removed.holes[2].any()


def test_masks_that_match_nothing_are_said(tmp_path: Path) -> None:
    write(tmp_path)
    photos(tmp_path / "masks", ["mask_1.png"], SIZE)
    with pytest.raises(InputError, match=r"0 of 4 photos have a mask in .*1 files there, such as mask_1.png"):
        load_scene(tmp_path, masks=tmp_path / "masks")
    with pytest.raises(InputError, match=r"0 of 4 photos have a mask"):
        load_scene(tmp_path, removed=tmp_path / "masks")


def test_masks_that_leave_nothing_do_not_train_to_nan(tmp_path: Path) -> None:
    write(tmp_path)
    for name in NAMES:
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((16, 24), dtype=np.uint8)).save(tmp_path / "masks" / Path(name).with_suffix(".png"))
    with pytest.raises(InputError, match="no pixel of the 3 views counts"):
        load_scene(tmp_path, masks=tmp_path / "masks")
    import dataclasses

    scene = known_scene()
    empty = [dataclasses.replace(view, mask=torch.zeros(30, 40, dtype=torch.bool)) for view in scene.views]
    with pytest.raises(InputError, match="masks of all 8 views are empty"):
        evaluate(gaussians_from(scene, 0), tuple(empty))
    assert evaluate(gaussians_from(scene, 0), (empty[0], scene.views[1])).views == 1


def test_a_mask_that_a_frame_names_counts(tmp_path: Path) -> None:
    record = frames(NAMES)
    record["frames"][1]["mask_path"] = "m/second.png"
    photos(tmp_path, NAMES, SIZE)
    (tmp_path / "m").mkdir()
    Image.fromarray(np.eye(16, 24, dtype=np.uint8) * 255).save(tmp_path / "m" / "second.png")
    (tmp_path / "transforms.json").write_text(json.dumps(record))
    scene = load_scene(tmp_path, hold_out_every=0)
    assert scene.views[1].mask is not None
    assert scene.views[1].mask.sum() == 16
    assert scene.views[0].mask is None
    assert "Masks: 1 of 4 photos" in scene.notes


def test_lists_of_parts_hold(tmp_path: Path) -> None:
    lists = {"train_filenames": ["b.jpg", "a.jpg"], "test_filenames": ["c.jpg"], "val_filenames": []}
    write(tmp_path, **lists)
    scene = load_scene(tmp_path)
    assert [view.name for view in scene.views] == ["a.jpg", "b.jpg"]
    assert [view.name for view in scene.held_out] == ["c.jpg"]
    assert any("1 photos that are in none of the scene's lists, such as d.jpg" in note for note in scene.notes)
    write(tmp_path, train_filenames=["a.jpg"], val_filenames=["d.jpg"])
    assert [view.name for view in load_scene(tmp_path).held_out] == ["d.jpg"]
    write(tmp_path, train_filenames=["z.jpg"])
    with pytest.raises(InputError, match="no camera of, such as z.jpg"):
        load_scene(tmp_path)
    write(tmp_path, test_filenames=["a.jpg"])
    with pytest.raises(InputError, match="none of the 4 photos .* is for training"):
        load_scene(tmp_path)


def test_nerf_synthetic_folders(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        (tmp_path / part).mkdir()
        listed = []
        for i in range(count):
            pixels = np.zeros((16, 24, 4), dtype=np.uint8)
            pixels[4:12, 6:18] = (10, 200, 30, 255)
            Image.fromarray(pixels).save(tmp_path / part / f"r_{i}.png")
            matrix = np.eye(4)
            matrix[0, 3] = i
            listed.append({"file_path": f"./{part}/r_{i}", "rotation": 0.01, "transform_matrix": matrix.tolist()})
        record = {"camera_angle_x": 0.69, "frames": listed}
        (tmp_path / f"transforms_{part}.json").write_text(json.dumps(record))
    scene = load_scene(tmp_path, background=(1.0, 1.0, 1.0))
    assert [view.name for view in scene.views] == ["train/r_0.png", "train/r_1.png", "train/r_2.png"]
    assert [view.name for view in scene.held_out] == ["test/r_0.png", "test/r_1.png"]
    assert scene.views[0].image[0, 0].tolist() == [1, 1, 1]
    assert scene.views[0].K[0, 0] == pytest.approx(12 / np.tan(0.345))
    assert scene.views[0].K[0, 2] == 12


def test_k4_is_part_of_the_lens(tmp_path: Path) -> None:
    x, y = torch.tensor([0.5]), torch.tensor([0.0])
    assert distorted(x, y, (0, 0, 0, 0, 0, 0.8))[0].item() == pytest.approx(0.5 * (1 + 0.8 * 0.5**8))
    plain = load_scene(write(tmp_path), hold_out_every=0).views[0].image
    bent = load_scene(write(tmp_path, k4=3.0), hold_out_every=0).views[0].image
    assert not torch.equal(plain, bent)


def colmap_model(folder: Path, names: list[str], camera: str = "PINHOLE 24 16 20 20 12 8") -> None:
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(f"1 {camera}\n")
    (folder / "images.txt").write_text("".join(f"{i} 1 0 0 0 {i} 0 0 1 {n}\n\n" for i, n in enumerate(names, 1)))
    (folder / "points3D.txt").write_text("1 0 0 5 255 0 0 0.1\n")


def test_the_larger_of_several_models_is_taken(tmp_path: Path) -> None:
    photos(tmp_path / "images", NAMES, SIZE)
    colmap_model(tmp_path / "sparse" / "0", NAMES[:1])
    colmap_model(tmp_path / "sparse" / "1", NAMES)
    scene = load_scene(tmp_path, hold_out_every=0)
    assert len(scene.views) == 4
    assert any("Of 2 models the largest is taken" in note and "sparse/1" in note for note in scene.notes)


def test_full_opencv_without_its_quotient_is_opencv(tmp_path: Path) -> None:
    photos(tmp_path / "images", NAMES, SIZE)
    camera = "FULL_OPENCV 24 16 20 20 12 8 0.1 0 0 0 0.05 {} 0 0"
    colmap_model(tmp_path / "sparse" / "0", NAMES, camera.format(0))
    assert len(load_scene(tmp_path, hold_out_every=0).views) == 4
    (tmp_path / "sparse" / "0" / "cameras.txt").write_text(f"1 {camera.format(0.2)}\n")
    with pytest.raises(InputError, match="FULL_OPENCV has k4, k5 or k6 other than 0"):
        load_scene(tmp_path)


def test_one_far_point_is_no_gaussian_before_everything() -> None:
    import dataclasses

    scene = known_scene()
    points = scene.points.clone()
    points[7] = torch.tensor([1e6, 0, 0])
    far = gaussians_from(dataclasses.replace(scene, points=points), 0)
    assert far["scales"].exp().max() < 10


def test_names_that_differ_in_case_only_get_files_of_their_own(tmp_path: Path) -> None:
    import dataclasses

    from hardy.cli.splat_look import save_pictures

    scene = known_scene()
    pair = tuple(dataclasses.replace(scene.views[i], name=name) for i, name in enumerate(("A.png", "a.png")))
    save_pictures(gaussians_from(scene, 0), pair, tmp_path)
    assert len({file.name.lower() for file in tmp_path.iterdir()}) == 2
