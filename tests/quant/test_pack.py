"""Packed layers: the bits that were promised, the values that were found, on disk and through transformers."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from models import CONFIGS, assert_same, build, snapshot
from torch import nn

import hardy
from hardy.core import InputError
from hardy.core.method import Chain
from hardy.core.packing import describe
from hardy.hardware import AdditiveNoise
from hardy.ops.packing import pack_codes, unpack_codes
from hardy.quant import GridLinear, LayerBits, Pack, RoundToNearest, TritLinear, TritPlanes, round_to_nearest, unpack
from hardy.quant.transformers_hooks import PackedConfig

GRIDS = [
    RoundToNearest(bits=3, group_size=16),
    RoundToNearest(bits=5, group_size=None),
    RoundToNearest(bits=4, group_size=7, symmetric=True),
]


@given(st.lists(st.integers(0, 255), max_size=40), st.integers(1, 8))
def test_codes_of_any_bits_come_back(values: list[int], bits: int) -> None:
    codes = torch.tensor([value % 2**bits for value in values], dtype=torch.uint8)
    packed = pack_codes(codes, bits)
    assert packed.shape == (-(-len(values) * bits // 8),)
    assert torch.equal(unpack_codes(packed, len(values), bits), codes)
    assert int.from_bytes(bytes(packed.tolist()), "little") == sum(int(c) << i * bits for i, c in enumerate(codes))


def test_codes_out_of_range_and_wrong_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="codes of 3 bits are 0 to 7, got 1 to 8"):
        pack_codes(torch.tensor([1, 8]), 3)
    with pytest.raises(InputError, match="9 codes of 3 bits take 4 bytes, got 3"):
        unpack_codes(torch.zeros(3, dtype=torch.uint8), 9, 3)


@pytest.mark.parametrize("method", GRIDS, ids=str)
@pytest.mark.parametrize("bias", [None, torch.arange(24.0)], ids=["", "bias"])
def test_a_layer_on_a_grid(method: RoundToNearest, bias: torch.Tensor | None) -> None:
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    grid = method.fit(weight)
    layer = GridLinear.from_stored(grid, bias)
    x = torch.randn(2, 3, 40)
    assert torch.equal(layer.dequantize(), grid.dequantize())
    assert torch.equal(layer.weight, grid.dequantize())
    assert torch.equal(layer(x), nn.functional.linear(x, grid.dequantize(), bias))
    assert grid.bits <= layer.bits_per_weight * weight.numel() < grid.bits + 16  # two last bytes
    again = GridLinear(40, 24, method.bits, method.group_size, method.symmetric, bias is not None)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))
    half = layer.to(torch.bfloat16)
    assert half.scales.dtype == torch.float16
    assert torch.equal(half.dequantize(), grid.dequantize())
    assert half(x.bfloat16()).dtype == torch.bfloat16


def test_scales_that_were_rounded_on_the_way_are_refused() -> None:
    layer = GridLinear.from_stored(round_to_nearest.fit(torch.randn(4, 8), 3, 8, False))
    layer.scales = layer.scales.bfloat16()
    with pytest.raises(InputError, match=r"scales must be float16 \(4, 1\), got torch.bfloat16"):
        layer.dequantize()


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_undo_restores_every_architecture(architecture: str) -> None:
    model = build(architecture)
    before = snapshot(model)
    with TritPlanes(group_size=8).apply(model), Pack().apply(model) as change:
        summary = change.report.select("bits_per_weight", "all packed layers")[0]
        packed = [layer for layer in model.modules() if isinstance(layer, TritLinear)]
        assert sum(layer.in_features * layer.out_features for layer in packed) == summary.details["weights"]
        if architecture in ("mixtral", "olmoe"):
            assert summary.details["weights left dense"] > 0
            assert change.report.value("bits_per_weight", "model.layers.0.mlp.experts.down_proj, dense") == 32
    assert_same(before, model)
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize("architecture", list(CONFIGS))
@pytest.mark.parametrize("method", [TritPlanes(group_size=16), GRIDS[0]], ids=["trits", "grid"])
def test_save_and_load_every_architecture(
    architecture: str, method: TritPlanes | RoundToNearest, tmp_path: Path, ids: torch.Tensor
) -> None:
    model = build(architecture)
    method.apply(model)
    Pack().apply(model)
    with torch.inference_mode():
        expected = model(ids).logits
        hardy.save(model, tmp_path / "packed")
        loaded = hardy.load(tmp_path / "packed")
        assert describe(loaded) == describe(model)
        assert torch.equal(loaded(ids).logits, expected)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed").eval()
        assert torch.equal(theirs(ids).logits, expected)
        theirs.save_pretrained(tmp_path / "again")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
        assert torch.equal(again(ids).logits, expected)


def test_loaded_in_another_dtype_the_weight_is_the_same(llama: nn.Module, tmp_path: Path) -> None:
    change = TritPlanes(group_size=16).apply(llama)
    Pack().apply(llama)
    hardy.save(llama, tmp_path / "packed")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.bfloat16)
    for name, stored in change.stored.items():
        assert torch.equal(model.get_submodule(name).dequantize(), stored.dequantize())


def test_unpacked_it_has_the_quantized_values(llama: nn.Module) -> None:
    change = TritPlanes(group_size=16).apply(llama)
    Pack().apply(llama)
    unpack(llama)
    for name, stored in change.stored.items():
        assert torch.equal(llama.get_submodule(name).weight, stored.dequantize())
    assert not hasattr(llama.config, "quantization_config")


def test_levels_of_layer_bits_are_packed_as_they_are(llama: nn.Module) -> None:
    ranking = {"model.layers.0.*": 1.0, "model.layers.1.*": 2.0}
    one, three = TritPlanes(planes=1, group_size=16), TritPlanes(planes=3, group_size=16)
    LayerBits(budget=6, low=one, high=three, ranking=ranking).apply(llama)
    Pack().apply(llama)
    planes = {name: entry["planes"] for name, entry in describe(llama).items()}
    assert {name.split(".")[2]: count for name, count in planes.items()} == {"0": 1, "1": 3}


def test_in_a_chain_too(llama: nn.Module) -> None:
    before = snapshot(llama)
    with Chain(methods=(TritPlanes(group_size=16), Pack())).apply(llama):
        assert len(describe(llama)) == 14
    assert_same(before, llama)


def test_what_cannot_be_packed_is_refused(llama: nn.Module) -> None:
    with pytest.raises(InputError, match="nothing to pack: apply a quantizer first"):
        Pack().apply(llama)
    quantized = TritPlanes(group_size=16).apply(llama)
    noisy = pytest.raises(InputError, match=r"weight of model.layers.0.* is no longer what its quantizer left")
    with AdditiveNoise(strength=0.01).apply(llama), noisy:
        Pack().apply(llama)
    packed = Pack().apply(llama)
    with pytest.raises(InputError, match="undo the later change first"):
        quantized.undo()
    packed.undo()
    quantized.undo()
    with TritPlanes(group_size=16, select="embedding").apply(llama), pytest.raises(InputError, match="none of the"):
        Pack().apply(llama)


def test_a_flipped_byte_and_a_newer_format_are_refused(llama: nn.Module, tmp_path: Path) -> None:
    TritPlanes(group_size=16).apply(llama)
    Pack().apply(llama)
    folder = hardy.save(llama, tmp_path / "packed")
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-100] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged: model.safetensors is not the file that was saved"):
        hardy.load(folder)
    with pytest.raises(InputError, match="packed layers of version 2; this hardy reads version 1"):
        PackedConfig(modules={}, version=2)


def test_a_config_that_does_not_fit_its_model_is_refused(llama: nn.Module, tmp_path: Path) -> None:
    TritPlanes(group_size=16).apply(llama)
    Pack().apply(llama)
    llama.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    modules = config["quantization_config"]["modules"]
    for name, entry, message in (
        ("model.layers.9.mlp.up_proj", {"planes": 2, "group_size": 16}, "layers.9.mlp.up_proj is packed here, but"),
        ("model.layers.0.mlp.up_proj", {"planes": 2, "colour": "red"}, "described by unknown settings"),
        ("model.layers.0.mlp.up_proj", {"planes": 5, "group_size": 16}, "planes must be 1, 2 or 3"),
    ):
        config["quantization_config"]["modules"] = modules | {name: entry}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=message):
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
