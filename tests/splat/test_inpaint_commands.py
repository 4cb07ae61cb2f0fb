"""`hardy splat train`, `remove` and `inpaint` on a scene in files, one after the other."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from hardy.cli.main import app
from hardy.report import Report
from hardy.splat import load_ply
from hardy.splat.masks import save_masks
from hardy.splat.traced_removal import removable


def write_scene(folder: Path) -> None:
    made = removable("hovering", width=32, height=24, views=6, points=150)
    folder.mkdir()
    frames = []
    for view in made.scene.views:
        Image.fromarray((view.image * 255).round().byte().numpy()).save(folder / view.name)
        camera = np.linalg.inv(view.viewmat.double().numpy())
        camera[:3, 1:3] *= -1
        frames.append({"file_path": view.name, "transform_matrix": camera.tolist()})
    k = made.scene.views[0].K
    record = {"fl_x": float(k[0, 0]), "fl_y": float(k[1, 1]), "w": 32, "h": 24, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(record))
    save_masks(made.holes, made.scene.views, folder / "masks")
    save_masks(made.masks, made.scene.views, folder / "things")
    save_masks(made.shadows, made.scene.views, folder / "shadows")


def run(*words: object) -> str:
    made = CliRunner().invoke(app, ["splat", *map(str, words)])
    assert made.exit_code == 0, made.output
    return made.output


def test_an_object_is_removed_and_its_hole_filled_from_the_shell(tmp_path: Path) -> None:
    scene, masks = tmp_path / "scene", tmp_path / "scene" / "masks"
    write_scene(scene)
    small = ("--random-points", 600, "--degree", 0, "--hold-out", 0, "--save-every", 100, "--evaluate-every", 0)
    run("train", scene, tmp_path / "trained", "--steps", 200, *small)
    run("train", scene, tmp_path / "longer", "--steps", 300, "--start", tmp_path / "trained", *small)
    said = run("remove", scene, tmp_path / "longer", tmp_path / "removed", "--masks", masks)
    assert "Masks: 6 of 6 photos" in said
    before = len(load_ply(tmp_path / "longer" / "gaussians.ply")["means"])
    assert 0 < len(load_ply(tmp_path / "removed" / "gaussians.ply")["means"]) < before
    assert len(list((tmp_path / "removed" / "masks").glob("*.png"))) == 6
    rounds = ("--steps", 20, "--rounds", 1, "--round-steps", 10, "--candidates", 1, "--degree", 0)
    line = ("inpaint", scene, tmp_path / "out", "--masks", masks, "--ply", tmp_path / "longer", *rounds)
    run(*line)
    for name in ("gaussians.ply", "turntable.gif", "report.json", "report.md", "report.html", "photos"):
        assert (tmp_path / "out" / name).exists(), name
    report = Report.load(tmp_path / "out")
    first = load_ply(tmp_path / "out" / "gaussians.ply")["means"]
    run(*line)  # finished: the same again, from what is there
    assert load_ply(tmp_path / "out" / "gaussians.ply")["means"].equal(first)
    assert Report.load(tmp_path / "out").value("Gaussians", "completed") == report.value("Gaussians", "completed")
    apart = ("--masks", scene / "things", "--shadows", scene / "shadows", "--before", "masked", "--inpainter", "none")
    said = run("inpaint", scene, tmp_path / "shadows", *apart, *rounds)
    assert said.count("Masks: 6 of 6 photos") == 2
    assert len(list((tmp_path / "shadows" / "photos").iterdir())) == 6  # none is held out
    refused = CliRunner().invoke(app, ["splat", "inpaint", str(scene), str(tmp_path / "other")])
    assert refused.exit_code != 0
    refused = CliRunner().invoke(app, ["splat", "inpaint", "demo", str(tmp_path / "other"), "--inpainter", "patchmach"])
    assert refused.exit_code != 0
    assert "patchmatch" in refused.output + str(refused.exception)
