"""Integer waves, exhaustively over a period and far outside it; rescaling against fractions."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.hadamard import quad_code, sine_code

from hardy.core import InputError
from hardy.ops.fixed_point import (
    divide,
    multiplier,
    quad_quarter,
    rescale,
    sine_quarter_table,
    triangle_quarter,
    wave,
)
from hardy.ops.waves import quad, triangle

F = 12
PERIOD = torch.arange(2 ** (F + 2))


def quad_wave(phase: torch.Tensor) -> torch.Tensor:
    return wave(phase, F, lambda d: quad_quarter(d, F))


def test_quad_over_all_phases() -> None:
    codes = quad_wave(PERIOD)
    assert codes.tolist() == [quad_code(p, F) for p in PERIOD.tolist()]
    exact = quad(PERIOD.double() / 2**F) * 2**F
    assert (codes - exact).abs().max() <= 0.5


def test_sine_and_triangle_over_all_phases() -> None:
    table = sine_quarter_table(F)
    assert wave(PERIOD, F, lambda d: table[d]).tolist() == [sine_code(p, F) for p in PERIOD.tolist()]
    assert torch.equal(wave(PERIOD, F, lambda d: triangle_quarter(d, F)).double(), triangle(PERIOD / 2.0**F) * 2**F)


@given(st.integers(-(2**62), 2**62))
def test_phases_wrap_around_exactly(phase: int) -> None:
    assert quad_wave(torch.tensor([phase])).item() == quad_code(phase, F)


@pytest.mark.parametrize("bits", range(4, 16))
def test_sine_tables_do_not_depend_on_the_last_bit_of_a_cosine(bits: int) -> None:
    one = 1 << bits
    inner = range(1, one)  # cos is exact at both ends
    assert min(abs((one * math.cos(math.pi / 2 * i / one)) % 1 - 0.5) for i in inner) > 1e-9


@given(st.floats(1e-9, 1e6), st.integers(-(2**30), 2**30))
def test_rescaling_is_the_fraction_rounded_half_up(factor: float, x: int) -> None:
    m, shift = multiplier(factor)
    assert m.bit_length() in (23, 24)
    assert abs(Fraction(m, 2**shift) / Fraction(factor) - 1) <= Fraction(1, 2**23)
    expected = math.floor(Fraction(x * m, 2**shift) + Fraction(1, 2))
    assert rescale(torch.tensor([x]), m, shift).item() == expected
    assert rescale(torch.tensor([x]), torch.tensor([m]), torch.tensor([shift])).item() == expected


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**16))
def test_division_rounds_half_up(x: int, by: int) -> None:
    assert divide(torch.tensor([x]), by).item() == math.floor(Fraction(x, by) + Fraction(1, 2))


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 2.0**22, -1.0])
def test_factors_out_of_range_are_refused(factor: float) -> None:
    with pytest.raises(InputError, match="a factor from 0 to"):
        multiplier(factor)


def test_zero_is_a_factor() -> None:
    assert rescale(torch.tensor([7]), *multiplier(0.0)).item() == 0
    assert multiplier(2.0**-39) == (2**22, 61)
    assert multiplier(2.0**-50) == (2**12, 62)
