"""tiny-vggt: videos that are exact and seeded, a training that goes on, and what the shipped weights reach."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hardy.errors import InputError
from hardy.zoo import tiny_vggt
from hardy.zoo.room_sequences import recolored, room_sequence
from hardy.zoo.vggt import unprojected


def test_videos_are_seeded_and_their_geometry_is_exact() -> None:
    video, again = (room_sequence("test", 3, frames=3, rays=1) for _ in range(2))
    assert torch.equal(video.images, again.images)
    assert not torch.equal(video.depth, room_sequence("test", 4, frames=3).depth)
    torch.testing.assert_close(video.viewmats[0], torch.eye(4))
    back = video.backwards()
    torch.testing.assert_close(back.viewmats[2], torch.linalg.inv(video.viewmats[2]), atol=1e-5, rtol=1e-5)
    assert torch.equal(back.depth[2], video.depth[0])
    # A point of the second frame, seen by the third, lies where the third's depth says, unless something hides it.
    points = unprojected(video.depth, video.viewmats, video.K.expand(3, 3, 3))[1].reshape(-1, 3)
    seen = points @ video.viewmats[2, :3, :3].T + video.viewmats[2, :3, 3]
    pixels = (seen @ video.K.T)[:, :2] / seen[:, 2:]
    inside = ((pixels > 0) & (pixels < torch.tensor([64.0, 48]))).all(1)
    x, y = pixels[inside].long().unbind(1)
    ratio = video.depth[2, y, x] / seen[inside, 2]
    assert inside.float().mean() > 0.5
    assert ((ratio - 1).abs() < 0.05).float().mean() > 0.8
    changed = recolored(video.images, ("a",))
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert torch.equal(changed, recolored(video.images, ("a",)))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch >= 2.9")
def test_training_goes_on_as_if_nothing_had_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FRAMES": 2, "LENGTHS": (2,)}.items():
        monkeypatch.setattr(tiny_vggt, name, value)
    monkeypatch.setattr(tiny_vggt, "validation", lambda model, count=1: {"abs_rel": 0.0, "trajectory_error": 0.0})
    whole = tiny_vggt.train(tmp_path / "whole", steps=4, validate_every=2)
    step = tiny_vggt.batch

    def stopping(seed: int, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if number == 3:
            raise KeyboardInterrupt
        return step(seed, number)

    monkeypatch.setattr(tiny_vggt, "batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        tiny_vggt.train(tmp_path / "parts", steps=4, validate_every=2)
    monkeypatch.setattr(tiny_vggt, "batch", step)
    parts = tiny_vggt.train(tmp_path / "parts", steps=4, validate_every=2)
    stored = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(stored[0][name], stored[1][name]) for name in stored[0])
    assert whole["loss_curve"][0] == parts["loss_curve"][0]
    with pytest.raises(InputError, match="already falling"):
        tiny_vggt.train(tmp_path / "parts", steps=5)
    with pytest.raises(InputError, match="steps must be an integer of at least 1"):
        tiny_vggt.train(tmp_path / "whole", steps=0)


def test_the_shipped_weights_are_what_the_card_says() -> None:
    card = tiny_vggt.card()
    held_out = card["held_out"]
    found = tiny_vggt.validation(tiny_vggt.tiny_vggt(), count=2)
    assert found["abs_rel"] == pytest.approx(held_out["abs_rel"], rel=0.5)
    assert held_out["abs_rel"] < 0.85 * held_out["constant_abs_rel"]
    assert held_out["trajectory_error"] < 0.85 * held_out["still_trajectory_error"]
    # A field of view of nothing, where its gradient ends, puts all points on one line.
    assert found["field_degrees"] < 10
    assert held_out["field_degrees"] < 1.2 * held_out["constant_field_degrees"]
