"""`hardy binarize` and what it reads: stored, resumed, on a page, and errors that say what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import hardy
from hardy.errors import InputError
from hardy.studies import binarize as module
from hardy.studies.binarize import Plan, binarize, network_of
from hardy.studies.images import read_images
from hardy.zoo import digits

QUICK = Plan(activation_bits=2, sweep=(4,), epochs=1, batch_size=256)


def small() -> nn.Module:
    """What module:function names."""
    return digits.TinyCNN()


def test_the_zoo_network_is_stored_and_opens_alone(tmp_path: Path) -> None:
    report = binarize("tiny-cnn", tmp_path / "out", plan=QUICK)
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (tmp_path / "out.training").exists()
    model = hardy.load(tmp_path / "out")
    data = digits.digits()
    reached = digits.accuracy(model, data["x_test"], data["y_test"])
    assert report.value("accuracy", "2 bits") == pytest.approx(reached)
    assert report.value("energy", "4 bits") > 1.9 * report.value("energy", "2 bits")
    assert report.value("bytes", "2 bits") < report.value("bytes", "float") / 8
    assert {figure.title for figure in report.figures} >= {"Accuracy against bits", "Error of each layer"}
    with pytest.raises(InputError, match="not a folder that hardy binarize wrote"):
        module.export_folder(tmp_path, tmp_path / "x.onnx")


def test_a_stopped_run_goes_on_to_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(activation_bits=2, epochs=2, batch_size=256, eight_bit="conv1,head", rectifier="rprelu")
    report = binarize("tiny-cnn", tmp_path / "whole", plan=plan)
    assert "97% of the weights are binary, 3% of 8 bits." in report.summary[0]
    saved = module.Checkpoint.save
    epochs: list[int] = []

    def stop(self: object, state: dict[str, object]) -> None:
        saved(self, state)  # pyright: ignore[reportArgumentType]
        epochs.append(int(state["epoch"]))  # pyright: ignore[reportArgumentType]
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        binarize("tiny-cnn", tmp_path / "cut", plan=plan)
    monkeypatch.setattr(module.Checkpoint, "save", saved)
    assert epochs == [1]
    binarize("tiny-cnn", tmp_path / "cut", plan=plan)
    one, other = (hardy.load(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_function_and_its_weights_name_a_network(tmp_path: Path) -> None:
    save_file(digits.tiny_cnn().state_dict(), tmp_path / "weights.safetensors")
    made = network_of("hardy.zoo.digits:TinyCNN", tmp_path / "weights.safetensors")
    assert torch.equal(made.state_dict()["head.weight"], digits.tiny_cnn().state_dict()["head.weight"])
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "wrong.safetensors")
    for name, weights, message in (
        ("hardy.zoo.digits:nothing", None, "cannot be imported"),
        ("hardy.zoo.digits:card", None, "makes a dict, no network"),
        ("tiny-cnn", "x.safetensors", "weights belong to module:function"),
        ("tiny-cn", None, "none of tiny-cnn"),
        ("hardy.zoo.digits:TinyCNN", str(tmp_path / "no.safetensors"), "is not there"),
    ):
        with pytest.raises(InputError, match=message):
            network_of(name, weights)
    with pytest.raises(InputError, match="wrong.safetensors"):
        network_of("hardy.zoo.digits:TinyCNN", tmp_path / "wrong.safetensors")


def test_images_are_read_from_npz_and_folders(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (10, 4, 5, 3), dtype=np.uint8), np.arange(10) % 2
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    images = read_images(tmp_path / "data.npz")
    assert tuple(images.x_train.shape) == (10, 3, 4, 5)
    assert float(images.x_train[0, 1, 2, 3]) == pytest.approx(x[0, 2, 3, 1] / 255)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(x[2 * i + label]).save(tmp_path / "pictures" / name / f"{i}.png")
    images = read_images(tmp_path / "pictures")
    assert (len(images.x_train), len(images.x_test)) == (8, 2)
    assert images.y_test.tolist() == [0, 1]


def test_bad_images_are_refused(tmp_path: Path) -> None:
    x, y = np.zeros((4, 1, 3, 3), np.float32), np.zeros(4, np.int64)
    good = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    for change, message in (
        ({"y_train": None}, "lacks y_train"),
        ({"y_train": y[:3]}, "y_train of .* must hold 4 labels"),
        ({"y_test": y.astype(float)}, "must be whole numbers from 0"),
        ({"x_train": x * np.nan}, "x_train of .* must be finite"),
        ({"x_test": x[:, :, :2]}, "images of training are"),
        ({"x_train": x[0]}, "must be images"),
    ):
        values = {name: value for name, value in {**good, **change}.items() if value is not None}
        np.savez(tmp_path / "bad.npz", **values)
        with pytest.raises(InputError, match=message):
            read_images(tmp_path / "bad.npz")
    (tmp_path / "flat").mkdir()
    with pytest.raises(InputError, match="has no labels"):
        read_images(tmp_path / "flat")
    with pytest.raises(InputError, match="is not there"):
        read_images(tmp_path / "nothing.npz")
    with pytest.raises(InputError, match="name the images to train on"):
        binarize(nn.Sequential(nn.Linear(2, 2)), tmp_path / "out")
    np.savez(tmp_path / "many.npz", **{**good, "x_train": np.ones((4, 1, 8, 8), np.float32), "y_train": y + 10,
                                       "x_test": np.ones((4, 1, 8, 8), np.float32)})  # fmt: skip
    with pytest.raises(InputError, match="there are labels up to 10"):
        binarize("tiny-cnn", tmp_path / "out", data=tmp_path / "many.npz", plan=QUICK)
    with pytest.raises(InputError, match="activation_bits must be an integer from 1 to 8, got 9"):
        Plan(sweep=(9,))
