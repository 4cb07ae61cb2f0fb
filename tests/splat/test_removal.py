"""Votes by mask are exact blending weights, what went is what had to, and what cannot be is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch
from splat.scenes import known_scene

from hardy.errors import InputError
from hardy.splat import remove
from hardy.splat.masks import check_holes, differing, grown, png_names, save_masks, shrunk
from hardy.splat.points import gaussians_from
from hardy.splat.quality import render_view
from hardy.splat.removal import holes_of, in_hull, votes
from hardy.splat.scene import Scene
from hardy.splat.strategies import Box, Near


def opaque_ball(scene: Scene, radius: float = 0.4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Opaque Gaussians that fill a ball, before others far behind."""
    random = torch.Generator().manual_seed(seed)
    inside = torch.nn.functional.normalize(torch.randn(300, 3, generator=random), dim=1)
    inside *= radius * torch.rand(300, 1, generator=random) ** (1 / 3)
    behind = torch.nn.functional.normalize(torch.randn(200, 3, generator=random), dim=1) * 2.2
    count = 500
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    return {
        "means": torch.cat([inside, behind]),
        "scales": torch.full((count, 3), 0.08).log(),
        "quats": quats,
        "opacities": torch.full((count,), 0.98).logit(),
        "sh0": torch.randn(count, 1, 3, generator=random),
        "shN": torch.zeros(count, 0, 3),
    }


def test_votes_are_the_weights_inside_of_the_mask() -> None:
    scene = known_scene()
    parameters = gaussians_from(scene, 0)
    everywhere = [torch.ones(30, 40, dtype=torch.bool) for _ in scene.views]
    found = votes(parameters, scene.views, everywhere)
    torch.testing.assert_close(found.inside, found.total)
    total = sum(render_view(parameters, view)[2]["weights"][0].sum() for view in scene.views)
    torch.testing.assert_close(found.total.sum(), torch.as_tensor(total))
    left = [torch.arange(40).expand(30, 40) < 20 for _ in scene.views]
    right = [~mask for mask in left]
    halves = votes(parameters, scene.views, left).inside + votes(parameters, scene.views, right).inside
    torch.testing.assert_close(halves, found.total)
    # A third of each pixel is a third of the weight.
    thirds = votes(parameters, scene.views, [torch.full((30, 40), 1 / 3) for _ in scene.views])
    torch.testing.assert_close(thirds.inside, found.total / 3)


def test_the_inside_of_an_opaque_thing_goes_with_it_and_what_is_behind_stays() -> None:
    scene = known_scene(views=12)
    parameters = opaque_ball(scene)
    ball = torch.arange(500) < 300
    masks = holes_of(parameters, ball, scene.views, 0.5)
    hidden = votes(parameters, scene.views, masks).total[ball] < 1e-3
    assert hidden.any()  # some that no view sees
    found = remove(parameters, scene.views, masks, growth=1)
    assert found.unseen > 0
    assert found.gone[ball].float().mean() > 0.97
    assert found.gone[~ball].float().mean() < 0.05
    assert len(found.parameters["means"]) == int((~found.gone).sum())
    assert torch.equal(found.parameters["sh0"], parameters["sh0"][~found.gone])


def test_a_box_takes_what_lies_in_it() -> None:
    parameters = gaussians_from(known_scene(), 0)
    box = Box(corner=(0.0, -9.0, -9.0), opposite=(9.0, 9.0, 9.0))
    found = remove(parameters, region=box)
    assert torch.equal(found.gone, parameters["means"][:, 0] >= 0)
    assert torch.equal(remove(parameters, region=Box(corner=box.opposite, opposite=box.corner)).gone, found.gone)
    with pytest.raises(InputError, match="none of the 60 Gaussians lies in that region"):
        remove(parameters, region=Box(corner=(50, 50, 50), opposite=(60, 60, 60)))
    with pytest.raises(InputError, match="holds all 60 Gaussians"):
        remove(parameters, region=Box(corner=(-50, -50, -50), opposite=(60, 60, 60)))
    with pytest.raises(InputError, match="no extent along y"):
        Box(corner=(0, 1, 0), opposite=(1, 1, 1))
    near = Near(torch.zeros(1, 3), 0.5)
    assert torch.equal(near.contains(parameters["means"]), parameters["means"].norm(dim=1) <= 0.5)


def test_masks_that_cannot_be_are_refused_and_large_ones_draw_a_warning() -> None:
    scene = known_scene()
    none = [torch.zeros(30, 40, dtype=torch.bool) for _ in scene.views]
    with pytest.raises(InputError, match="masks of all 8 views are empty"):
        check_holes(none, scene.views)
    with pytest.raises(InputError, match="cover everything"):
        check_holes([~mask for mask in none], scene.views)
    with pytest.raises(InputError, match="7 for 8"):
        check_holes(none[1:], scene.views)
    with pytest.raises(InputError, match="mask of 01.png is 40 x 20"):
        check_holes([mask[:20] for mask in none], scene.views)
    mostly = [mask.clone() for mask in none]
    mostly[3][:29] = True
    with pytest.warns(UserWarning, match="1 of 8 masks cover more than 90%.*white is what is to go"):
        check_holes(mostly, scene.views)
    with pytest.raises(InputError, match="either masks with their views or a region"):
        remove(gaussians_from(scene, 0))


def test_masks_grow_as_discs_and_shrink_back() -> None:
    mask = torch.zeros(21, 21, dtype=torch.bool)
    mask[10, 10] = True
    disc = grown(mask, 4)
    y, x = disc.nonzero().T - 10
    assert int((y * y + x * x).max()) <= 4.5**2
    assert disc[10, 14]
    assert not disc[10, 15]
    assert not disc[14, 14]
    assert torch.equal(shrunk(disc, 4), mask)
    edge = torch.ones(5, 5, dtype=torch.bool)
    assert torch.equal(shrunk(edge, 2), edge)  # the border of the image is no edge
    first, second = torch.zeros(9, 9, 3), torch.zeros(9, 9, 3)
    second[4, 4, 1] = 0.5
    assert torch.equal(differing(first, second, growth=0).nonzero(), torch.tensor([[4, 4]]))


def test_files_of_photos_do_not_meet(tmp_path: Path) -> None:
    view = known_scene().views[0]
    views = [dataclasses.replace(view, name=name) for name in ("a.jpg", "a.png", "B.png", "b.png", "sub/c.jpg")]
    assert png_names(views) == ["a.jpg.png", "a.png.png", "B.png.png", "b.png.png", str(Path("sub/c.png"))]
    save_masks([torch.zeros(3, 4, dtype=torch.bool)] * 5, views, tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 5


def test_flat_hulls_hold_nothing() -> None:
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    assert not in_hull(points * torch.tensor([1, 1, 0]), points).any()
    assert not in_hull(points[:2], points).any()
    assert in_hull(points, points.mean(0, keepdim=True)).all()


def test_remove_writes_a_ply_or_a_folder(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hardy.cli.main import app
    from hardy.splat import load_ply, save_ply

    save_ply(gaussians_from(known_scene(), 0), tmp_path / "all.ply")
    words = ["splat", "remove", "none", str(tmp_path / "all.ply")]
    box = ["--box", "0", "-9", "-9", "9", "9", "9"]
    made = CliRunner().invoke(app, [*words, str(tmp_path / "left.ply"), *box])
    assert made.exit_code == 0, made.output
    assert (load_ply(tmp_path / "left.ply")["means"][:, 0] < 0).all()
    made = CliRunner().invoke(app, [*words, str(tmp_path / "out"), *box])
    assert made.exit_code == 0, made.output
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"gaussians.ply", "report.json", "report.html"}
    assert CliRunner().invoke(app, [*words, str(tmp_path / "out")]).exit_code != 0
