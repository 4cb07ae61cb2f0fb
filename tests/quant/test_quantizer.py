"""What all quantizers share: the stored form is kept with the change, its bits are known before the fit."""

import pytest
import torch
from models import build
from torch import nn

from hardy.core import InputError, Site
from hardy.quant import AbsmeanTrits, ClippedRoundToNearest, RoundToNearest, TritPlanes
from hardy.quant.quantizer import Quantizer

SITE = Site("w", "w", "weight", None, None, None)
QUANTIZERS = [
    RoundToNearest(bits=3, group_size=16),
    RoundToNearest(bits=4, group_size=None, symmetric=True),
    ClippedRoundToNearest(bits=2, group_size=5),
    AbsmeanTrits(group_size=16),
    TritPlanes(planes=3, group_size=7),
]
each = pytest.mark.parametrize("method", QUANTIZERS, ids=str)


@each
def test_the_change_keeps_what_is_stored(method: Quantizer, llama: nn.Module) -> None:
    change = method.apply(llama)
    assert len(change.stored) == 14
    for name, stored in change.stored.items():
        weight = llama.get_submodule(name).weight
        assert torch.equal(stored.dequantize(), weight)
        assert stored.bits == change.report.value("bits_per_weight", name) * weight.numel()


@each
@pytest.mark.parametrize("shape", [(3, 40), (2, 3, 21)])
def test_bits_are_known_before_the_fit(method: Quantizer, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert method.stored_bits(shape) == method.quantize(weight, SITE)[0].bits


@each
def test_a_stack_of_experts_too(method: Quantizer) -> None:
    model = build("mixtral")
    stored = type(method)(**{**vars(method), "select": "experts", "group_size": 8}).apply(model).stored
    for name, form in stored.items():
        module, _, parameter = name.rpartition(".")
        assert torch.equal(form.dequantize(), getattr(model.get_submodule(module), parameter))


def test_a_group_longer_than_the_row_is_refused(llama: nn.Module) -> None:
    width = llama.get_submodule("model.layers.0.self_attn.q_proj").weight.shape[1]
    with pytest.raises(InputError, match=rf"group_size 128 is larger than the {width} inputs of .*q_proj; choose at"):
        TritPlanes().apply(llama)


def test_tied_weights_are_stored_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    assert list(TritPlanes(group_size=8).apply(model).stored) == ["0"]
