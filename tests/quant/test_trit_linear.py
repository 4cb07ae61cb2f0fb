"""The linear layer of trit-planes: what it stores, what it holds in memory, and every way into it."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn
from trit_matrices import activations, matrix_of, random_trits

from hardy.errors import InputError
from hardy.ops.packing import pack_trits
from hardy.ops.trit_matrix import unpack
from hardy.ops.trit_product import trit_product_reference
from hardy.quant import TritLinear, TritPlanes
from hardy.quant.trit_planes import fit, stored_bits

BIAS = torch.linspace(-1, 1, 20)


def layer_of(planes: int = 2, rows: int = 20, width: int = 52, group_size: int = 16) -> TritLinear:
    trits, scales = random_trits(planes, rows, width, group_size)
    return TritLinear.from_trits(trits, scales.clamp(max=1), width, BIAS if rows == 20 else None)


def empty_like(layer: TritLinear, device: str | None = None) -> TritLinear:
    return TritLinear(
        layer.in_features, layer.out_features, layer.planes, layer.group_size, layer.bias is not None, device=device
    )


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def in_memory(layer: TritLinear) -> set[str]:
    return {name for name, buffer in layer.named_buffers() if buffer is not None}


def test_is_the_product_with_the_weight_that_trit_planes_give() -> None:
    model = nn.Sequential(nn.Linear(100, 30))
    weight = model[0].weight.detach().clone()
    found = fit(weight, 2, 32)
    trits, scales = found.trits, found.scales
    layer = TritLinear.from_trits(trits, scales, 100, model[0].bias)
    with TritPlanes(planes=2, group_size=32, select="*").apply(model) as change:
        x = activations(7, 100)
        torch.testing.assert_close(layer.dequantize(), model[0].weight.detach())
        expected = model(x).detach()
        assert (layer(x) - expected).norm() < 0.02 * expected.norm()
        assert torch.equal(layer(x), trit_product_reference(x, layer.matrix()) + model[0].bias)
        total = next(row.value for row in change.report.rows if row.metric == "bits_per_weight")
    assert layer.bits_per_weight == pytest.approx(total)


def test_what_is_stored_is_five_trits_to_a_byte_and_float16_scales() -> None:
    trits, scales = random_trits(2, 20, 52, 16)
    layer = TritLinear.from_trits(trits, scales, 52, BIAS)
    state = layer.state_dict()
    assert set(state) == {"trits", "scales", "bias"}
    assert torch.equal(state["trits"], pack_trits(trits.flatten(2)[..., :52]))
    assert torch.equal(state["scales"], scales[..., 0])
    assert torch.equal(state["bias"], BIAS)
    bits = 8 * state["trits"].numel() + 16 * state["scales"].numel()
    assert bits == stored_bits((20, 52), 2, 4)
    assert layer.bits_per_weight == bits / (20 * 52)
    memory = 8 * sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert layer.bits_per_weight_in_memory == memory / (20 * 52)


def test_bits_of_two_planes_in_groups_of_128() -> None:
    layer = TritLinear(4096, 4096, 2, 128, device="meta")
    assert layer.bits_per_weight == 3.453125
    assert layer.bits_per_weight_in_memory == 4.25


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_memory_never_holds_both_forms_and_the_stored_one_comes_back(planes: int) -> None:
    layer = layer_of(planes, rows=37)
    state = layer.state_dict()
    loaded = empty_like(layer)
    loaded.load_state_dict(state)
    assert in_memory(loaded) == {"trits", "scales"}
    result = loaded(activations(3, 52))
    assert in_memory(loaded) == {"codes_in_memory", "scale_bits"}
    assert torch.equal(result, layer(activations(3, 52)))
    assert same(loaded.state_dict(), state)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_loading_replaces_the_weight_of_a_fresh_or_used_layer(assign: bool, used: bool) -> None:
    source = layer_of()
    target = TritLinear(52, 20, 2, 16, bias=True)
    if used:
        target(activations(2, 52))
    target.load_state_dict(source.state_dict(), assign=assign)
    assert torch.equal(target(activations(2, 52)), source(activations(2, 52)))


def test_loading_a_part_keeps_the_rest() -> None:
    layer, other = layer_of(), layer_of()
    scales = other.state_dict()["scales"] * 2
    layer.load_state_dict({"scales": scales}, strict=False)
    torch.testing.assert_close(layer.dequantize(), other.dequantize() * 2)
    layer.scales = scales / 2
    assert same(layer.state_dict(), other.state_dict())
    assert torch.equal(layer.dequantize(), other.dequantize())
    with pytest.raises(RuntimeError, match="size mismatch for trits"):
        layer.load_state_dict({"trits": torch.zeros(2, 20, 3, dtype=torch.uint8)}, strict=False)
    assert same(layer.state_dict(), other.state_dict())


@pytest.mark.parametrize("by", ["buffers", "attributes"])
def test_tensors_can_be_put_into_a_layer_on_the_meta_device(by: str) -> None:
    source = layer_of()
    with torch.device("meta"):
        target = empty_like(source)
    with pytest.raises(InputError, match="on the meta device: nothing was loaded into it"):
        target.prepare()
    for name, tensor in source.state_dict().items():
        if name == "bias":
            target.bias = nn.Parameter(tensor)
        elif by == "buffers":
            target._buffers[name] = tensor
        else:
            setattr(target, name, tensor)
    assert torch.equal(target(activations(2, 52)), source(activations(2, 52)))


def test_a_model_with_such_layers_goes_through_safetensors(tmp_path: Path) -> None:
    model = nn.Sequential(layer_of(), nn.ReLU(), nn.Linear(20, 3))
    x = activations(4, 52)
    expected = model(x)
    save_model(model, str(tmp_path / "model.safetensors"))
    again = nn.Sequential(empty_like(model[0]), nn.ReLU(), nn.Linear(20, 3))
    load_model(again, str(tmp_path / "model.safetensors"))
    assert torch.equal(again(x), expected)


@pytest.mark.parametrize("prepared", [False, True])
def test_casts_touch_the_bias_only(prepared: bool) -> None:
    source = layer_of()
    layer = empty_like(source)
    layer.load_state_dict(source.state_dict())
    if prepared:
        layer.prepare()
    for cast in (layer.bfloat16, layer.double, layer.half, lambda: layer.to(torch.bfloat16)):
        cast()
        assert torch.equal(layer.state_dict()["scales"], source.state_dict()["scales"])
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16
    assert torch.equal(layer.dequantize(), source.dequantize())
    result = layer(activations(2, 52).bfloat16())
    assert result.dtype == torch.bfloat16
    assert layer(activations(2, 52)).dtype == torch.float32
    assert layer.dequantize(torch.bfloat16).dtype == torch.bfloat16


def test_moving_to_another_device_moves_everything() -> None:
    layer = layer_of()
    assert {buffer.device.type for buffer in copy.deepcopy(layer).to("meta").buffers()} == {"meta"}
    fresh = empty_like(layer).to("meta")
    assert {tensor.device.type for tensor in fresh.state_dict().values()} == {"meta"}
    assert fresh.state_dict()["scales"].dtype == torch.float16


@pytest.mark.parametrize("used", [False, True])
def test_copies_and_pickles(used: bool) -> None:
    layer = empty_like(layer_of())
    layer.load_state_dict(layer_of().state_dict())
    x = activations(3, 52)
    expected = layer_of()(x)
    if used:
        layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), expected)
        other.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in layer.state_dict().items()})
        assert not other(x).any()
    assert torch.equal(layer(x), expected)
    bytes_in_memory = layer.bits_per_weight_in_memory * 20 * 52 / 8
    assert len(pickle.dumps(layer_of())) < 2 * bytes_in_memory + 4000


def test_gradients_reach_input_and_bias() -> None:
    layer = layer_of()
    x = activations(3, 52).requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.dequantize().sum(0).expand(3, 52))
    assert layer.bias is not None
    torch.testing.assert_close(layer.bias.grad, torch.full((20,), 3.0))
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


@pytest.mark.parametrize("used", [False, True])
def test_compiles_without_a_graph_break_also_when_it_was_just_loaded(used: bool) -> None:
    matrix = matrix_of(2, 40, 100, 32, largest=1)
    trits, scales = unpack(matrix)
    stored = TritLinear.from_trits(trits, scales.float(), 100, bias=torch.ones(40)).state_dict()
    layer = TritLinear(100, 40, 2, 32, bias=True)
    layer.load_state_dict(stored)
    x = activations(6, 100)
    expected = trit_product_reference(x, matrix) + 1
    if used:
        layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")  # a break would be an error
    assert torch.equal(compiled(x), expected)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(compiled(2 * x), trit_product_reference(2 * x, matrix) + 1)
    assert layer.trits is None


def test_first_used_in_inference_mode_it_can_still_be_trained_through() -> None:
    layer = empty_like(layer_of())
    layer.load_state_dict(layer_of().state_dict())
    with torch.inference_mode():
        layer(activations(3, 52))
    x = activations(3, 52).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


def test_says_what_it_is_and_makes_its_weight_when_it_is_read() -> None:
    layer = layer_of()
    described = "in_features=52, out_features=20, planes=2, group_size=16, bias=True, rotation=0"
    assert repr(layer) == f"TritLinear({described})"
    assert torch.equal(layer.weight, layer.dequantize())
    assert "weight" not in dict(layer.named_parameters())
    with pytest.raises(AttributeError, match="'TritLinear' object has no attribute 'wieght'"):
        layer.wieght  # noqa: B018
    assert TritLinear(52, 20, 2, None).group_size == 52


def test_an_empty_layer_gives_zeros() -> None:
    assert not TritLinear(52, 20, 3, 16)(activations(2, 52)).any()


def test_refuses_what_does_not_fit() -> None:
    trits, scales = random_trits(2, 20, 52, 16)
    for wrong, message in (
        (lambda: TritLinear(52, 20, 4), "planes must be 1, 2 or 3, got 4"),
        (lambda: TritLinear(52, 20, 2, 0), "rows, width and group_size must be at least 1, got 20, 52 and 0"),
        (lambda: TritLinear.from_trits(trits, scales, 52, torch.zeros(21)), r"bias must be \(20,\), got \(21,\)"),
        (lambda: TritLinear.from_trits(trits, scales.float() / 3, 52), "scales must be finite float16 numbers"),
        (lambda: layer_of()(torch.zeros(2, 51)), r"the matrix takes \(\.\.\., 52\), got \(2, 51\)"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
    for name, tensor, message in (
        ("trits", torch.zeros(2, 20, 52, dtype=torch.uint8), r"trits must be uint8 \(2, 20, 11\), got torch.uint8"),
        ("trits", torch.zeros(2, 20, 11, dtype=torch.int8), "got torch.int8"),
        ("trits", torch.full((2, 20, 11), 243, dtype=torch.uint8), "damaged trits: a byte holds no 5 digits"),
        ("scales", torch.zeros(2, 20, 4).bfloat16(), "got torch.bfloat16.*would have rounded"),
        ("scales", torch.full((2, 20, 4), 1 / 3), "scales must be finite float16 numbers, got torch.float32"),
        ("scales", torch.full((2, 20, 4), torch.inf).half(), "scales must be finite float16 numbers"),
        ("scales", torch.zeros(2, 20, 4, 1).half(), r"scales must be float16 \(2, 20, 4\), got"),
    ):
        layer = layer_of()
        setattr(layer, name, tensor)
        with pytest.raises(InputError, match=message):
            layer(activations(1, 52))
