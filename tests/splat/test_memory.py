"""Trainings that do not fit in memory are refused, or stopped with everything saved."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from splat.scenes import known_scene, photos

from hardy.errors import InputError
from hardy.files import write_json
from hardy.splat import load_ply, load_scene, memory, strategies, train
from hardy.splat import training as module
from hardy.splat.training import Options

SHORT = Options(steps=120, sh_degree=1)


def room_for(monkeypatch: pytest.MonkeyPatch, count: float, views: Any) -> None:
    there = int((count * memory.gaussian_bytes(1) + memory.view_bytes(views)) / 0.9) + 1
    monkeypatch.setattr(memory, "available", lambda device=None: there)


def test_this_machine_says_what_it_has() -> None:
    there = memory.available()
    assert there is None or 2**20 < there < 2**50


def test_refuses_a_start_and_a_budget_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene = known_scene()
    room_for(monkeypatch, 100, scene.views)
    train(scene, strategies.vanilla(5, cap_max=100), options=dataclasses.replace(SHORT, steps=5))
    with pytest.raises(InputError, match=r"a budget of 5000 Gaussians of degree 1 needs about .* a budget of 100 fits"):
        train(scene, strategies.vanilla(120, cap_max=5000), options=SHORT, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    room_for(monkeypatch, 30, scene.views)
    with pytest.raises(InputError, match=r"a start with 60 Gaussians .* are available: 30 Gaussians fit"):
        train(scene, strategies.vanilla(120), options=SHORT)
    room_for(monkeypatch, 0, scene.views)
    with pytest.raises(InputError, match=r"not even one Gaussian fits beside the photos"):
        train(scene, strategies.vanilla(120), options=SHORT)


def test_stops_while_there_is_room_to_save(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene, strategy = known_scene(), strategies.vanilla(120)
    whole = train(scene, strategy, options=SHORT)
    amounts = iter([2**40, 2**40, 0])
    monkeypatch.setattr(memory, "available", lambda device=None: next(amounts))
    with pytest.raises(InputError, match=r"to grow as much again, and 0 MiB are available: a budget of (\d+) fits, at"):
        train(scene, strategy, options=SHORT, out=tmp_path)
    stopped = load_ply(tmp_path / "gaussians.ply")
    assert 60 < len(stopped["means"]) <= len(whole.parameters["means"])
    monkeypatch.setattr(memory, "available", lambda device=None: 2**40)
    resumed = train(scene, strategy, options=SHORT, out=tmp_path)  # to the same end as if nothing had happened
    for name, tensor in whole.parameters.items():
        assert torch.equal(tensor, resumed.parameters[name])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), torch.OutOfMemoryError()],
)
def test_names_the_step_of_a_failed_allocation(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene, whole = known_scene(), module._step

    def failing(*arguments: Any) -> int:
        if arguments[4] == 30:
            raise error
        return whole(*arguments)

    options = dataclasses.replace(SHORT, save_every=20)
    monkeypatch.setattr(module, "_step", failing)
    with pytest.raises(InputError, match=r"memory ran out at step 30 with \d+ Gaussians; .* checkpoint is in "):
        train(scene, strategies.vanilla(120), options=options, out=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").is_file()
    monkeypatch.setattr(module, "_step", lambda *_: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        train(scene, strategies.vanilla(120), options=options)


def test_refuses_photos_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [f"{i:02}.png" for i in range(50)]
    photos(tmp_path / "images", names, (270, 480))
    frames = [{"file_path": f"images/{name}", "transform_matrix": torch.eye(4).tolist()} for name in names]
    write_json(tmp_path / "transforms.json", {"fl_x": 300, "w": 270, "h": 480, "frames": frames})
    monkeypatch.setattr(memory, "available", lambda device=None: 9 * 2**20)
    with pytest.raises(
        InputError, match=r"50 photos need [\d.]+ [GM]iB, and 9 MiB are available: they fit with downsc"
    ):
        load_scene(tmp_path)
    monkeypatch.setattr(memory, "available", lambda device=None: 2**20)
    with pytest.raises(InputError, match="no whole factor makes them fit"):
        memory.check_photos([(4000, 3000)] * 100, 1)
    monkeypatch.setattr(memory, "available", lambda device=None: None)  # a system that does not say
    memory.check_photos([(4000, 3000)] * 100_000, 1)
    memory.check_start(10**9, None, 3, known_scene().views)
