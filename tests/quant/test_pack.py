"""Packed layers: the bits that were promised, the values that were found, on disk and through transformers."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from models import CONFIGS, SIZES, ConvNet, assert_same, build, snapshot
from torch import nn

import hardy
from hardy.artefacts import PackedLayer, history
from hardy.artefacts.packing import describe
from hardy.core import InputError, Site, chain, register
from hardy.core.method import Chain
from hardy.hardware import AdditiveNoise
from hardy.ops.packing import pack_codes, unpack_codes
from hardy.quant import (
    GridLinear,
    LayerBits,
    Pack,
    PackedExperts,
    RoundToNearest,
    TritLinear,
    TritPlanes,
    Unpack,
    round_to_nearest,
    unpack,
)
from hardy.quant.quantizer import Quantizer, StoredWeight
from hardy.quant.round_to_nearest import GridWeight
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
    expected = nn.functional.linear(x, grid.dequantize(), bias)
    assert (layer(x) - expected).norm() < 0.01 * expected.norm()  # the rounding of the activations
    assert grid.bits <= layer.bits_per_weight * weight.numel() < grid.bits + 16  # two last bytes
    again = GridLinear(40, 24, method.bits, method.group_size, method.symmetric, bias is not None)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))
    half = layer.to(torch.bfloat16)
    assert half.state_dict()["scales"].dtype == torch.float16
    assert torch.equal(half.dequantize(), grid.dequantize())
    assert half(x.bfloat16()).dtype == torch.bfloat16


def test_scales_that_were_rounded_on_the_way_are_refused() -> None:
    layer = GridLinear.from_stored(round_to_nearest.fit(torch.randn(4, 8), 3, 8, False))
    layer.scales = layer.state_dict()["scales"].bfloat16()
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
        assert summary.details["weights left dense"] == 0
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


@pytest.mark.parametrize("loaded", [False, True], ids=["packed here", "loaded"])
def test_unpacking_is_a_change_like_any_other(loaded: bool, tmp_path: Path, ids: torch.Tensor) -> None:
    model = build("llama")
    first = snapshot(model)
    quantized = TritPlanes(group_size=16).apply(model)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packing = Pack().apply(model)
    if loaded:
        model = hardy.load(hardy.save(model, tmp_path / "packed"))
    before, described = model.state_dict(), describe(model)
    assert unpack(model) is model
    assert {name: tensor for name, tensor in model.state_dict().items() if not torch.equal(tensor, dense[name])} == {}
    assert not hasattr(model.config, "quantization_config")
    with AdditiveNoise(strength=0.1).apply(model):  # it has weights to work on
        noisy = hardy.load(hardy.save(model, tmp_path / "noisy"))
        assert torch.equal(noisy(ids).logits, model(ids).logits)
    hardy.save(model, tmp_path / "dense")
    assert torch.equal(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense")(ids).logits, model(ids).logits
    )
    assert history(hardy.load(tmp_path / "dense")) == (TritPlanes(group_size=16), Pack(), Unpack())
    hardy.core.changes(model)[-1].undo()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert describe(model) == described
    assert describe(hardy.load(hardy.save(model, tmp_path / "again"))) == described
    if not loaded:
        packing.undo()
        quantized.undo()
        assert_same(first, model)


def test_unpacked_in_the_dtype_of_the_rest_or_another(llama: nn.Module) -> None:
    change = TritPlanes(group_size=16).apply(llama)
    Pack().apply(llama)
    llama.to(torch.bfloat16)
    name = next(iter(change.stored))
    for dtype, expected in ((None, torch.bfloat16), ("float32", torch.float32)):
        with Unpack(dtype=dtype).apply(llama):
            assert torch.equal(llama.get_submodule(name).weight, change.stored[name].dequantize().to(expected))
            assert llama.get_submodule(name).weight.dtype == expected
    assert llama.dequantize() is llama
    assert describe(llama) == {}
    with pytest.raises(InputError, match="nothing to unpack"):
        Unpack().apply(llama)
    assert unpack(llama) is llama


def test_a_plain_module_comes_back_packed(tmp_path: Path) -> None:
    net = ConvNet()
    RoundToNearest(bits=4, group_size=16, select="classifier").apply(net)
    Pack().apply(net)
    x = torch.randn(2, 3, 8, 8)
    again = hardy.load(hardy.save(net, tmp_path / "net"), into=ConvNet())
    assert (
        describe(again) == describe(net) == {"classifier": {"layer": "quant.grid_linear", **net.classifier.describe()}}
    )
    assert torch.equal(again(x), net(x))
    with pytest.raises(InputError, match="classifier is packed here, but Linear has no such layer"):
        hardy.load(tmp_path / "net", into=nn.Linear(2, 2))


def test_a_packed_model_compiles_without_a_graph_break(llama: nn.Module, ids: torch.Tensor) -> None:
    levels = TritPlanes(group_size=16, select="mlp"), RoundToNearest(bits=4, group_size=16, select="attention")
    chain(*levels, Pack()).apply(llama)
    with torch.inference_mode():
        try:
            torch.compile(build("llama"), backend="eager", fullgraph=True)(ids)
        except torch._dynamo.exc.Unsupported:
            pytest.skip("this torch and transformers do not compile a model that is not packed either")
        found = torch.compile(llama, backend="eager", fullgraph=True)(ids).logits
        torch.testing.assert_close(found, llama(ids).logits)


FRESH = """
import sys, transformers
transformers.utils.logging.disable_progress_bar()
if sys.argv[1] == "hardy":
    import hardy.quant
for folder in sys.argv[2:]:
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    except Exception as error:
        print("refused")
    else:
        print("loaded")
"""


def test_without_hardy_transformers_refuses_a_packed_folder(llama: nn.Module, tmp_path: Path) -> None:
    """It would else put random weights where it knows no layers, and generate nonsense."""
    levels = TritPlanes(group_size=16, select="mlp"), RoundToNearest(bits=4, group_size=16, select="attention")
    chain(*levels, Pack()).apply(llama)
    hardy.save(llama, tmp_path / "packed")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    again.save_pretrained(tmp_path / "theirs")  # what transformers writes is guarded too
    mixture = build("mixtral")
    chain(TritPlanes(group_size=16, select="experts"), Pack()).apply(mixture)
    hardy.save(mixture, tmp_path / "experts")
    folders = [str(tmp_path / name) for name in ("packed", "theirs", "experts")]
    said = {
        room: subprocess.run([sys.executable, "-c", FRESH, room, *folders], capture_output=True, text=True, check=True)
        for room in ("nothing", "hardy")
    }
    assert said["hardy"].stdout == "loaded\n" * 3
    assert said["nothing"].stdout == "refused\n" * 3
    assert "Unknown quantization type, got hardy" in said["nothing"].stderr
    assert "MISMATCH" in said["nothing"].stderr


@pytest.mark.parametrize("method", [TritPlanes(group_size=16), GRIDS[0]], ids=["trits", "grid"])
def test_experts_whose_matrices_are_transposed_multiply_packed(
    method: TritPlanes | RoundToNearest, ids: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
    kinds = {"layer_types": ["sliding_attention", "full_attention"]}
    scaling = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    config = transformers.GptOssConfig(**SIZES, **sizes, **kinds, **scaling)
    model = transformers.GptOssForCausalLM(config).eval()
    before = snapshot(model)
    with dataclasses.replace(method, select="experts").apply(model):
        expected = model(ids).logits
        with Pack().apply(model):
            assert isinstance(model.get_submodule("model.layers.0.mlp.experts"), PackedExperts)
            loaded = hardy.load(hardy.save(model, tmp_path / "packed"))
            assert (unpack(hardy.load(tmp_path / "packed"))(ids).logits - expected).norm() < 1e-5 * expected.norm()
            with monkeypatch.context() as patched:
                patched.delattr("hardy.quant.packed_experts._Matrix.dense")
                found = loaded(ids).logits
                assert torch.equal(model(ids).logits, found)
    assert (found - expected).norm() < 0.02 * expected.norm(), "activations are rounded to int8"
    assert_same(before, model)


class Bytes(PackedLayer):
    """What the kinds of layers below share: grids of 8 bits as they are, a parameter at a time.

    Names of buffers do not begin with a parameter's: up to transformers 5.18 `.experts.down_proj` and what follows is a
    stack of experts, which is taken apart when it is saved.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], groups: Mapping[str, int], device: torch.device) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        for name, (*rows, width) in self.shapes.items():
            size = (*rows, groups[name])
            self.register_buffer(
                f"codes_of_{name}", torch.zeros(*size, width // size[-1], dtype=torch.uint8, device=device)
            )
            for part in ("scale", "zero_point"):
                self.register_buffer(f"{part}_of_{name}", torch.zeros(*size, 1, device=device))

    @classmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, StoredWeight]]) -> "Bytes | None":
        fits = all(isinstance(form, GridWeight) and site.rows is None for site, form in stored)
        if not (cls.holds(module) and fits):
            return None
        forms = {site.parameter: form for site, form in stored}
        shapes = {name: getattr(module, name).shape for name in forms}
        layer = cls(shapes, {name: form.codes.shape[-2] for name, form in forms.items()}, torch.device("cpu"))
        layer.take_over(module)
        for name, form in forms.items():
            for part in ("codes", "scale", "zero_point"):
                getattr(layer, f"{part}_of_{name}").copy_(getattr(form, part))
        return layer

    def describe(self) -> dict[str, Any]:
        groups = {name: getattr(self, f"codes_of_{name}").shape[-2] for name in self.shapes}
        return {"shapes": {name: list(shape) for name, shape in self.shapes.items()}, "groups": groups}

    @classmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> "Bytes":
        layer = cls(**description, device=next(module.parameters()).device)
        layer.take_over(module)
        return layer

    def weight_of(self, name: str) -> torch.Tensor:
        codes, scale, zero = (getattr(self, f"{part}_of_{name}") for part in ("codes", "scale", "zero_point"))
        return ((codes - zero) * scale).reshape(self.shapes[name])

    @property
    def weights(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def bits(self) -> int:
        return 8 * sum(buffer.nbytes for buffer in self.buffers(recurse=False))


def kinds_of_other_layers() -> list[type[PackedLayer]]:
    """An embedding and a stack of experts: a class each, and nothing else is told of them."""

    class PackedEmbedding(Bytes):
        holds = staticmethod(lambda module: isinstance(module, nn.Embedding))

        def take_over(self, module: nn.Module) -> None:
            pass

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.weight_of("weight")[ids]

        def dense(self, dtype: torch.dtype) -> nn.Module:
            return nn.Embedding.from_pretrained(self.weight_of("weight").to(dtype))

    class PackedExperts(Bytes):
        holds = staticmethod(lambda module: type(module).__name__ == "MixtralExperts")

        def take_over(self, module: nn.Module) -> None:
            self.kind, self.config = type(module), module.config

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.dense(torch.float32)(*inputs)

        def dense(self, dtype: torch.dtype) -> nn.Module:
            module = self.kind(self.config)
            for name in self.shapes:
                setattr(module, name, nn.Parameter(self.weight_of(name).to(dtype)))
            return module

    return [register(PackedEmbedding), register(PackedExperts)]


def test_another_kind_of_layer_is_one_class(tmp_path: Path, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedLayer.registry, "_classes", dict(PackedLayer.registry._classes))
    kinds = kinds_of_other_layers()
    model = build("mixtral", tied=False)
    quantized = RoundToNearest(bits=8, group_size=16, select=("linear", "experts", "embedding")).apply(model)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(ids).logits
    report = Pack().apply(model).report
    assert report.select("bits_per_weight", "all packed layers")[0].details["weights left dense"] == 0
    assert {kind for kind in kinds if any(isinstance(layer, kind) for layer in model.modules())} == set(kinds)
    assert len([name for name in quantized.stored if "experts" in name]) == 4, "two weights in each of two stacks"
    loaded = hardy.load(hardy.save(model, tmp_path / "packed"))
    assert describe(loaded) == describe(model)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert (loaded(ids).logits - expected).norm() < 0.02 * expected.norm()
    unpack(loaded)
    torch.testing.assert_close(loaded(ids).logits, expected)
    assert {name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, dense[name])} == set()


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
    refused = pytest.raises(InputError, match="no quantized weight is")
    with TritPlanes(group_size=16, select="embedding").apply(llama), refused:
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


@pytest.mark.parametrize("architecture", ["phi3", "gpt2"])
@pytest.mark.parametrize("method", [TritPlanes(group_size=16), RoundToNearest(bits=4, group_size=16)], ids=str)
def test_a_fused_projection_is_packed_whole(architecture: str, method: Quantizer) -> None:
    model = build(architecture)
    method = dataclasses.replace(method, select="linear,!head")
    method.apply(model)
    ids = torch.arange(9)[None]
    before = model(ids).logits
    report = Pack().apply(model).report
    assert next(iter(report.select(condition="all packed layers"))).details["weights left dense"] == 0
    assert not any(row.condition.endswith("dense") for row in report.rows)
    torch.testing.assert_close(model(ids).logits, before, rtol=0.1, atol=0.05)
