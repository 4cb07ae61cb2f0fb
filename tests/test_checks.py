"""Checks name the thing, its value and what is accepted, and give back Python's own values."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from hardy import checks
from hardy.errors import InputError


@pytest.mark.parametrize(
    "value", [1, 1.0, np.float32(1), np.int64(1), np.array(1.0), torch.tensor(1), torch.tensor(1.0)]
)
def test_a_number_of_any_library_is_a_float(value: Any) -> None:
    result = checks.number("p", value, at_least=0, at_most=1)
    assert type(result) is float
    assert result == 1


@pytest.mark.parametrize("value", [True, "1", None, math.nan, -math.inf, 1j, [1.0], np.ones(1), torch.ones(1)])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=f"^p must be a finite number, got {re.escape(repr(value))}$"):
        checks.number("p", value)
    with pytest.raises(InputError, match="float64"):
        checks.number("p", 10**400)


@pytest.mark.parametrize(
    ("bounds", "wrong", "message"),
    [
        ({"at_least": 0}, -0.5, "p must be a finite number of at least 0, got -0.5"),
        ({"above": 0}, 0, "p must be a finite number above 0, got 0"),
        ({"at_least": 0, "at_most": 1}, 1.5, "p must be a finite number from 0 to 1, got 1.5"),
        ({"above": 0, "below": 1}, 1.0, "p must be a finite number above 0 and below 1, got 1.0"),
        ({"at_least": 0, "below": 0.5}, 0.5, "p must be a finite number of at least 0 and below 0.5, got 0.5"),
        ({"at_most": 2}, 3, "p must be a finite number of at most 2, got 3"),
    ],
)
def test_bounds_are_named(bounds: dict[str, float], wrong: float, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        checks.number("p", wrong, **bounds)


def test_integers() -> None:
    for value in (3, np.int8(3), np.array(3), torch.tensor(3)):
        result = checks.integer("n", value, at_least=1, at_most=3)
        assert type(result) is int
        assert result == 3
    for value in (True, 3.0, np.float64(3), "3", None, torch.ones(2, dtype=torch.int64), 0, 4):
        with pytest.raises(InputError, match=r"^n must be an integer from 1 to 3, got "):
            checks.integer("n", value, at_least=1, at_most=3)


def test_choices_have_near_misses() -> None:
    assert checks.one_of("mode", "RGB", ("RGB", "D")) == "RGB"
    assert type(checks.one_of("mode", np.str_("D"), ("RGB", "D"))) is str
    assert type(checks.one_of("planes", np.int64(2), (1, 2, 3))) is int
    assert checks.one_of("fraction", 2, (0.2, 2.0)) == 2.0
    assert checks.one_of("none", None, (None, "a")) is None
    with pytest.raises(InputError, match=r"^mode must be rgb, depth or both, got 'dept'; did you mean depth\?$"):
        checks.one_of("mode", "dept", ("rgb", "depth", "both"))
    for value in (True, 2.0, "2", torch.ones(3), [1], None):
        with pytest.raises(InputError, match="^planes must be 1, 2 or 3, got "):
            checks.one_of("planes", value, (1, 2, 3))
    assert checks.listed(["a"]) == "a"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_tensors_that_are_finite_pass_and_others_are_counted(dtype: torch.dtype) -> None:
    values = torch.ones(3, 4).to(dtype)
    assert checks.finite("weight", values) is values
    huge = values * (torch.finfo(dtype).max if dtype.is_floating_point else 3e38)
    assert checks.finite("weight", huge) is huge  # whose sum is not
    for wrong in (math.nan, math.inf, -math.inf):
        bad = values.clone()
        bad[1, 2:] = wrong
        with pytest.raises(InputError, match=r"^weight must be finite, got NaN or infinity in 2 of 12 values$"):
            checks.finite("weight", bad.requires_grad_())
        if dtype != torch.bfloat16:
            with pytest.raises(InputError, match="2 of 12"):
                checks.finite("weight", bad.detach().numpy())


def test_what_has_no_infinities_passes() -> None:
    for values in (
        torch.ones(2, dtype=torch.int8),
        torch.ones(0),
        torch.tensor(1.0),
        np.ones(2, bool),
        np.zeros((0, 3)),
    ):
        assert checks.finite("x", values) is values


def test_texts() -> None:
    assert checks.texts("names", ["a", "ü"]) == ("a", "ü")
    for value, message in (("ab", "names must be a list"), ([1], r"names\[0\] must be text"), (["\ud800"], "Unicode")):
        with pytest.raises(InputError, match=message):
            checks.texts("names", value)
    assert checks.boolean("log", True) is True
    with pytest.raises(InputError, match="^log must be True or False, got 1$"):
        checks.boolean("log", 1)
