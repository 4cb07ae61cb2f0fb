"""Holes filled from all sides: warps and votes of views against truth, rounds that can be stopped, clear refusals."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from splat.scenes import known_scene

from hardy.errors import InputError
from hardy.splat import Scene, inpaint, rasterization, train
from hardy.splat import inpainting as module
from hardy.splat.consistency import agreement, hole_psnr, hole_ssim
from hardy.splat.filling import Rules, fill_round, pull, rim_depth
from hardy.splat.inpainters import PatchMatch
from hardy.splat.points import gaussians_from
from hardy.splat.quality import view_loss
from hardy.splat.removal import gone_of
from hardy.splat.scene import View
from hardy.splat.strategies import Box, vanilla
from hardy.splat.traced_removal import removable
from hardy.splat.training import Options, Training
from hardy.splat.view_graph import ViewGraph, covisibility, depth_tolerance, matched, visible
from hardy.splat.warping import Rendered, places, sampled, seen_from, warped

SHORT = Options(steps=60, sh_degree=0)


@pytest.fixture(scope="module")
def traced() -> Any:
    return removable("hovering", width=40, height=30, views=8, points=300)


def surfaces(traced: Any) -> list[Rendered]:
    pairs = zip(traced.truth, traced.depths, strict=True)
    return [Rendered(image=view.image, depth=depth, alpha=torch.ones_like(depth)) for view, depth in pairs]


def test_the_traced_truth_differs_in_the_holes_only(traced: Any) -> None:
    for photo, truth, hole, thing in zip(traced.scene.views, traced.truth, traced.holes, traced.things, strict=True):
        assert torch.equal(photo.image[~hole], truth.image[~hole]) or (
            (photo.image - truth.image)[~hole].abs().max() <= 0.02
        )
        assert not (thing & ~hole).any()
    assert sum(bool(hole.any()) for hole in traced.holes) >= 6


def test_points_go_to_another_view_and_back(traced: Any) -> None:
    view, depth = traced.truth[0], traced.depths[0]
    points = places(view, depth).reshape(-1, 3)
    pixels, depths = seen_from(view, points)
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([x + 0.5, y + 0.5], -1).reshape(-1, 2), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(depths, depth.reshape(-1), atol=1e-4, rtol=1e-4)
    colors, inside = sampled(view.image, pixels)
    assert inside.all()
    torch.testing.assert_close(colors, view.image.reshape(-1, 3), atol=1e-3, rtol=1e-3)
    other = seen_from(traced.truth[1], points)[0]
    assert not sampled(view.image, other)[1].all()


def test_warped_pixels_show_what_the_target_shows_unless_something_stands_before(traced: Any) -> None:
    views, depths = traced.truth, traced.depths
    graph = covisibility(views, surfaces(traced), [torch.zeros(30, 40, dtype=torch.bool)] * 8)
    other = graph.neighbours(0, 1)[0]
    made = warped(views[0], views[0].image, depths[0], torch.ones(30, 40, dtype=torch.bool), views[other])
    assert made.there.float().mean() > 0.2
    same = made.there & ((made.depth - depths[other]).abs() < 0.05 * depths[other])
    assert same.sum() > 0.7 * made.there.sum()
    assert (made.image - views[other].image)[same].abs().mean() < 0.07


def test_the_graph_knows_neighbours_anchors_and_islands() -> None:
    weights = torch.eye(5)
    for i, j, value in ((0, 1, 0.8), (1, 2, 0.5), (3, 4, 0.6)):
        weights[i, j] = weights[j, i] = value
    graph = ViewGraph(weights)
    assert graph.neighbours(1, 4) == [0, 2]
    assert graph.islands([0, 1, 2, 3, 4]) == [[0, 1, 2], [3, 4]]
    assert graph.anchor([0, 1, 2, 3, 4]) == 1
    assert graph.anchor([0, 2, 3], [1]) == 3  # the farthest
    views = known_scene().views[:2]
    assert matched(views, lambda a, b: 0.25).weights[0, 1] == 0.25
    with pytest.raises(InputError, match="a matcher must give 0 to 1, got 3"):
        matched(views, lambda a, b: 3)


def test_with_exact_depth_other_photos_give_the_hidden_pixels(traced: Any) -> None:
    seen = surfaces(traced)
    assert depth_tolerance(traced.truth, seen, traced.holes) < 0.05
    index = max(range(8), key=lambda i: int(traced.holes[i].sum()))
    fill = pull(index, traced.scene.views, traced.holes, seen, Rules(), 0.03)
    hole = traced.holes[index]
    truth = traced.truth[index].image
    assert fill.pulled.sum() > 0.3 * hole.sum()
    right = (fill.image - truth)[fill.pulled].square().mean()
    assert right < 0.2 * (traced.scene.views[index].image - truth)[fill.pulled].square().mean()
    assert torch.equal(fill.image[~hole], traced.scene.views[index].image[~hole])
    assert not pull(index, traced.scene.views, traced.holes, seen, Rules(pulled=0), 0.03).pulled.any()
    points = places(traced.truth[index], traced.depths[index])[hole]
    assert not visible(points, traced.truth[index], seen[index], ~hole).any()  # nobody is seen through a hole


def test_depth_goes_on_as_a_plane_in_a_hole() -> None:
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    depth = 1 / (0.2 + 0.004 * x + 0.002 * y)
    hole = torch.zeros(20, 24, dtype=torch.bool)
    hole[6:14, 8:18] = True
    seen = Rendered(image=torch.zeros(20, 24, 3), depth=torch.where(hole, 0.3, depth), alpha=torch.ones(20, 24))
    torch.testing.assert_close(rim_depth(seen, hole), depth, atol=1e-4, rtol=1e-4)


def test_propagated_fills_agree_and_those_of_single_photos_do_not(traced: Any) -> None:
    seen = surfaces(traced)
    graph = covisibility(traced.scene.views, seen, traced.holes)
    arguments: tuple[Any, ...] = (traced.scene.views, traced.holes, seen, graph, PatchMatch(rounds=2))
    whole = fill_round(*arguments, Rules(pulled=0, candidates=1), 0.5, 0)
    alone = fill_round(*arguments, Rules(pulled=0, candidates=1, neighbours=0, accept=0), 0.0, 0)

    def agreed(fills: Any) -> float:
        return agreement([fill.image for fill in fills], traced.truth, traced.depths, traced.holes)

    assert agreed(whole) > agreed(alone) + 2
    assert any(fill.anchor for fill in whole)
    for fill, hole in zip(whole, traced.holes, strict=True):
        assert not (fill.weight > 0)[~hole].any()
        assert fill.accepted or not (fill.weight > 0).any()


def test_an_inpainter_that_breaks_the_form_is_named(traced: Any) -> None:
    seen = surfaces(traced)
    graph = covisibility(traced.scene.views, seen, traced.holes)

    def run(inpainter: Any) -> None:
        fill_round(traced.scene.views, traced.holes, seen, graph, inpainter, Rules(pulled=0), 0.5, 0)

    with pytest.raises(InputError, match="changed pixels outside of the hole"):
        run(lambda image, hole, **_: [image * 0.5])
    with pytest.raises(InputError, match="gave no candidate"):
        run(lambda image, hole, **_: [])
    with pytest.raises(InputError, match="gave .5, 5, 3. for an image"):
        run(lambda image, hole, **_: [image[:5, :5]])


def settings(**changes: Any) -> dict[str, Any]:
    made = {
        "rounds": 2,
        "steps": 40,
        "round_steps": 15,
        "growth": 0,
        "options": SHORT,
        "inpainter": PatchMatch(rounds=1),
    }
    return made | {"rules": Rules(candidates=2)} | changes


def test_rounds_end_the_same_wherever_they_were_stopped(
    traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = inpaint(traced.scene, traced.holes, out=tmp_path / "whole", **settings())
    count, real = 0, module.fill_round

    def stopped(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "fill_round", stopped)
    with pytest.raises(KeyboardInterrupt):
        inpaint(traced.scene, traced.holes, out=tmp_path / "parts", **settings())
    monkeypatch.setattr(module, "fill_round", real)
    again = inpaint(traced.scene, traced.holes, out=tmp_path / "parts", **settings())
    for name, tensor in whole.training.parameters.items():
        assert torch.equal(tensor, again.training.parameters[name]), name
    assert {path.name for path in (tmp_path / "whole").iterdir()} >= {"gaussians.ply", "photos", "round-1", "round-2"}
    assert len(list((tmp_path / "whole" / "photos").iterdir())) == 8
    assert whole.rounds[0]["pulled"] == again.rounds[0]["pulled"]
    from hardy.splat.inpainting_report import report_of

    report = report_of(whole, traced.scene, inpainter="patchmatch", truth=traced.truth)
    assert report.value("hole PSNR", "renderings") > 5
    assert "anchor" in report.to_html()
    assert report.value("Gaussians", "removed") == whole.gone


def test_it_begins_with_trained_gaussians_or_a_training(traced: Any) -> None:
    ply = gaussians_from(traced.scene, 0)
    found = inpaint(traced.scene, traced.holes, start=ply, **settings(rounds=1))
    assert len(found.training.parameters["means"]) > 0
    options = dataclasses.replace(SHORT, steps=55)
    base = train(traced.scene, vanilla(40), options=options, until=40)
    left = gone_of(base.parameters, traced.scene.views, traced.holes)
    assert left.gone.any()
    kept = module._left(base, ~left.gone)
    for tensors in (kept.parameters, *kept.moments.values()):
        assert {len(each) for each in tensors.values() if each.ndim} == {int((~left.gone).sum())}
    masked = inpaint(traced.scene, traced.holes, before="masked", **settings(rounds=1))
    assert masked.training.step == 55
    with pytest.raises(InputError, match="before must be"):
        inpaint(traced.scene, traced.holes, before="never", **settings())  # pyright: ignore[reportArgumentType]
    assert inpaint(traced.scene, traced.holes, start=base, **settings(rounds=1)).training.step == 55
    with pytest.raises(InputError, match="has 40 steps, not the 30 asked for"):
        inpaint(traced.scene, traced.holes, start=base, **settings(steps=30))


def test_a_shadow_is_filled_and_its_surface_stays(traced: Any) -> None:
    assert all(torch.equal(a | b, c) for a, b, c in zip(traced.masks, traced.shadows, traced.holes, strict=True))
    options = dataclasses.replace(SHORT, steps=75)
    base = train(traced.scene, vanilla(60), options=options, until=60)
    going = gone_of(base.parameters, traced.scene.views, traced.masks).gone
    everything = gone_of(base.parameters, traced.scene.views, traced.holes).gone
    assert 0 < going.sum() < everything.sum()
    lengths = []
    for masks, shadows in ((traced.masks, traced.shadows), (traced.holes, None)):
        changes = settings(steps=60, rounds=1, inpainter=None)
        found = inpaint(traced.scene, masks, shadows=shadows, start=base, **changes)
        assert all(torch.equal(a, b) for a, b in zip(found.holes, traced.holes, strict=True))
        lengths.append(len(found.training.parameters["means"]))
        assert found.gone == int((going if shadows is not None else everything).sum())
    assert lengths[0] - lengths[1] >= int(everything.sum() - going.sum()) // 2
    none = [torch.zeros_like(hole) for hole in traced.holes]
    assert inpaint(traced.scene, traced.holes, shadows=none, start=base, **settings(steps=60, rounds=1)).fills
    every = [hole | (torch.arange(40) == 20)[None] for hole in traced.holes]
    with pytest.raises(InputError, match="grown by 30 pixels, the masks of all 8 views cover everything"):
        inpaint(traced.scene, every, **settings(growth=30))


def test_what_cannot_be_inpainted_is_refused(traced: Any) -> None:
    scene, holes = traced.scene, traced.holes
    with pytest.raises(InputError, match="a scene of one view has no others"):
        inpaint(
            dataclasses.replace(scene, views=scene.views[:1]), holes[:1] if holes[0].any() else holes[1:2], **settings()
        )
    apart = lambda views, seen, holes: ViewGraph(torch.eye(len(views)))  # noqa: E731
    with pytest.raises(InputError, match=r"fall apart into \d groups that see nothing in common: 0"):
        inpaint(scene, holes, grapher=apart, **settings(steps=2))
    everyone = [torch.ones(30, 40, dtype=torch.bool) for _ in holes]
    for hole in everyone:
        hole[:2] = False
    alone = Rules(pulled=100, neighbours=0)
    with (
        pytest.raises(InputError, match="no other photo shows any of the .* choose an inpainter"),
        pytest.warns(UserWarning, match="cover more"),
    ):
        inpaint(scene, everyone, before="masked", **settings(inpainter=None, rules=alone, steps=2))
    for wrong in ({"pulled": -1}, {"accept": 2}, {"candidates": 0}, {"trust": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Rules(**wrong)  # pyright: ignore[reportArgumentType]


def test_figures_of_holes() -> None:
    view = known_scene().views[0]
    hole = torch.zeros(30, 40, dtype=torch.bool)
    hole[5:20, 5:25] = True
    wrong = view.image.clone()
    wrong[hole] += 0.1
    assert hole_psnr([wrong], [view], [hole]) == pytest.approx(20, abs=0.01)
    assert hole_ssim([view.image], [view], [hole]) == pytest.approx(1)
    assert math.isnan(hole_psnr([wrong], [view], [~hole & hole]))


def test_a_pixel_of_weight_zero_has_no_say_and_one_half_has_half() -> None:
    scene = known_scene()
    params = {name: tensor.requires_grad_() for name, tensor in gaussians_from(scene, 0).items()}
    view = scene.views[0]
    half = torch.arange(40).expand(30, 40) < 20
    options = Options(ssim_lambda=0)

    def loss(**changes: Any) -> float:
        return view_loss(params, dataclasses.replace(view, **changes), options, 0)[0].item()

    full = loss()
    assert loss(weight=torch.full((30, 40), 0.5)) == pytest.approx(full / 2, rel=1e-5)
    assert loss(weight=half.float()) + loss(weight=(~half).float()) == pytest.approx(full, rel=1e-5)
    noise = torch.where(half[..., None], view.image, torch.rand(30, 40, 3))
    assert loss(weight=half.float(), image=noise) == pytest.approx(loss(weight=half.float()), rel=1e-5)


def test_depth_pulls_gaussians_to_it() -> None:
    scene = known_scene()
    params = {name: tensor.requires_grad_() for name, tensor in gaussians_from(scene, 0).items()}
    view = scene.views[0]
    shape: Any = {"sh_degree": 0, "render_mode": "RGB+ED"}
    image = rasterization(
        params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(), params["sh0"],
        view.viewmat[None], view.K[None], 40, 30, **shape,
    )[0][0]  # fmt: skip
    depth = image[..., 3].detach()
    right = dataclasses.replace(view, depth=depth)
    far = dataclasses.replace(view, depth=depth * 1.5)
    nowhere = dataclasses.replace(view, depth=torch.zeros(30, 40))
    losses = [view_loss(params, each, Options(), 0)[0].item() for each in (view, nowhere, right, far)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)
    assert losses[3] > losses[0] + 0.01
    view_loss(params, far, Options(), 0)[0].backward()
    assert params["means"].grad is not None
    assert params["means"].grad.abs().max() > 0
    smaller = far.smaller(2)
    assert smaller.depth is not None
    assert smaller.depth.shape == (15, 20)


def test_gaussians_multiply_in_the_region_only() -> None:
    scene = known_scene(views=20, size=(64, 48))
    options = Options(steps=200, sh_degree=0)
    box = Box(corner=(0.0, -9.0, -9.0), opposite=(9.0, 9.0, 9.0))
    found = train(scene, vanilla(200, region=box, prune=vanilla(1).prune), options=options)
    multiplied = (found.state["splits"] + found.state["clones"]) > 0
    assert multiplied.any()
    assert (found.state["home"][multiplied][:, 0] > -0.5).all()
    everywhere = train(scene, vanilla(200), options=options)
    assert (everywhere.state["home"][everywhere.state["splits"] + everywhere.state["clones"] > 0][:, 0] < -0.5).any()


def test_a_training_goes_on_from_another_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    scene, options = known_scene(), Options(steps=60, sh_degree=1)
    whole = train(scene, options=options)
    half = train(scene, options=options, until=30, out=tmp_path / "half")
    assert half.step == 30
    for start in (half, tmp_path / "half", Training.load(tmp_path / "half")):
        rest = train(scene, options=options, start=start)
        for name, tensor in whole.parameters.items():
            assert torch.equal(tensor, rest.parameters[name]), name
        assert rest.pairs == whole.pairs
    other = Scene(views=tuple(dataclasses.replace(view, image=1 - view.image) for view in scene.views))
    assert train(other, options=options, start=half).step == 60  # on other photos
    longer = train(scene, options=Options(steps=90, sh_degree=1), start=whole, out=tmp_path / "longer")
    assert longer.step == 90
    with pytest.raises(InputError, match="has 60 steps, more than the 40"):
        train(scene, options=Options(steps=40), start=whole)
    with pytest.raises(InputError, match="holds no training"):
        Training.load(tmp_path)


def test_a_loss_of_ones_own() -> None:
    seen = []

    def loss(params: Any, view: View, options: Options, degree: int) -> Any:
        seen.append(view.name)
        value, info = view_loss(params, view, options, degree)
        return 2 * value, info

    train(known_scene(), options=Options(steps=5, sh_degree=0), loss=loss)
    assert len(seen) == 5
