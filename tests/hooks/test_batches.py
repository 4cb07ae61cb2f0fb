"""A batch may be a tensor, a tuple or a mapping, a tokenizer's own included, wherever batches are taken."""

from collections import UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from models import build
from torch import nn
from transformers import BatchEncoding

from hardy.analog import Deploy, ExpertReplacement, HybridProjection, NoiseAware, RouterCalibration
from hardy.analog.experts import blocks, routing
from hardy.analog.sensitivity import noise_sensitivity
from hardy.core import InputError
from hardy.evaluate import mean_loss
from hardy.hardware import AdditiveNoise, Chip
from hardy.hooks import SecondMoment, arguments, observe, run
from hardy.quant import CalibratedTritPlanes, effective_rank, perplexity_drop

NOISE = AdditiveNoise(strength=0.1, select="experts")
FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tuple": lambda ids: (ids,),
    "dict": lambda ids: {"input_ids": ids},
    "with mask": lambda ids: {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
    "without mask": lambda ids: {"input_ids": ids, "attention_mask": None},
    "BatchEncoding": lambda ids: BatchEncoding({"input_ids": ids}),
    "UserDict": lambda ids: UserDict(input_ids=ids),
    "MappingProxyType": lambda ids: MappingProxyType({"input_ids": ids}),
}
TAKERS: dict[str, Callable[[nn.Module, list[Any]], Any]] = {
    "run": lambda model, data: run(model, data[0]).logits,
    "observe": lambda model, data: observe(model, data, "attention.q", [SecondMoment])[Q0][0].value,
    "mean_loss": mean_loss,
    "routing": lambda model, data: routing(model, data, blocks(model))[0][0],
    "perplexity_drop": lambda model, data: perplexity_drop(model, data).scores,
    "effective_rank": lambda model, data: effective_rank(model, data * 2, select="attention").scores,
    "divergence": lambda model, data: (
        noise_sensitivity(
            model, data, noise=NOISE, select="experts", unit="role", measure="divergence", seeds=(0,)
        ).scores
    ),
    "CalibratedTritPlanes": lambda model, data: changed(
        CalibratedTritPlanes(group_size=16, select="attention.o"), model, data
    ),
    "Deploy": lambda model, data: changed(Deploy(chip=Chip.preset("pcm-foundation"), select="attention"), model, data),
    "NoiseAware": lambda model, data: changed(NoiseAware(chip="pcm-foundation", select="attention"), model, data),
    "HybridProjection": lambda model, data: changed(HybridProjection(noise=NOISE, select="attention.o"), model, data),
    "ExpertReplacement": lambda model, data: changed(ExpertReplacement(noise=NOISE), model, data),
    "RouterCalibration": lambda model, data: changed(RouterCalibration(noise=NOISE), model, data),
}
Q0 = "model.layers.0.self_attn.q_proj"


def changed(method: Any, model: nn.Module, data: list[Any]) -> Any:
    with method.apply(model, data) as change:
        return [(row.condition, row.value) for row in change.report.rows]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build("mixtral")


@pytest.mark.filterwarnings("ignore:HybridProjection leaves all 2 layers")  # the forms of batches matter, not the split
@pytest.mark.parametrize("taker", list(TAKERS))
def test_every_form_of_a_batch_gives_the_same(taker: str, model: nn.Module) -> None:
    ids = torch.randint(0, 64, (4, 12), generator=torch.Generator().manual_seed(0))
    expected = TAKERS[taker](model, [ids])
    for name, form in FORMS.items():
        found = TAKERS[taker](model, [form(ids)])
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(found, expected, msg=name)
        else:
            pairs = dict(expected), dict(found)
            assert pairs[0].keys() == pairs[1].keys(), name
            assert pairs[1] == pytest.approx(pairs[0], rel=1e-4, abs=1e-6), name


def test_what_is_no_batch_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="a batch is a tensor, a tuple or a mapping, got list"):
        arguments(model, [1, 2])
    with pytest.raises(InputError, match="a batch for the loss is token ids .*, got a BatchEncoding"):
        mean_loss(model, [BatchEncoding({"input_ids": [[1, 2]]})])
