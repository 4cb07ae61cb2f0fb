"""Quantizers that rotate: the error that outliers cost, packed layers that rotate their input, files, decoding."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from models import SIZES
from torch import nn

import hardy
from hardy.core import Site
from hardy.errors import InputError
from hardy.ops.rotation import rotate
from hardy.quant import (
    GPTQ,
    AsymmetricTrits,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    Pack,
    RoundToNearest,
    TritPlanes,
    TunedScales,
    unpack,
)
from hardy.quant.calibrated import CalibratedQuantizer
from hardy.quant.decoder import Decoder
from hardy.quant.gguf_export import export_gguf
from hardy.quant.quantizer import Quantizer

SITE = Site("w", "w", "weight", None, None, None)
KIND: dict[str, Any] = {"group_size": 16, "rotation": 16}
QUANTIZERS = [
    TritPlanes(**KIND),
    RoundToNearest(bits=3, **KIND),
    ClippedRoundToNearest(bits=3, symmetric=True, **KIND),
    CalibratedTritPlanes(**KIND),
    GPTQ(bits=3, **KIND),
]
each = pytest.mark.parametrize("method", QUANTIZERS, ids=lambda method: type(method).__name__)


def model_of(kind: str = "llama") -> Any:
    """A small model some of whose weights stick out, as those of real ones do."""
    sizes: dict[str, Any] = {"llama": {"head_dim": 16}, "phi3": {}, "mixtral": {"num_local_experts": 4}}
    config = hf.AutoConfig.for_model(kind, **SIZES, **sizes[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("proj.weight"):
            parameter.data[:, ::16] *= 6
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 64, (4, 32), generator=torch.Generator().manual_seed(0))


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits.float()


def distance(model: Any, ids: torch.Tensor, intact: torch.Tensor) -> float:
    return ((logits_of(model, ids) - intact).norm() / intact.norm()).item()


@each
def test_outliers_cost_less_and_the_packed_model_computes_the_same(
    method: Quantizer, ids: torch.Tensor, tmp_path: Path
) -> None:
    model = model_of()
    intact = logits_of(model, ids)
    errors, bits = {}, {}
    for size in (0, 16):
        with dataclasses.replace(method, rotation=size).apply(
            model, [ids] if isinstance(method, CalibratedQuantizer) else None
        ) as change:
            errors[size] = distance(model, ids, intact)
            bits[size] = change.report.value("bits_per_weight", "all selected weights")
    assert bits[16] == bits[0], "a rotation takes no bits"
    assert errors[16] < 0.8 * errors[0]
    change = method.apply(model, [ids] if isinstance(method, CalibratedQuantizer) else None)
    assert {form.rotation for form in change.stored.values()} == {16}
    for name, form in change.stored.items():
        assert torch.equal(form.dequantize(), model.get_submodule(name).weight)
    quantized = logits_of(model, ids)
    Pack().apply(model)
    assert distance(model, ids, quantized) < 0.04, "but for activations in int8"
    hardy.save(model, tmp_path / "packed")
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    assert again.model.layers[0].mlp.up_proj.rotation == 16
    assert torch.equal(logits_of(again, ids), logits_of(model, ids))
    unpack(again)
    torch.testing.assert_close(logits_of(again, ids), quantized, rtol=0, atol=1e-4)


def test_a_calibrated_weight_is_fitted_in_the_rotated_basis() -> None:
    chance = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(8, 40, generator=chance), torch.randn(200, 40, generator=chance)
    gram = (inputs.T @ inputs).double()
    method = CalibratedTritPlanes(group_size=16, rotation=16)
    turned = rotate(inputs.double(), 16)
    expected, _ = method.quantize_for(rotate(weight, 16), turned.T @ turned)
    found, facts = method.stored_for(weight, gram)
    torch.testing.assert_close(found.dequantize(), rotate(expected.dequantize(), 16))
    error = (found.dequantize() - weight).square().sum().item()
    assert facts["bits"] == method.stored_bits(weight.shape)
    assert 0 < error < 0.05 * weight.square().sum().item()


@pytest.mark.parametrize("kind", ["phi3", "mixtral"])
def test_fused_projections_and_experts(kind: str, ids: torch.Tensor) -> None:
    model = model_of(kind)
    TritPlanes(**KIND).apply(model)
    if kind == "mixtral":
        TritPlanes(**KIND, select="experts").apply(model)
    quantized = logits_of(model, ids)
    dense = Pack().apply(model).report.select(condition="all packed layers")[0].details["weights left dense"]
    assert dense == 0
    assert distance(model, ids, quantized) < 0.03


def test_parts_of_other_rotations_are_no_whole() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    for method in (TritPlanes(group_size=16), RoundToNearest(bits=4, group_size=16)):
        forms: list[Any] = [dataclasses.replace(method, rotation=size).stored(weight, SITE)[0] for size in (0, 16, 16)]
        assert forms[0].joined(forms[1:]) is None
        whole = forms[1].joined(forms[2:])
        assert torch.equal(whole.dequantize(), torch.cat([forms[1].dequantize()] * 2))


def test_decoding_step_by_step(ids: torch.Tensor) -> None:
    model = model_of()
    TritPlanes(**KIND, select="linear,!attention.k").apply(model)
    RoundToNearest(bits=4, group_size=16, rotation=8, select="attention.k").apply(model)
    Pack().apply(model)
    expected = logits_of(model, ids[:1])[0]
    decoder = Decoder(model, capacity=32, head_bits=None)
    found = [decoder.read(ids[0, :8]), *(decoder.step(int(token)).clone() for token in ids[0, 8:])]
    for ours, theirs in zip(found, expected[7:], strict=True):
        assert (ours - theirs).norm() < 0.04 * theirs.norm()


def test_tuned_scales_keep_the_rotation(ids: torch.Tensor) -> None:
    model = model_of()
    change = CalibratedTritPlanes(**KIND).apply(model, [ids])
    before = {name: form.scales for name, form in change.stored.items()}
    tuned = TunedScales(steps=3, tokens=64).apply(model, [ids])
    for name, form in tuned.stored.items():
        assert form.rotation == 16
        assert not torch.equal(form.scales, before[name])
        assert torch.equal(form.dequantize(), model.get_submodule(name).weight)
    quantized = logits_of(model, ids)
    Pack().apply(model)
    assert distance(model, ids, quantized) < 0.04


def test_gradients_reach_the_input_of_a_packed_layer() -> None:
    layer = nn.Linear(32, 16)
    model = nn.Sequential(layer)
    TritPlanes(group_size=16, rotation=16, select="*").apply(model)
    dense = layer.weight.detach().clone()
    Pack().apply(model)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model(x).square().sum().backward()
    y = model(x.detach())
    torch.testing.assert_close(x.grad, 2 * y @ dense, rtol=1e-4, atol=1e-4)


def test_what_knows_no_rotation_says_so(ids: torch.Tensor, tmp_path: Path) -> None:
    model = model_of()
    TritPlanes(group_size=32, rotation=16).apply(model)
    Pack().apply(model)
    with pytest.raises(InputError, match=r"q_proj takes rotated inputs, which GGUF does not know: .* --rotation 0"):
        export_gguf(model, tmp_path / "x.gguf")
    with pytest.raises(InputError, match="rotation must be a power of two, or 0 for none, got 12"):
        TritPlanes(rotation=12)
    embedded = model_of()
    with (
        RoundToNearest(bits=8, select="embedding", **KIND).apply(embedded),
        pytest.raises(InputError, match="there is nothing to pack"),  # a row that is looked up would have to be turned
    ):
        Pack().apply(embedded)
    with AsymmetricTrits(**KIND).apply(embedded, [ids]) as change:
        for name, form in change.stored.items():
            assert torch.equal(form.dequantize(), embedded.get_submodule(name).weight)
