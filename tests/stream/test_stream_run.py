"""`hardy stream run`: a video into files, what they hold, that it goes on, and what it refuses."""

import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stream.small_vggt import small
from typer.testing import CliRunner

from hardy.cli.main import app
from hardy.errors import InputError
from hardy.ffmpeg import program
from hardy.report import Report
from hardy.splat import load_scene
from hardy.splat.ply import read_vertices
from hardy.stream.frames import Frames, fitted
from hardy.stream.recording import Recording
from hardy.stream.viewer import StreamViewer
from hardy.zoo.vggt.loading import save_vggt


def pictures(count: int, size: tuple[int, int] = (24, 16)) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seven frames that numbers sort, with a file that is none, and weights."""
    folder = tmp_path_factory.mktemp("video")
    (folder / "frames").mkdir()
    for number, picture in enumerate(pictures(7), 5):
        Image.fromarray(picture).save(folder / "frames" / f"{number}.png")
    (folder / "frames" / "poses.txt").write_text("none")
    save_vggt(small(dense=("depth",)), folder / "weights.safetensors")
    return folder


def invoke(place: Path, out: Path, *words: str) -> Any:
    weights = ["--weights", str(place / "weights.safetensors"), "--budget", "3f"]
    return CliRunner().invoke(app, ["stream", "run", str(place / "frames"), str(out), *weights, *words])


def test_a_video_becomes_files_and_goes_on(place: Path, tmp_path: Path) -> None:
    whole = invoke(place, tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    invoke(place, tmp_path / "parts", "--limit", "3")
    again = invoke(place, tmp_path / "parts")
    assert again.exit_code == 0, again.output
    for name in ("trajectory.txt", "points.ply", "sparse/0/images.txt", "sparse/0/points3D.txt", "frames/000006.npz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

    recording, report = Recording(tmp_path / "whole"), Report.load(tmp_path / "whole")
    assert report.value("frames", "stream") == 7
    assert report.value("tokens kept of each layer", "stream") == 3 * 11
    assert report.value("cache at most", "stream") > 0
    assert any("1 files of the folder are no frames" in note for note in report.notes)
    poses = np.loadtxt(tmp_path / "whole" / "trajectory.txt")
    assert poses.shape == (7, 8)
    assert poses[:, 0].tolist() == list(range(7))
    np.testing.assert_allclose(np.linalg.norm(poses[:, 4:], axis=1), 1, atol=1e-5)
    frame = recording.read(3)
    eye = -(frame.viewmat[:3, :3].T @ frame.viewmat[:3, 3])
    np.testing.assert_allclose(poses[3, 1:4], eye.numpy(), atol=1e-4)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "whole" / "depth" / "000003.png")).shape, (8, 12, 3))
    points = read_vertices(tmp_path / "whole" / "points.ply")
    assert set(points) == {"x", "y", "z", "red", "green", "blue"}
    assert len(points["x"]) == report.value("points written", "stream") >= 7 * 48

    scene = load_scene(tmp_path / "whole", hold_out_every=0)
    assert len(scene.views) == 7
    torch.testing.assert_close(scene.views[3].viewmat, frame.viewmat, atol=1e-4, rtol=1e-4)
    assert scene.views[3].image.shape == (16, 24, 3), "photos keep their size"
    torch.testing.assert_close(scene.views[3].K[0, 0], 2 * frame.K[0, 0], rtol=1e-4, atol=1e-4)
    assert len(scene.points) == len(points["x"])

    other = invoke(place, tmp_path / "parts", "--bits", "16")
    assert isinstance(other.exception, InputError)
    assert "belongs to another stream of frames" in str(other.exception)


def test_an_interrupted_stream_keeps_what_it_has(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Recording.write

    def interrupted(self: Recording, found: Any, pixels: np.ndarray) -> None:
        if found.index == 4:
            raise KeyboardInterrupt
        write(self, found, pixels)

    monkeypatch.setattr(Recording, "write", interrupted)
    monkeypatch.setattr("hardy.stream.running.SAVE_EVERY", 2)
    stopped = invoke(place, tmp_path / "out")
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.output
    monkeypatch.setattr(Recording, "write", write)
    assert invoke(place, tmp_path / "out").exit_code == 0
    assert np.loadtxt(tmp_path / "out" / "trajectory.txt").shape == (7, 8)


def test_the_browser_is_shown_the_newest_frames(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("viser")
    monkeypatch.setattr("hardy.stream.viewer._POLL", 60)
    with pytest.raises(InputError, match=r"there is no frame in .*; `hardy stream run FRAMES"):
        StreamViewer(tmp_path / "out")
    assert invoke(place, tmp_path / "out", "--limit", "2").exit_code == 0
    viewer = StreamViewer(tmp_path / "out", port=0, frames=3)
    try:
        with urllib.request.urlopen(viewer.url, timeout=10) as page:
            assert b"<html" in page.read().lower()
        assert viewer.refresh() == viewer.seen == 2
        assert invoke(place, tmp_path / "out").exit_code == 0  # goes on meanwhile
        assert viewer.refresh() == 3
        assert viewer.seen == 7
        assert "the newest 3 of them" in viewer._status.content
        (cloud, camera), frame = viewer._shown[-1], Recording(tmp_path / "out").read(6)
        eye = -(frame.viewmat[:3, :3].T @ frame.viewmat[:3, 3])
        np.testing.assert_allclose(camera.position, eye.numpy(), atol=1e-5)
        points, colors = Recording(tmp_path / "out").cloud(6, 1000)[1:]
        np.testing.assert_allclose(cloud.points, points, rtol=1e-2, atol=1e-3)
        assert np.array_equal(cloud.colors, colors)
        viewer._cameras.value = False
        viewer._restyle()
        assert not camera.visible
    finally:
        viewer.stop()
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    with pytest.raises(InputError, match=r'pip install "hardy-nn\[view\]"'):
        StreamViewer(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "1f"], 'give at least "2 frames"'),
        (["--budget", "some"], "budget must be as"),
        (["--policy", "newest"], "there are: sink-recent, sliding"),
        (["--bits", "3"], "bits must be 16, 8, 4 or 2"),
        (["--stride", "0"], "stride must be an integer of at least 1"),
        (["--weights", "nowhere.pt"], "there is no file of weights nowhere.pt"),
    ],
)
def test_what_cannot_be_streamed_is_refused(place: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = invoke(place, tmp_path / "out", *words)
    assert isinstance(result.exception, InputError), result.output
    with pytest.raises(InputError, match=message):
        raise result.exception


def test_a_frame_of_another_size_is_named(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, size in enumerate([(24, 16), (24, 20)]):
        Image.fromarray(pictures(1, size)[0]).save(folder / f"{number}.png")
    weights = ["--weights", str(place / "weights.safetensors")]
    result = CliRunner().invoke(app, ["stream", "run", str(folder), str(tmp_path / "out"), *weights])
    assert "frame 1 of" in str(result.exception)
    assert "24 x 20 pixels, those before were 24 x 16" in str(result.exception)


def test_frames_are_read_one_by_one_from_folders_and_films(tmp_path: Path) -> None:
    images = [Image.fromarray(picture) for picture in pictures(5)]
    images[0].save(tmp_path / "film.gif", save_all=True, append_images=images[1:])
    gif = Frames(tmp_path / "film.gif", stride=2)
    assert len(list(gif.read())) == 3
    assert len(list(gif.read(1))) == 2
    (tmp_path / "rgbd").mkdir()
    for number in range(3):
        images[number].save(tmp_path / "rgbd" / f"frame-{number:06}.color.jpg")
        images[number].save(tmp_path / "rgbd" / f"frame-{number:06}.depth.png")
    found = Frames(tmp_path / "rgbd", limit=2)
    assert (found.count, found.left_out) == (2, 3)
    for source, message in (
        (tmp_path / "none", "there is no"),
        (tmp_path / "film.txt", "is no video"),
        (tmp_path / "empty", "has no pictures"),
    ):
        if source.suffix:
            source.write_text("x")
        elif source.name == "empty":
            source.mkdir()
        with pytest.raises(InputError, match=message):
            Frames(source)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_text("x")
    with pytest.raises(InputError, match="the frame .*0.png"):
        next(Frames(tmp_path / "broken").read())
    assert fitted(480, 640, 518, 14) == (378, 518)
    assert fitted(480, 640, 64, 8) == (48, 64)
    assert fitted(16, 2000, 64, 8) == (8, 64)


@pytest.mark.skipif(program() is None, reason="no ffmpeg")
def test_films_come_through_ffmpeg(tmp_path: Path) -> None:
    from hardy.splat.film import save_film

    save_film(iter(pictures(4)), tmp_path / "film.mp4")
    found = list(Frames(tmp_path / "film.mp4").read())
    assert [frame.shape for frame in found] == [(16, 24, 3)] * 4
    (tmp_path / "broken.mp4").write_text("x")
    with pytest.raises(InputError, match="ffmpeg cannot read"):
        next(Frames(tmp_path / "broken.mp4").read())
