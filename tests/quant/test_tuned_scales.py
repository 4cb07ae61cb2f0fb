"""Tuned scales: nearer to the unmodified model on text that tuning did not see, trits untouched, everything undone."""

import pytest
import torch
from torch import nn

from hardy.core import InputError, changes
from hardy.evaluate import batches
from hardy.ops.rotation import rotate
from hardy.quant import Pack, TritLinear, TritPlanes, TunedScales
from hardy.quant.tuned_scales import _Dequantized
from hardy.zoo import held_out_text, load


def divergence(model: nn.Module, ids: torch.Tensor, intact: torch.Tensor) -> float:
    with torch.no_grad():
        found = model(input_ids=ids).logits.log_softmax(-1)
    return nn.functional.kl_div(found, intact, reduction="none", log_target=True).sum(-1).mean().item()


def test_the_model_comes_nearer_to_the_unmodified_one_on_text_that_it_was_not_tuned_on() -> None:
    model, tokenizer = load("tiny-llama")
    data = batches(tokenizer, held_out_text("calibration"), window=64, tokens=4096)
    (other,) = batches(tokenizer, held_out_text(), window=64, tokens=512)
    with torch.no_grad():
        intact = model(input_ids=other).logits.log_softmax(-1)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    plain = TritPlanes().apply(model)
    before = divergence(model, other, intact)
    tuned = TunedScales(steps=12, tokens=512).apply(model, data)
    after = divergence(model, other, intact)
    assert after < 0.9 * before
    assert tuned.report.value("divergence", "after tuning") < tuned.report.value("divergence", "before tuning")
    for name, form in tuned.stored.items():
        assert torch.equal(form.trits.abs(), plain.stored[name].trits.abs()), "trits stay; a sign may change sides"
        assert form.bits == plain.stored[name].bits
        assert torch.equal(form.scales, form.scales.half().float())
    packed = Pack().apply(model)
    assert sum(isinstance(layer, TritLinear) for layer in model.modules()) == len(tuned.stored)
    assert divergence(model, other, intact) == pytest.approx(after, rel=0.1)
    for change in (packed, tuned, plain):
        change.undo()
    assert not changes(model)
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("rotation", [0, 4])
def test_the_gradient_of_scales_is_that_of_autograd(rotation: int) -> None:
    draw = torch.Generator().manual_seed(0)
    trits = torch.randint(-1, 2, (2, 3, 2, 5), generator=draw).to(torch.int8)
    scales = torch.rand((2, 3, 2, 1), generator=draw, dtype=torch.float64).requires_grad_()
    target = torch.randn((3, 8), generator=draw, dtype=torch.float64)
    slow = (rotate((trits * scales).sum(0).flatten(-2)[:, :8], rotation) * target).sum()
    (expected,) = torch.autograd.grad(slow, scales)
    (found,) = torch.autograd.grad((_Dequantized.apply(trits, scales, 8, rotation) * target).sum(), scales)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_without_planes_or_data_it_says_what_to_give(llama: nn.Module) -> None:
    ids = [torch.randint(0, 64, (2, 9))]
    with pytest.raises(InputError, match="apply TritPlanes or CalibratedTritPlanes first"):
        TunedScales().apply(llama, ids)
    TritPlanes(group_size=16).apply(llama)
    with pytest.raises(InputError, match="needs batches of token ids"):
        TunedScales().apply(llama)
