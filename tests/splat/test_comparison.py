"""Strategies compared in one report, and what became of the Gaussians."""

import math
from pathlib import Path

import pytest
import torch
from splat.scenes import known_scene

from hardy.errors import InputError
from hardy.report import Bars, Lines, Pictures, Report
from hardy.splat import evaluate, load_ply
from hardy.splat.comparison import compare
from hardy.splat.lineage import activity, ancestry, frozen_share
from hardy.splat.points import gaussians_from
from hardy.splat.strategies import global_to_local, mcmc, vanilla
from hardy.splat.training import Options, view_loss


def test_activity_is_the_mean_gradient_of_each_view_alone() -> None:
    scene = known_scene(views=5)
    parameters = gaussians_from(scene, degree=0)
    far = {name: value[:1].clone() for name, value in parameters.items()}
    far["means"] = torch.tensor([[0.0, 500.0, 0.0]])  # no view shows it
    parameters = {name: torch.cat([value, far[name]]) for name, value in parameters.items()}
    found = activity(parameters, scene)
    assert str(len(scene.points)) not in found.scores
    totals, counts = torch.zeros(len(parameters["means"])), torch.zeros(len(parameters["means"]))
    for view in scene.views:
        means = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        loss, info = view_loss(means, view, Options(), 0)
        (pixels,) = torch.autograd.grad(loss, info["means2d"])
        for i in range(len(totals)):
            if bool((info["radii"][0, i] > 0).all()):
                counts[i] += 1
                totals[i] += math.hypot(float(pixels[0, i, 0]) * 20, float(pixels[0, i, 1]) * 15)
    for i in range(len(scene.points)):
        assert found.scores[str(i)] == pytest.approx(float(totals[i] / counts[i]), rel=1e-4)
    ordered = sorted(found.scores.values())
    assert frozen_share(found, ordered[10]) == pytest.approx(10 / len(ordered))


def test_ancestry_by_kind() -> None:
    state = {
        "home": torch.zeros(4, 3),
        "splits": torch.tensor([0, 2, 1, 1]),
        "clones": torch.tensor([0, 1, 3, 1]),
    }
    means = torch.tensor([[0.0, 0, 0], [3, 4, 0], [0, 0, 2], [1, 0, 0]])
    kinds = ancestry({"means": means}, state)
    assert {kind: (found.share, found.displacement) for kind, found in kinds.items()} == {
        "as at the start": (0.25, 0.0),
        "mostly split": (0.25, 5.0),
        "mostly cloned": (0.25, 2.0),
        "both alike": (0.25, 1.0),
    }
    with pytest.raises(InputError, match="no lineage of these 5 Gaussians"):
        ancestry({"means": torch.zeros(5, 3)}, state)


def test_a_gaussian_that_nothing_shows() -> None:
    scene = known_scene(views=5)
    parameters = {name: value[:1] for name, value in gaussians_from(scene, degree=0).items()}
    parameters["means"] = torch.tensor([[0.0, 500.0, 0.0]])
    with pytest.raises(InputError, match="none of the 4 training views shows any of the 1 Gaussians"):
        activity(parameters, scene)


def test_compare_says_what_was_trained(tmp_path: Path) -> None:
    scene = known_scene()
    options = Options(steps=60, sh_degree=1, evaluate_every=20)
    strategies = {
        "vanilla": vanilla(60, cap_max=100),
        "global-to-local": global_to_local(60, cap_max=100),
        "mcmc": mcmc(60, cap_max=100),
    }
    report = compare(scene, strategies, options=options, out=tmp_path)
    curves = report.figures[0]
    assert isinstance(curves, Lines)
    for name in strategies:
        parameters = load_ply(tmp_path / name / "gaussians.ply")
        quality = evaluate(parameters, scene.held_out)
        assert report.value("PSNR", name) == pytest.approx(quality.psnr, abs=1e-4)
        assert report.value("SSIM", name) == pytest.approx(quality.ssim, abs=1e-4)
        assert report.value("Gaussians", name) == len(parameters["means"])
        reached = report.value("pairs to the final PSNR of vanilla", name)
        history = next(series for series in curves.series if series.label == name)
        assert (reached == math.inf) == (max(history.y) < report.value("PSNR", "vanilla"))
        assert 0 <= report.value("frozen Gaussians", name) <= 100
    assert math.isfinite(report.value("seconds to the final PSNR of vanilla", "vanilla"))
    assert [type(figure) for figure in report.figures] == [*[Lines] * 4, Pictures, Pictures, Lines, Bars, Bars]
    shares = report.figures[7]
    assert isinstance(shares, Bars)
    assert [series.label for series in shares.series] == ["vanilla", "global-to-local"]  # mcmc keeps no lineage
    for series in shares.series:
        assert sum(series.values) == pytest.approx(1)
    crops, errors = report.figures[4:6]
    assert isinstance(crops, Pictures)
    assert isinstance(errors, Pictures)
    assert crops.columns == ("photo", "vanilla", "global-to-local", "mcmc")
    assert crops.arrays()[0][0].shape == (15, 15, 3)
    assert errors.arrays()[0][1].shape == (30, 40, 3)
    again = compare(scene, strategies, options=options, out=tmp_path)  # finished trainings are read, not repeated
    assert again.to_json() == report.to_json()
    assert Report.from_json(report.to_json()).to_json() == report.to_json()


def test_one_strategy_is_no_comparison() -> None:
    with pytest.raises(InputError, match="at least two strategies, got vanilla"):
        compare(known_scene(views=5), {"vanilla": vanilla(10)})
