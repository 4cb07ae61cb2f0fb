"""Signals: where their points are, what loads, what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

import hardy
from hardy.core import InputError
from hardy.fields import Field, Signal, audio, distance, grid_coordinates, image, sample_photo, video


def test_points_are_at_the_centres_of_cells() -> None:
    assert grid_coordinates((4,)).flatten().tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert grid_coordinates((1, 2)).tolist() == [[0, -0.5], [0, 0.5]]
    fine, coarse = grid_coordinates((8,)).flatten(), grid_coordinates((4,)).flatten()
    assert torch.equal(fine.unflatten(0, (4, 2)).mean(1), coarse), "two fine cells lie in each coarse one"


def test_rendering_a_linear_field_at_twice_the_size_is_the_same_picture() -> None:
    """A field that is linear in its coordinates: the mean of 2 x 2 fine pixels is the coarse one, without a shift."""
    field = Field(2, 1, hidden_features=4, hidden_layers=1, activation=hardy.fields.Relu(frequencies=1), seed=1)
    with torch.no_grad():
        field.layers[0].weight[:, 2:] = 0
        field.layers[0].bias.fill_(100.0)  # all units are on
    coarse, fine = field.render((5, 7)), field.render((10, 14), points_at_once=9)
    assert fine.shape == (10, 14, 1)
    pooled = fine.unflatten(0, (5, 2)).unflatten(2, (7, 2)).mean((1, 3))
    torch.testing.assert_close(pooled, coarse, atol=1e-4, rtol=1e-5)


def test_a_picture_file_is_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    signal = image(tmp_path / "a.png")
    assert signal.grid == (5, 6)
    assert torch.equal(((signal.arranged() + 1) / 2 * 255).round().to(torch.uint8), torch.from_numpy(pixels))
    for same in (image(pixels), image(Image.open(tmp_path / "a.png")), image(pixels / 255)):
        torch.testing.assert_close(same.values, signal.values)
    grey = image(Image.fromarray(pixels[..., 0]))
    assert grey.values.shape == (30, 1)
    deep = image(np.array([[0, 65535]], dtype=np.uint16))
    assert deep.values.flatten().tolist() == [-1, 1]
    middle = image(pixels, size=(3, 2)).arranged()
    torch.testing.assert_close(middle, signal.arranged()[1:4, 2:4])


def test_palette_and_alpha(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (3, 2), (255, 0, 0, 128))
    assert image(rgba).values.shape == (6, 4)
    rgba.convert("RGB").convert("P").save(tmp_path / "p.png")
    assert image(tmp_path / "p.png").values[0].tolist() == [1, -1, -1]


def test_the_photos_that_come_along() -> None:
    signal = sample_photo("flower", 32)
    assert signal.grid == (32, 32)
    assert signal.values.std() > 0.05


def test_video(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    signal = video(tmp_path)
    assert signal.grid == (3, 4, 5)
    torch.testing.assert_close(signal.values, video(frames).values)
    assert video(frames, size=2).grid == (3, 2, 2)
    stills = [Image.fromarray(frame) for frame in frames]
    stills[0].save(tmp_path / "moving.gif", save_all=True, append_images=stills[1:])
    assert video(tmp_path / "moving.gif").grid == (3, 4, 5)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32])
def test_sound(tmp_path: Path, dtype: type) -> None:
    waves = np.sin(np.arange(50) / 3)
    if dtype is np.uint8:
        stored = (waves * 127 + 128).astype(dtype)
    else:
        stored = (waves * (np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1)).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 8000, stored)
    signal = audio(tmp_path / "a.wav", samples=40)
    assert signal.grid == (40,)
    assert signal.values.flatten().tolist() == pytest.approx(waves[:40].tolist(), abs=0.02)
    assert audio(np.stack([waves, waves], 1)).values.shape == (50, 2)


def test_distance_to_a_sphere() -> None:
    signal = distance(lambda points: points.norm(dim=1) - 0.5, (8, 8, 8), truncation=0.2)
    expected = ((signal.coordinates.norm(dim=1) - 0.5) / 0.2).clamp(-1, 1)
    torch.testing.assert_close(signal.values[:, 0], expected)


def test_psnr_of_a_signal_is_that_of_its_picture() -> None:
    signal = image(np.full((2, 2), 0.5))
    assert signal.psnr(torch.full((4, 1), 0.2)) == pytest.approx(20.0, abs=1e-4)  # 0.1 off on [0, 1]
    assert signal.psnr(torch.full((4, 1), 7.0)) == signal.psnr(torch.ones(4, 1)), "clipped"


def test_real_files(data: Path) -> None:
    assert image(data / "images/kodak/kodim04.png").grid == (768, 512)
    assert video(data / "video/bunny", size=8).grid == (16, 8, 8)
    assert audio(data / "audio/gt_bach.wav").values.shape[1] == 1


BAD = torch.tensor([[float("nan")]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid_coordinates(()), r"positive integers, got \(\)"),
        (lambda: grid_coordinates((4, 0)), r"got \(4, 0\)"),
        (lambda: Signal(torch.zeros(2, 1), torch.zeros(3, 1)), "2 coordinates for 3 values"),
        (lambda: Signal(torch.zeros(1, 1), BAD), "values of a signal must be finite"),
        (lambda: Signal(torch.zeros(1, 1), torch.tensor([[2.0]])), r"values .* in \[-1, 1\], got 2 to 2"),
        (lambda: Signal(torch.zeros(4), torch.zeros(4, 1)), r"coordinates .* got \(4,\)"),
        (lambda: Signal(torch.zeros(4, 2), torch.zeros(4, 1), (3, 1)), r"grid \(3, 1\) does not fit"),
        (lambda: Signal(torch.zeros(4, 2), torch.zeros(4, 1)).arranged(), "no grid"),
        (lambda: Signal.on_grid(torch.zeros(4)), r"\(\*grid, channels\), got shape \(4,\)"),
        (lambda: image("no/such.png"), "cannot read the picture no/such.png"),
        (lambda: image(np.zeros((2, 2, 7))), r"1 to 4 channels\), got \(2, 2, 7\)"),
        (lambda: image(np.full((2, 2), 1.5)), r"in \[0, 1\], got 1.5 to 1.5"),
        (lambda: image(np.zeros((2, 2), dtype=np.int64)), "got int64"),
        (lambda: image(np.zeros((2, 2)), size=3), "at most 2 x 2, got 3"),
        (lambda: sample_photo("chino"), "china or flower, got 'chino'; did you mean china"),
        (lambda: video([]), "no frames"),
        (lambda: video("no/such.gif"), "cannot read the video"),
        (lambda: video([np.zeros((2, 2)), np.zeros((2, 3))]), "one shape"),
        (lambda: audio("no/such.wav"), "cannot read the sound"),
        (lambda: audio(np.zeros((2, 2, 2))), r"got shape \(2, 2, 2\)"),
        (lambda: audio(np.array(["a"])), "integers or floats"),
        (lambda: audio(np.array([3.0])), r"\[-1, 1\], got 3 to 3"),
        (lambda: audio(np.zeros(4), samples=5), "from 1 to 4, got 5"),
        (lambda: distance(lambda points: points, (2, 2)), r"for each of 4 points is wanted, got \(4, 2\)"),
        (lambda: distance(lambda points: points[:, 0], (2,), truncation=0), "truncation .* got 0"),
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(InputError, match="cannot read the picture"):
        image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Signal.on_grid(torch.zeros(3, 8, 9)), r"shape \(3, 8, 9\); channels come last: permute\(1, 2, 0\)"),
        (lambda: image(torch.zeros(3, 8, 9)), r"got \(3, 8, 9\); channels come last: permute\(1, 2, 0\)"),
        (lambda: Signal.on_grid(torch.full((8, 9, 3), 255.0)), "pixels of 0 to 255 are x / 127.5 - 1"),
        (lambda: image(torch.full((8, 9, 3), 255.0)), "got 255 to 255; divide by 255"),
        (lambda: image(torch.full((8, 9, 3), -2.0)), "got -2 to -2$"),
    ],
)
def test_pixels_in_another_form_are_refused_with_the_remedy(make: Callable[[], Signal], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
