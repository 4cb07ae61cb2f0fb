"""The traced room: exact poses, depths and colors, the same every time."""

import numpy as np
import pytest
import torch

from hardy.errors import InputError
from hardy.splat.room import room
from hardy.zoo.traced_room import THINGS, Ball, TracedRoom


def test_distances_are_those_worked_out_by_hand() -> None:
    ball = Ball(center=(0.0, 0.0, 1.0), radius=0.5, colors=((1, 0, 0), (1, 0, 0)))
    directions = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1], [0.6, 0, -0.8]])
    _, distances = TracedRoom(things=(ball,)).trace(np.zeros((5, 3)), directions)
    assert distances == pytest.approx([2.5, 1.25, 0.5, 2.0, 2.5])
    _, past = TracedRoom(things=(ball,)).trace(np.array([[0.0, 0.6, 0]]), directions[2:3])
    assert past == pytest.approx([2.0])


def test_rays_end_on_a_wall_or_on_a_thing() -> None:
    random = np.random.default_rng(0)
    directions = random.standard_normal((2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    eye = np.array([1.9, -0.3, 0.0])
    colors, distances = TracedRoom().trace(np.broadcast_to(eye, directions.shape), directions)
    places = eye + distances[:, None] * directions
    gaps = [np.abs(np.abs(places) - TracedRoom().half).min(1)]
    for thing in THINGS:
        offset = np.abs(places - np.array(thing.center))
        if isinstance(thing, Ball):
            gaps.append(np.abs(np.linalg.norm(offset, axis=1) - thing.radius))
        else:
            gaps.append(np.abs((offset - np.array(thing.half)).max(1)))
    nearest = np.stack(gaps)
    assert nearest.min(0).max() < 1e-9
    assert len(np.unique(nearest.argmin(0))) >= 5  # most things are seen from there
    assert np.abs(places).max() <= TracedRoom().half.max() + 1e-9
    assert colors.min() >= 0
    assert colors.max() <= 1


def test_points_lie_where_the_views_show_their_color() -> None:
    scene = room(width=96, height=72, views=6, points=300, noise=0.0)
    hits = []
    for view in scene.views:
        seen = scene.points @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        pixels = (seen @ view.K.T)[:, :2] / seen[:, 2:]
        inside = (seen[:, 2] > 0.1) & (pixels >= 0).all(1) & (pixels[:, 0] < 96) & (pixels[:, 1] < 72)
        ahead = torch.nn.functional.normalize(scene.points - view.eye, dim=1).double().numpy()
        depth = TracedRoom().trace(np.broadcast_to(view.eye.double().numpy(), ahead.shape), ahead)[1]
        clear = inside & ((scene.points - view.eye).norm(dim=1) - torch.from_numpy(depth).float()).abs().lt(1e-3)
        columns, rows = pixels[clear].long().T
        hits.append((view.image[rows, columns] - scene.colors[clear]).abs().amax(1))
    errors = torch.cat(hits)
    assert len(errors) > 500  # of 300 points in 5 views
    assert errors.median() < 0.03
    assert (errors < 0.25).float().mean() > 0.95  # the rest lie on edges, where a pixel is a mean


def test_photos_do_not_depend_on_the_seed_and_points_do() -> None:
    first, again, other = (room(width=8, height=6, views=4, points=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, other.points)
    for a, b in zip(first.views, other.views, strict=True):
        assert torch.equal(a.image, b.image)
    rotations = torch.stack([view.viewmat[:3, :3] for view in first.views])
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), atol=1e-6)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(len(rotations)))


def test_held_out_views_empty_clouds_and_an_empty_room() -> None:
    scene = room(width=8, height=6, views=9, hold_out_every=4, points=0)
    assert [view.name for view in scene.held_out] == ["000.png", "004.png", "008.png"]
    assert scene.points.shape == (0, 3)
    bare = room(width=8, height=6, views=9, hold_out_every=0, things=())
    assert len(bare.views) == 9
    assert not torch.equal(bare.views[1].image, scene.views[0].image)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 1}, "got 1 x 120"),
        ({"views": 1}, "1 views"),
        ({"points": -1}, "-1 points"),
        ({"noise": float("nan")}, "noise nan"),
        ({"hold_out_every": 1}, "hold_out_every must be 0 or at least 2, got 1"),
    ],
)
def test_what_is_no_room(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        room(**wrong)  # pyright: ignore[reportArgumentType]
