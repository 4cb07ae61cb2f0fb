"""The rules of binary weights and few-bit activations: their closed forms against oracles, and their gradients."""

import itertools

import pytest
import torch

from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.ops.straight_through import straight_through
from hardy.quant import activation, binary

WEIGHT = torch.randn(6, 50, generator=generator(0, "weight")) * 0.2 + 0.05


@pytest.mark.parametrize("name", binary.RULES)
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_what_is_trained_with_is_what_is_stored(name: str, per: binary.Per) -> None:
    rule = binary.rule(name)
    weight = WEIGHT.clone().requires_grad_()
    levels, trained = rule.levels(weight, per), rule(weight, per, 0.3)
    torch.testing.assert_close(trained.detach(), levels.dense())
    assert set(levels.codes.unique().tolist()) == {-1.0, 1.0}
    trained.square().sum().backward()
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())
    assert weight.grad.abs().sum() > 0
    if per == "layer" and name != "irnet":  # which standardises each channel, whatever the scale is of
        assert len(levels.scale.unique()) == 1


def test_bwma_is_the_best_scale_for_its_signs_and_its_middle() -> None:
    found = binary.BWMA().levels(WEIGHT, "channel")
    for factor in (0.9, 1.1):
        other = binary.Levels(found.codes, factor * found.scale, found.offset)
        assert (WEIGHT - found.dense()).norm() < (WEIGHT - other.dense()).norm()


def test_lloyd_finds_the_best_two_levels_there_are() -> None:
    """Against every way to divide the sorted weights of a channel in two."""
    found = binary.Lloyd().levels(WEIGHT, "channel").dense()
    for row, dense in zip(WEIGHT, found, strict=True):
        sorted_row = row.sort().values
        best = min(
            float((a - a.mean()).square().sum() + (b - b.mean()).square().sum())
            for a, b in ((sorted_row[:k], sorted_row[k:]) for k in range(1, len(sorted_row)))
        )
        assert float((row - dense).square().sum()) <= 1.03 * best  # Lloyd's is a local optimum
        closed = binary.BWMA().levels(row[None], "channel").dense()[0]
        assert float((row - dense).norm()) <= float((row - closed).norm()) + 1e-6


def test_the_error_of_gaussian_weights_is_that_of_theory() -> None:
    """Of the best two levels 1 - 2 / pi of the energy is left."""
    weight = torch.randn(4, 20000, generator=generator(1, "gauss"))
    for name in ("bwma", "bwma-lloyd", "xnor"):
        error = (weight - binary.rule(name).levels(weight, "channel").dense()).norm() / weight.norm()
        assert float(error) == pytest.approx((1 - 2 / torch.pi) ** 0.5, abs=0.01)


@pytest.mark.parametrize("name", binary.RULES)
def test_constant_channels_and_channels_of_zeros_stay_finite(name: str) -> None:
    weight = torch.stack([torch.zeros(9), torch.full((9,), 0.3), torch.linspace(-1, 1, 9)]).requires_grad_()
    rule = binary.rule(name)
    trained = rule(weight, "channel")
    trained.sum().backward()
    assert bool(trained.isfinite().all())
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())
    if name.startswith("bwma"):
        torch.testing.assert_close(trained[:2], weight[:2])  # two levels hold one value


def test_gradients_of_the_rules_are_the_papers() -> None:
    weight = torch.tensor([[0.1, -0.4, 1.2, 2.0, -2.0]], requires_grad=True)

    def gradient(name: str) -> torch.Tensor:
        (found,) = torch.autograd.grad(binary.rule(name)(weight, "channel").sum(), weight)
        return found

    assert torch.equal(gradient("dorefa"), torch.ones(1, 5))
    assert torch.equal(gradient("reactnet"), torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]]))
    centred = weight.detach() - weight.detach().mean()
    within = centred.abs() <= 1.5 * centred.square().mean().sqrt()
    assert torch.equal(gradient("bwma"), within.float())
    signs, scale = torch.tensor([[1.0, -1, 1, 1, -1]]), weight.detach().abs().mean()
    expected = scale * torch.tensor([[1.0, 1, 0, 0, 0]]) + signs * signs.sum() / 5
    torch.testing.assert_close(gradient("xnor"), expected)


def test_irnet_sharpens_and_needs_no_scale_of_the_weight() -> None:
    rule = binary.IRNet()
    torch.testing.assert_close(rule(WEIGHT, "channel"), rule(7 * WEIGHT, "channel"))
    scale = rule.levels(WEIGHT, "channel").scale
    assert torch.equal(scale.log2().round(), scale.log2())  # powers of two


@pytest.mark.parametrize(
    ("name", "bits", "signed"), [*itertools.product(activation.RULES, (1, 2, 4, 8), (False, True))]
)
def test_activations_are_on_the_grid_and_codes_are_theirs(name: str, bits: int, signed: bool) -> None:
    rule = activation.RULES[name](bits, 5)
    x = torch.randn(3, 5, 4, generator=generator(2, "x"))
    x = x if signed else x.relu()
    y, codes = rule(x, 1).detach(), rule.codes(x, 1)
    assert int(codes.max()) <= 2**bits - 1
    step, zero = rule.step.detach(), rule.zero_point
    torch.testing.assert_close(y, (codes - zero) * step)
    assert float(zero) == (0.0 if not signed else 0.5 if bits == 1 else 2.0 ** (bits - 1))
    if rule.learns_step:
        torch.testing.assert_close(step, 2 * x.abs().mean() / (2**bits - 1) ** 0.5)
    if bits == 8 and name not in ("dorefa",):
        assert float((y - x).norm() / x.norm()) < 0.1


def test_lsq_learns_its_step_by_the_published_gradient() -> None:
    rule = activation.LSQ(2, 1)
    x = torch.tensor([-0.5, 0.2, 0.9, 5.0], requires_grad=True)
    rule.calibrate(0.5, 2.0, signed=False)
    rule.step.data.fill_(0.5)
    rule(x).sum().backward()
    u = torch.tensor([-1.0, 0.4, 1.8, 10.0])
    expected = torch.tensor([0.0, 0 - u[1], 2 - u[2], 3.0]).sum() / (4 * 3) ** 0.5
    torch.testing.assert_close(rule.step.grad, expected)
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_pact_learns_from_clipped_inputs_alone() -> None:
    rule = activation.PACT(2, 1)
    rule.calibrate(0.5, 2.0, signed=False)
    rule.step.data.fill_(0.5)
    rule(torch.tensor([0.2, 0.9, 5.0, 7.0])).sum().backward()
    torch.testing.assert_close(rule.step.grad, torch.tensor(2 * 3 / 9))


def test_the_staircase_is_the_derivative_of_a_sum_of_sigmoids() -> None:
    rule = activation.Staircase(3, 1)
    u = torch.linspace(-3, 10, 200)
    for progress in (0.0, 0.5, 1.0):
        rule.progress = progress
        points = u.clone().requires_grad_()
        sharpness = 10**progress
        stairs = sum(torch.sigmoid(sharpness * (points - i + 0.5)) for i in range(1, 8))
        (expected,) = torch.autograd.grad(stairs.sum(), points)  # pyright: ignore[reportAttributeAccessIssue]
        assert float((rule.slope(u) - expected).abs().max()) < 0.02 * sharpness


def test_a_rule_finds_its_grid_on_its_first_input_and_keeps_it() -> None:
    rule = activation.LSQ(4, 1)
    rule(torch.tensor([1.0, -1.0]))
    first = rule.step.clone()
    rule(torch.tensor([100.0]))
    assert torch.equal(first, rule.step)
    other = activation.LSQ(4, 1)
    other.load_state_dict(rule.state_dict())
    other(torch.tensor([7.0]))
    assert torch.equal(other.step, first)
    with pytest.raises(InputError, match="saw no input other than zero"):
        activation.LSQ(4, 1)(torch.zeros(3))
    with pytest.raises(InputError, match="first input of a layer with binary weights must be finite"):
        activation.LSQ(4, 1)(torch.tensor([torch.nan]))


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    source = torch.tensor([1.0, 2.0], requires_grad=True)
    y = straight_through(source, torch.tensor([7.0, 8.0]), torch.tensor([0.5, 3.0]))
    (gradient,) = torch.autograd.grad(y.sum(), source)
    assert y.tolist() == [7.0, 8.0]
    assert gradient.tolist() == [0.5, 3.0]
