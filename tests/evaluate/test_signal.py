"""PSNR against its formula."""

import math

import pytest
import torch

from hardy.core import InputError
from hardy.evaluate import psnr, psnr_of_error


def test_psnr_is_its_formula() -> None:
    target = torch.zeros(4, 5)
    estimate = target.clone()
    estimate[0, 0] = 0.5  # a mean squared error of 1/80
    assert psnr(estimate, target) == pytest.approx(10 * math.log10(80))
    assert psnr(estimate, target, peak=2) == pytest.approx(10 * math.log10(320))
    assert psnr(target, target) == math.inf
    assert psnr_of_error(torch.tensor([1.0, 0.01])).tolist() == pytest.approx([0, 20])


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"shape \(2,\) for a target of \(3,\)"):
        psnr(torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match="peak must be above 0, got 0"):
        psnr(torch.zeros(2), torch.zeros(2), peak=0)
