"""`hardy splat`: train, eval, render, and one line for what cannot be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from splat.scenes import known_scene
from typer.testing import CliRunner

from hardy.cli import splat
from hardy.cli.main import app, main
from hardy.splat import save_ply
from hardy.splat.points import gaussians_from


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scene of ten photos and a transforms.json, without points."""
    scene = known_scene()
    frames = []
    for view in sorted((*scene.views, *scene.held_out), key=lambda view: view.name):
        Image.fromarray((view.image * 255).round().to(torch.uint8).numpy()).save(tmp_path / view.name)
        place = np.linalg.inv(view.viewmat.double().numpy())
        place[:3, 1:3] *= -1
        frames.append({"file_path": view.name, "transform_matrix": place.tolist()})
    k = scene.views[0].K
    record = {"fl_x": float(k[0, 0]), "w": 40, "h": 30, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(record))
    return tmp_path


def test_train_eval_render(folder: Path) -> None:
    out = folder / "out"
    line = ["splat", "train", str(folder), str(out), "--steps", "60", "--degree", "1", "--random-points", "300"]
    for _ in range(2):  # the second time there is nothing left to do
        done = CliRunner().invoke(app, [*line, "--strategy", "global-to-local", "--budget", "400"])
        assert done.exit_code == 0, done.output
        assert "step     60:" in done.output
    last = done.output.strip().splitlines()[-2]
    found = CliRunner().invoke(app, ["splat", "eval", str(folder), str(out / "gaussians.ply")])
    assert found.exit_code == 0, found.output
    assert "mean of 2 held-out views" in found.output
    assert found.stdout.split(" dB")[0] in last
    assert found.stderr.startswith("Computed on c")
    done = CliRunner().invoke(app, ["splat", "render", str(out), str(folder / "shots"), "--scene", str(folder)])
    assert done.exit_code == 0, done.output
    shots = sorted((folder / "shots").glob("*.png"))
    assert [shot.name for shot in shots] == ["00.png", "08.png"]
    with Image.open(shots[0]) as shot:
        assert shot.size == (80, 30)


def test_options_of_the_shell_reach_the_photos_and_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(splat, "_train", lambda photos, strategy, options, *_: seen.update(p=photos, o=options))

    def trained(scene: Path, *words: str) -> tuple[Any, Any]:
        done = CliRunner().invoke(app, ["splat", "train", str(scene), str(folder / "out"), *words])
        assert done.exit_code == 0, done.output
        return seen["p"], seen["o"]

    Image.new("RGBA", (40, 30), (9, 9, 9, 0)).save(folder / "01.png")
    words = ("--hold-out", "3", "--background", "white", "--antialiased", "--evaluate-every", "7", "--save-every", "11")
    photos, options = trained(folder, *words)
    assert [view.name for view in photos.held_out] == ["00.png", "03.png", "06.png", "09.png"]
    assert bool((photos.views[0].image == 1).all())
    assert options.background == (1.0, 1.0, 1.0)
    assert (options.rasterize_mode, options.evaluate_every, options.save_every) == ("antialiased", 7, 11)
    model = folder / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 PINHOLE 40 30 36 36 20 15\n")
    (model / "images.txt").write_text("".join(f"{i} 1 0 0 0 0 0 {i} 1 {i}.png\n\n" for i in (1, 2)))
    (model / "points3D.txt").write_text("1 0 0 3 9 9 9 0.1 1 0\n")
    (folder / "colmap" / "images_2").mkdir()
    for i in (1, 2):
        Image.new("RGB", (20, 15)).save(folder / "colmap" / "images_2" / f"{i}.png")
    photos, options = trained(folder / "colmap", "--images", "images_2", "--hold-out", "0")
    assert (len(photos.views), len(photos.held_out), tuple(photos.views[0].image.shape)) == (2, 0, (15, 20, 3))
    assert options.rasterize_mode == "classic"


def test_films_and_snapshots(folder: Path) -> None:
    out = folder / "out"
    (folder / "04.png").unlink()
    Image.new("RGB", (40, 30)).save(folder / "beside.png")
    line = ["splat", "train", str(folder), str(out), "--steps", "20", "--degree", "0", "--random-points", "200"]
    done = CliRunner().invoke(app, [*line, "--snapshot-every", "5"])
    assert done.exit_code == 0, done.output
    assert "Left out: 1 photos that are listed and not there: 04.png" in done.output
    assert "Left out: 1 photos that are there and have no camera: beside.png" in done.output
    done = CliRunner().invoke(
        app, ["splat", "render", str(out), str(folder / "a.gif"), "--orbit", "5", "--size", "8x6"]
    )
    assert done.exit_code == 0, done.output
    with Image.open(folder / "a.gif") as film:
        assert (film.size, getattr(film, "n_frames", 1)) == ((8, 6), 5)
    words = [
        "splat",
        "render",
        str(out / "gaussians.ply"),
        str(folder / "orbit"),
        "--orbit",
        "4",
        "--scene",
        str(folder),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "4 frames of 40 x 30" in done.output
    with Image.open(folder / "orbit" / "0003.png") as frame:
        assert frame.size == (40, 30)


def test_one_line_for_what_is_no_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hardy", "splat", "train", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_compare_writes_one_page(folder: Path) -> None:
    out = folder / "out"
    line = ["splat", "compare", str(folder), str(out), "--strategies", "vanilla,global-to-local", "--steps", "45"]
    done = CliRunner().invoke(app, [*line, "--degree", "0", "--random-points", "200"])
    assert done.exit_code == 0, done.output
    page = (out / "report.html").read_text()
    assert "Where the errors are" in page
    assert page.count("data:image/png;base64,") >= 12
    assert (out / "global-to-local" / "gaussians.ply").is_file()


def test_demo_trains_on_the_room(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["splat", "demo", str(tmp_path), "--steps", "12", "--budget", "3000"])
    assert done.exit_code == 0, done.output
    assert "step     12:" in done.output
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 5
    with Image.open(tmp_path / "pictures" / "000.png") as picture:
        assert picture.size == (256, 96)
    assert (tmp_path / "gaussians.ply").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "room", "OUT", "--strategies", "vanilla,global-to-locl"], "did you mean global-to-local"),
        (["compare", "room", "OUT", "--strategies", "vanilla"], "at least two"),
        (["compare", "room", "OUT", "--strategies", "vanilla,vanilla"], "each once"),
        (["compare", "nowhere", "OUT"], "there is no nowhere"),
        (["train", "room", "OUT", "--downscale", "0"], "downscale is at least 1"),
        (["train", "room", "OUT", "--masks", "masks"], "the room has no masks"),
        (["train", "room", "OUT", "--device", "gpu"], "device 'gpu' is not there"),
        (["eval", "room", "none.ply"], "there is no none.ply"),
        (["view", "nothing"], "there is no nothing"),
        (["render", "a.ply", "OUT"], "render needs --scene SCENE for its cameras, or --orbit FRAMES"),
        (["render", "a.ply", "OUT.gif", "--scene", "room"], "films are for --orbit FRAMES"),
        (["render", "a.ply", "OUT.avi", "--orbit", "3"], "OUT.avi must end with .gif, .png, .apng or .mp4"),
        (["render", "a.ply", "OUT", "--orbit", "3"], "there is no a.ply"),
        (["render", "a.ply", "OUT", "--orbit", "-3"], "--orbit must be at least 0, got -3"),
        (["render", "empty.ply", "OUT", "--orbit", "3"], "empty.ply holds no Gaussians"),
        (["render", "some.ply", "OUT", "--orbit", "3", "--size", "30"], "--size must be WIDTHxHEIGHT"),
        (
            ["render", "some.ply", "OUT.gif", "--orbit", "3", "--size", "9x9", "--fps", "0"],
            "fps must be a finite number above 0, got 0",
        ),
        (["poses", "nothing", "OUT"], "there is no folder of photos nothing"),
        (["demo", "OUT", "--steps", "0"], "steps must be an integer of at least 1, got 0"),
    ],
)
def test_one_line_for_every_mistake(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    made = gaussians_from(known_scene(), 0)
    save_ply(made, "some.ply")
    save_ply({name: tensor[:0] for name, tensor in made.items()}, "empty.ply")
    monkeypatch.setattr("sys.argv", ["hardy", "splat", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
