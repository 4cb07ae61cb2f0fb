"""Training: it gets closer, it goes on where it stopped, and it refuses what it cannot train."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from splat.scenes import known_scene

from hardy.errors import InputError
from hardy.splat import evaluate, load_ply, strategies, train
from hardy.splat import training as module
from hardy.splat.points import gaussians_from
from hardy.splat.training import Options

SHORT = Options(steps=120, sh_degree=1, save_every=25)


def same(a: Any, b: Any) -> None:
    assert a.parameters.keys() == b.parameters.keys()
    for name, tensor in a.parameters.items():
        assert torch.equal(tensor, b.parameters[name]), name


@pytest.mark.parametrize("preset", ["vanilla", "absgs", "pixelgs", "mcmc", "global_to_local_reactivate"])
def test_gets_closer_to_views_that_it_has_not_seen(preset: str) -> None:
    scene = known_scene(views=20, size=(64, 48) if "global" not in preset else (100, 96))
    options = Options(steps=200, sh_degree=1)
    start = evaluate(gaussians_from(scene, 1), scene.held_out)
    found = train(scene, getattr(strategies, preset)(200, cap_max=300), options=options)
    last = found.history[-1]
    assert last["psnr"] > start.psnr + (1 if "global" in preset else 2)  # at full size only at the end
    assert last["psnr"] == evaluate(found.parameters, scene.held_out, options).psnr
    assert last["ssim"] > start.ssim
    assert last["gaussians"] == len(found.parameters["means"]) != 60
    assert 60 < last["gaussians"] <= 300
    assert preset == "mcmc" or len(found.state["origin"]) == last["gaussians"]


def test_random_points_where_the_scene_has_none() -> None:
    scene = known_scene(points=False)
    options = dataclasses.replace(SHORT, random_points=400)
    start = evaluate(gaussians_from(scene, 1, 400), scene.held_out)
    assert train(scene, options=options).history[-1]["psnr"] > start.psnr + 3


def test_same_seed_same_result_and_looking_changes_nothing() -> None:
    scene = known_scene()
    first = train(scene, options=SHORT)
    same(first, train(scene, options=dataclasses.replace(SHORT, evaluate_every=7)))
    other = train(scene, options=dataclasses.replace(SHORT, seed=1))
    assert not torch.equal(first.parameters["sh0"][:5], other.parameters["sh0"][:5])


@pytest.mark.parametrize(("stop", "preset"), [(61, "mcmc"), (61, ""), (119, "")])
def test_killed_anywhere_it_ends_at_the_same_result(
    stop: int, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = known_scene(size=(48, 36) if preset else (100, 96))
    strategy: Any = strategies.global_to_local_reactivate(120, cap_max=150, needles_every=40)
    if preset == "mcmc":
        strategy = strategies.mcmc(120, cap_max=150)
    unbroken = train(scene, strategy, options=SHORT)
    assert len(unbroken.parameters["means"]) != 60  # it has densified
    whole, count = module._step, 0

    def killed(*arguments: Any) -> int:
        nonlocal count
        count += 1
        if count > stop:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(module, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(scene, strategy, options=SHORT, out=tmp_path)
    monkeypatch.setattr(module, "_step", whole)
    resumed = train(scene, strategy, options=SHORT, out=tmp_path)
    same(unbroken, resumed)
    assert [row["psnr"] for row in resumed.history] == [row["psnr"] for row in unbroken.history]
    assert resumed.history[-1]["pairs"] == unbroken.history[-1]["pairs"]
    for name, tensor in load_ply(tmp_path / "gaussians.ply").items():
        assert torch.equal(tensor, unbroken.parameters[name])
    monkeypatch.setattr(module, "_step", None)  # finished: there is nothing left to do
    same(unbroken, train(scene, strategy, options=SHORT, out=tmp_path))


def test_a_folder_of_another_training_is_refused_and_left_alone(tmp_path: Path) -> None:
    scene = known_scene()
    options = dataclasses.replace(SHORT, steps=5)
    train(scene, options=options, out=tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    for name, there, here in (("seed", 0, 3), ("steps", 5, 9)):
        changed = dataclasses.replace(options, **{name: here})
        with pytest.raises(
            InputError, match=rf"another training of Gaussians: options.{name} is {there} there, {here}"
        ):
            train(scene, strategies.vanilla(5), options=changed, out=tmp_path)
    with pytest.raises(InputError, match="another training of Gaussians: scene is"):
        train(known_scene(seed=1), options=options, start=gaussians_from(scene, 1), out=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    (tmp_path / "checkpoint.safetensors").write_bytes(before[:-7])
    with pytest.raises(InputError, match="is damaged"):
        train(scene, options=options, out=tmp_path)


def test_starts_from_a_ply_within_a_budget(tmp_path: Path) -> None:
    scene = known_scene()
    first = train(scene, strategies.vanilla(120, cap_max=65), options=SHORT, out=tmp_path)
    reached = first.history[-1]["psnr"]
    more = dataclasses.replace(SHORT, steps=40, sh_degree=2, sh_degree_interval=1)
    strategy = strategies.vanilla(40, cap_max=70, reset_every=0)
    again = train(scene, strategy, options=more, start=tmp_path / "gaussians.ply")
    assert again.history[-1]["psnr"] > reached
    assert again.parameters["shN"].shape[1:] == (8, 3)
    assert len(again.parameters["means"]) <= 70
    with pytest.raises(InputError, match=r"starts with \d+ Gaussians, which is above the budget of 5"):
        train(scene, strategies.vanilla(40, cap_max=5), options=more, start=tmp_path / "gaussians.ply")


def test_masked_pixels_teach_nothing() -> None:
    scene = known_scene()
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[:, :20] = True

    def spoiled(value: float) -> Any:
        views = []
        for view in scene.views:
            image = view.image.clone()
            image[~mask] = value
            views.append(dataclasses.replace(view, image=image, mask=mask))
        return dataclasses.replace(scene, views=tuple(views))

    options = dataclasses.replace(SHORT, steps=20)
    same(train(spoiled(0.0), options=options), train(spoiled(1.0), options=options))


def test_one_view() -> None:
    scene = known_scene()
    alone = dataclasses.replace(scene, views=scene.views[:1], held_out=())
    assert alone.extent == 1.0
    assert train(alone, options=SHORT).history[-1]["psnr"] > evaluate(gaussians_from(alone, 1), alone.views).psnr + 3


def test_one_view_and_no_points() -> None:
    scene = known_scene(points=False)
    alone = dataclasses.replace(scene, views=scene.views[:1], held_out=())
    options = dataclasses.replace(SHORT, random_points=300)
    start = evaluate(gaussians_from(alone, 1, 300), alone.views)
    assert train(alone, options=options).history[-1]["psnr"] > start.psnr + 3


def test_refuses_gaussians_to_start_from_that_are_none() -> None:
    scene = known_scene()

    def changed(name: str, value: Any) -> dict[str, torch.Tensor]:
        made = gaussians_from(scene, 1)
        made[name] = value(made[name].clone())
        return made

    def put(number: float) -> Any:
        return lambda tensor: tensor.index_fill(0, torch.tensor([2]), number)

    for wrong, message in (
        (changed("means", put(torch.inf)), "start from: 3 values of means are not finite"),
        (changed("scales", put(torch.nan)), "start from: 3 values of scales are not finite"),
        (changed("scales", put(-torch.inf)), "start from: 3 values of scales are not finite"),
        (changed("scales", put(-150)), "the scales of Gaussian 2 are e to the -150, -150, -150, which is zero or inf"),
        (changed("quats", put(0)), "the quaternion of Gaussian 2 is zero"),
        (changed("means", lambda tensor: tensor[:, :2]), r"means must have the shape \(60, 3\), got \(60, 2\)"),
        (changed("opacities", lambda tensor: tensor[:9]), r"opacities must have the shape \(60,\), got \(9,\)"),
        (
            changed("shN", lambda tensor: tensor[:, 0]),
            r"shN must have the shape \(60, 0, 3, 8 or 15, 3\), got \(6",
        ),
    ):
        with pytest.raises(InputError, match=message):
            train(scene, options=SHORT, start=wrong)


def test_refuses_what_it_cannot_train() -> None:
    scene = known_scene()
    behind = dataclasses.replace(
        scene, points=scene.points + torch.tensor([0.0, 50, 0]), views=scene.views[:1], held_out=()
    )
    turned = behind.views[0].viewmat.clone()
    turned[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    turned[:3, 3] = 0
    upward = dataclasses.replace(behind, views=(dataclasses.replace(behind.views[0], viewmat=turned),))
    with pytest.raises(InputError, match="all 60 points lie behind all 1 cameras"):
        train(upward, options=SHORT)
    far = gaussians_from(scene)
    far["means"] += torch.tensor([0.0, 50, 0])
    with pytest.raises(InputError, match="all 60 points lie behind all 1 cameras"):
        train(upward, options=SHORT, start=far)
    with pytest.raises(InputError, match="lack quats"):
        train(scene, start={k: v for k, v in gaussians_from(scene).items() if k != "quats"}, options=SHORT)
    with pytest.raises(InputError, match="no Gaussians to start from"):
        train(scene, start={k: v[:0] for k, v in gaussians_from(scene).items()}, options=SHORT)
    with pytest.raises(InputError, match="needs at least one view"):
        evaluate(gaussians_from(scene), ())
    for wrong, message in (
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"sh_degree": 4}, "sh_degree must be an integer from 0 to 3, got 4"),
        ({"ssim_lambda": 2.0}, "ssim_lambda must be a finite number from 0 to 1, got 2.0"),
        ({"rasterize_mode": "x"}, "classic or antialiased, got 'x'"),
    ):
        with pytest.raises(InputError, match=message):
            Options(**wrong)
    broken = dataclasses.replace(scene.views[0], image=torch.full_like(scene.views[0].image, torch.nan))
    with pytest.raises(InputError, match=r"the image of view 01.png holds values that are not finite"):
        dataclasses.replace(scene, views=(broken,))
