"""Errors of depths and paths, whose unit is free."""

import pytest
import torch

from hardy.errors import InputError
from hardy.evaluate import aligned, depth_errors, depth_scale, trajectory_error


def generated(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_scale_is_found_though_some_depths_are_far_off() -> None:
    target = 1 + generated(500).abs()
    estimate = target / 3
    estimate[:40] *= 2
    assert depth_scale(estimate, target) == pytest.approx(3, rel=0.01)
    assert float(target.mean() / estimate.mean()) < 2.85, "the quotient of means is off"
    exact = depth_errors(target, target)
    assert exact == {"abs_rel": 0.0, "delta": 1.0}
    off = depth_errors(torch.tensor([1.2, 1.3, 0.7]), torch.ones(3))
    assert off["abs_rel"] == pytest.approx(0.8 / 3, abs=1e-6)
    assert off["delta"] == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="shapes must be the same"):
        depth_errors(torch.ones(3), torch.ones(4))


def test_paths_are_aligned_by_rotation_shift_and_scale_but_not_mirrored() -> None:
    path = generated(30, 3)
    turn = torch.linalg.qr(generated(3, 3, seed=1))[0]
    turn = turn * torch.det(turn).sign()
    moved = 2.5 * path @ turn.T + torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(aligned(path, moved), moved.double(), atol=1e-5, rtol=1e-5)
    assert trajectory_error(path, moved) < 1e-5
    assert trajectory_error(path * torch.tensor([1.0, 1, -1]), moved) > 0.5
    still = trajectory_error(torch.zeros(30, 3), moved)
    assert still == pytest.approx(float((moved - moved.mean(0)).square().sum(1).mean().sqrt()), rel=1e-5)
