"""The quadratic and the triangle wave: shape, period, Fourier coefficients, both derivatives, memory."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.fields import quad_wave, triangle_wave

from hardy.ops.waves import fold, quad, triangle


@given(st.floats(-1000, 1000))
def test_waves_are_their_pieces(x: float) -> None:
    at = torch.tensor(x, dtype=torch.float64)
    assert quad(at).item() == pytest.approx(quad_wave(x), abs=1e-9)
    assert triangle(at).item() == pytest.approx(triangle_wave(x), abs=1e-9)
    assert abs(fold(at).item()) <= 2


@given(st.integers(-(2**18), 2**18), st.integers(-1000, 1000))
def test_period_and_oddness_are_exact_where_floats_are(numerator: int, periods: int) -> None:
    x = torch.tensor(numerator / 2**10)  # a multiple of 2^-10: float32 holds it and its sum with 4 n exactly
    for wave in (quad, triangle):
        assert wave(x + 4 * periods) == wave(x)
        assert wave(-x) == -wave(x)
        assert wave(x).abs() <= 1


def test_values_that_define_them() -> None:
    x = torch.tensor([-2.0, -1, 0, 0.5, 1, 2, 3])
    assert quad(x).tolist() == [0, -1, 0, 0.75, 1, 0, -1]
    assert triangle(x).tolist() == [0, -1, 0, 0.5, 1, 0, -1]


def test_fourier_coefficients_and_power() -> None:
    x = (torch.arange(4 * 10**5, dtype=torch.float64) + 0.5) / 10**5
    for n, expected in ((1, 1.0320), (2, 0.0), (3, 0.0382), (5, 32 / (math.pi * 5) ** 3)):
        coefficient = 2 * (quad(x) * torch.sin(math.pi / 2 * n * x)).mean()
        assert coefficient.item() == pytest.approx(expected, abs=5e-5)
    assert quad(x).square().mean().item() == pytest.approx(8 / 15, abs=1e-6)
    assert triangle(x).square().mean().item() == pytest.approx(1 / 3, abs=1e-6)


def test_first_and_second_derivative() -> None:
    # Away from multiples of 2, where the second derivative jumps.
    x = torch.tensor([-7.3, -2.6, -1.1, -0.4, 0.7, 1.9, 2.2, 5.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(quad, (x,))
    assert torch.autograd.gradgradcheck(quad, (x,))
    (slope,) = torch.autograd.grad(quad(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x)
    assert torch.equal(second, -2 * fold(x).sign())


def test_slope_is_continuous() -> None:
    x = torch.tensor([-2 - 1e-9, -2 + 1e-9, -1e-9, 1e-9, 2 - 1e-9, 2 + 1e-9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(quad(x).sum(), x)
    assert slope.tolist() == pytest.approx([-2, -2, 2, 2, -2, -2], abs=1e-8)


def test_the_backward_pass_keeps_one_tensor() -> None:
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        quad(torch.zeros(100, requires_grad=True))
    assert kept == [100]
