"""Models on a chip: every kind of layer, undo, programming and drift, calibration, what is refused."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from models import ConvNet, assert_same, build, same_bytes, snapshot
from torch import nn

import hardy
from hardy.analog import AnalogConv1D, AnalogConv2d, AnalogLinear, Deploy, clipping, drift, program
from hardy.analog.layers import stored_weights
from hardy.core import InputError, Site, chain, changes, select, weight_of
from hardy.hardware import AdditiveDevice, AdditiveNoise, Chip, TableDevice, program_matrix

IDEAL = Chip.preset("ideal")
PCM = Chip.preset("pcm")
WEIGHTS_ONLY = PCM.without_periphery()
EIGHT_BITS = dataclasses.replace(IDEAL, dac_bits=16, adc_bits=16, adc_range=64.0, tile_rows=16, tile_columns=16)
"""Converters so fine that the result is that of the digital model."""


def stored(model: nn.Module, site: Site | str) -> torch.Tensor:
    """What the arrays hold of a weight, (out, in)."""
    module = model.get_submodule(site if isinstance(site, str) else site.module)
    return module.stored.matrices(module.stored_weight().detach())


def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture
def conv() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvNet().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3", "gpt_neox", "opt", "mamba"])
def test_every_architecture_on_a_chip(architecture: str, ids: torch.Tensor) -> None:
    model = build(architecture)
    clean, before, keys = logits(model, ids), snapshot(model), list(model.state_dict())
    with Deploy(chip=IDEAL).apply(model):
        assert list(model.state_dict()) == keys
        assert same_bytes(model.state_dict()[keys[3]], before[keys[3]][1])
        torch.testing.assert_close(logits(model, ids), clean, rtol=1e-5, atol=1e-5)
    with Deploy(chip=EIGHT_BITS).apply(model):
        torch.testing.assert_close(logits(model, ids), clean, rtol=0.02, atol=0.02)
        assert not torch.equal(logits(model, ids), clean)
    with Deploy(chip=PCM, seed=3, seconds=60).apply(model) as change:
        first, second = logits(model, ids), logits(model, ids)
        assert not torch.equal(first, second), "every read is another draw"
        assert torch.isfinite(first).all()
        assert change.report.value("relative_error", "all selected weights") > 0.01
    assert_same(before, model)
    assert torch.equal(logits(model, ids), clean)


def test_layers_are_drop_in(llama: nn.Module) -> None:
    layer = llama.model.layers[0].mlp.up_proj
    Deploy(chip=PCM, select="mlp.up").apply(llama)
    new = llama.model.layers[0].mlp.up_proj
    assert type(new) is AnalogLinear
    assert isinstance(new, nn.Linear)
    assert (new.in_features, new.out_features) == (layer.in_features, layer.out_features)
    assert new.training == layer.training
    assert [site.name for site in select(llama, "mlp.up")] == [f"model.layers.{i}.mlp.up_proj" for i in range(2)]
    assert repr(new) == repr(layer).replace("Linear", "AnalogLinear")
    assert type(llama.model.layers[0].mlp.down_proj) is nn.Linear


def test_weights_are_those_of_the_chip_instance(llama: nn.Module) -> None:
    site = select(llama, "mlp.down", layers=1)[0]
    clean = weight_of(llama, site).clone()
    Deploy(chip=PCM, select="mlp.down", seed=4, seconds=100).apply(llama)
    expected = program_matrix(clean, PCM, seed=4, site=site.name, seconds=100).weight
    assert torch.equal(stored(llama, site), expected)
    assert torch.equal(weight_of(llama, site), clean), "the parameter stays the digital weight"


def test_bfloat16_models_hold_the_same_chip_rounded(ids: torch.Tensor) -> None:
    exact, rounded = build("llama"), build("llama", dtype=torch.bfloat16)
    exact.load_state_dict({name: tensor.float() for name, tensor in rounded.state_dict().items()})
    for model in (exact, rounded):
        Deploy(chip=PCM, seed=1).apply(model)
    for site in select(exact):
        assert torch.equal(stored(rounded, site), stored(exact, site).bfloat16())
    assert logits(rounded, ids).dtype == torch.bfloat16


def test_parts_of_a_fused_projection_are_arrays_of_their_own(ids: torch.Tensor) -> None:
    model = build("gpt2")
    clean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Deploy(chip=PCM, select="attention.k", layers=0, seed=2).apply(model)
    module = model.transformer.h[0].attn.c_attn
    assert type(module) is AnalogConv1D
    old, new = clean["transformer.h.0.attn.c_attn.weight"], module.stored_weight().detach()
    assert torch.equal(new[:, :32], old[:, :32])
    assert torch.equal(new[:, 64:], old[:, 64:])
    assert not torch.equal(new[:, 32:64], old[:, 32:64])
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    y, plain = module(x), x @ new + module.bias
    torch.testing.assert_close(y[:, :32], plain[:, :32])
    torch.testing.assert_close(y[:, 64:], plain[:, 64:])
    assert (y - plain)[:, 32:64].abs().min() > 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_convolutions(stride: int, padding: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, (3, 2), stride=stride, padding=padding, dilation=(1, 2)))
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    clean = model(x).detach()
    with Deploy(chip=IDEAL, select="conv").apply(model):
        assert torch.equal(model(x), clean)
    with Deploy(chip=EIGHT_BITS, select="conv").apply(model):
        assert type(model[0]) is AnalogConv2d
        torch.testing.assert_close(model(x), clean, rtol=5e-3, atol=5e-3)
        assert not torch.equal(model(x), clean)


CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (11,)),
    "1d causal": (lambda: nn.Conv1d(4, 6, 4, padding=3, dilation=2), (11,)),
    "3d": (lambda: nn.Conv3d(4, 6, (3, 2, 1), stride=(1, 2, 1), padding=1), (5, 4, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (7, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), (7, 6)),
    "same": (lambda: nn.Conv2d(4, 6, (5, 3), padding="same", dilation=(1, 2)), (7, 6)),
    "valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), (7, 6)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="circular"), (7, 6)),
    "reflect": (lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="reflect"), (7,)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=2, padding=1, output_padding=1), (7, 6)),
    "transposed groups": (lambda: nn.ConvTranspose1d(4, 6, 3, dilation=2, groups=2), (7,)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 3, 2, bias=False), (3, 4, 3)),
    "replicate": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate", groups=2), (7, 6)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_every_kind_of_convolution(kind: str) -> None:
    make, size = CONVOLUTIONS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(make()).eval()
    module = model[0]
    x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1))
    clean = model(x).detach()
    with Deploy(chip=IDEAL, select="conv").apply(model):
        assert torch.equal(model(x), clean)
    with Deploy(chip=EIGHT_BITS, select="conv").apply(model) as change:
        torch.testing.assert_close(model(x), clean, rtol=0.02, atol=0.02)
        assert not torch.equal(model(x), clean)
        torch.testing.assert_close(model[0](x[0])[None], model(x[:1]), rtol=0.02, atol=0.02)
        assert len(change.report.select("relative_error")) == 1 + module.groups
        assert sum(row.details["conversions"] for row in clipping(model).select("clipped_outputs")[:1]) > 0
    calibrated = dataclasses.replace(EIGHT_BITS, dac_range="calibrated", adc_range="calibrated")
    with Deploy(chip=calibrated, select="conv").apply(model, [x]):
        torch.testing.assert_close(model(x), clean, rtol=0.02, atol=0.02)
    assert model[0] is module


def test_the_groups_of_a_convolution_are_on_arrays_of_their_own() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight[2:] = 0
    x = torch.rand(1, 4, 2, 2)
    with Deploy(chip=EIGHT_BITS, select="conv").apply(model):
        moved = model(x + torch.tensor([0, 0, 5.0, 5.0])[:, None, None])
        assert torch.equal(moved[:, :2], model(x)[:, :2]), "what group 1 is given does not reach group 0's converters"


def test_a_whole_network_of_convolutions(conv: nn.Module, images: torch.Tensor) -> None:
    clean, before = conv(images).detach(), snapshot(conv)
    with Deploy(chip=EIGHT_BITS, select="conv,linear").apply(conv):
        torch.testing.assert_close(conv(images), clean, rtol=0.02, atol=0.02)
    chip = dataclasses.replace(EIGHT_BITS, dac_range="calibrated", adc_range="calibrated")
    with Deploy(chip=chip, select="conv,linear").apply(conv, [images]):
        torch.testing.assert_close(conv(images), clean, rtol=0.02, atol=0.02)
    assert_same(before, conv)


def test_weights_in_channels_last_order_are_written_to(conv: nn.Module, images: torch.Tensor) -> None:
    deployments = []
    for model in (conv, copy.deepcopy(conv).to(memory_format=torch.channels_last)):
        Deploy(chip=WEIGHTS_ONLY, select="conv").apply(model)
        deployments.append(model)
    first, second = (model.features[0].weight.detach() for model in deployments)
    assert torch.equal(first, second)
    torch.testing.assert_close(deployments[0](images), deployments[1](images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mixtral", "olmoe"])
def test_stacks_of_experts(architecture: str, ids: torch.Tensor) -> None:
    model = build(architecture)
    before = snapshot(model)
    site = select(model, "experts")[0]
    clean = weight_of(model, site).clone()
    with Deploy(chip=WEIGHTS_ONLY, select="experts", seed=1, seconds=50).apply(model):
        parameter, held = next(iter(stored_weights(model)))
        for i in range(len(clean)):
            expected = program_matrix(clean[i], WEIGHTS_ONLY, seed=1, site=f"{site.name}.{i}", seconds=50).weight
            assert torch.equal(held.values(parameter)[i], expected)
        as_stored = logits(model, ids)
        with pytest.raises(InputError, match="on a chip already"):
            Deploy(chip=PCM, select="experts").apply(model)
    assert_same(before, model)
    model.get_submodule(site.module)._parameters[site.parameter].data.copy_(expected_stack(clean, site))
    others = [other for other in select(model, "experts") if other.name != site.name]
    for other in others:
        model.get_submodule(other.module)._parameters[other.parameter].data.copy_(
            expected_stack(weight_of(model, other), other)
        )
    torch.testing.assert_close(logits(model, ids), as_stored)


def expected_stack(clean: torch.Tensor, site: Site) -> torch.Tensor:
    """Every expert on arrays of its own, matrix by matrix."""
    return torch.stack(
        [
            program_matrix(matrix, WEIGHTS_ONLY, seed=1, site=f"{site.name}.{i}", seconds=50).weight
            for i, matrix in enumerate(clean)
        ]
    )


@pytest.mark.parametrize("architecture", ["mixtral", "olmoe"])
def test_mixtures_meet_converters_and_read_noise_everywhere(architecture: str, ids: torch.Tensor) -> None:
    model = build(architecture)
    clean, before, implementation = logits(model, ids), snapshot(model), model.config._experts_implementation
    with Deploy(chip=EIGHT_BITS, select="linear,router").apply(model, [ids]):
        torch.testing.assert_close(logits(model, ids), clean, rtol=0.05, atol=0.05)
        assert not torch.equal(logits(model, ids), clean)
        rows = clipping(model).select("clipped_outputs")
        assert {"experts", "gate"} <= {word for row in rows for word in row.condition.split(".")}
    coarse = dataclasses.replace(IDEAL, adc_bits=3, dac_bits=3)
    with Deploy(chip=coarse, select="experts").apply(model, [ids]):
        assert (logits(model, ids) - clean).norm() > 0.01 * clean.norm()
    with Deploy(chip="reram-wan", seed=1).apply(model, [ids]):
        first = logits(model, ids)
        assert not torch.equal(first, logits(model, ids)), "every read is another draw"
        drift(model, 86400)
        day = next(stored.values(parameter).clone() for parameter, stored in stored_weights(model))
        program(model, 2)
        program(model, 1)
        assert torch.equal(day, next(stored.values(parameter) for parameter, stored in stored_weights(model)))
    assert model.config._experts_implementation == implementation
    assert_same(before, model)
    assert torch.equal(logits(model, ids), clean)


def test_programming_and_drifting_in_place(llama: nn.Module, ids: torch.Tensor) -> None:
    before = snapshot(llama)
    change = Deploy(chip=PCM, seed=0).apply(llama)
    layer = llama.model.layers[0].mlp.up_proj

    def weights() -> list[torch.Tensor]:
        return [stored(llama, site).clone() for site in select(llama)]

    def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    fresh = weights()
    drift(llama, 3600)
    drift(llama, 86400)
    day = weights()
    assert not same(fresh, day)
    program(llama, 7)
    assert llama.model.layers[0].mlp.up_proj is layer
    program(llama, 0)
    assert same(day, weights()), "time is an argument, not a history"
    drift(llama, 0)
    assert same(fresh, weights())
    drift(llama, 86400)
    assert change.method == Deploy(chip=PCM, seed=0, seconds=86400.0)
    assert changes(llama)[0].method.seconds == 86400.0
    with Deploy(chip=PCM, seconds=86400.0).apply(build("llama")) as other:
        assert same(day, [stored(other.model, site) for site in select(other.model)])
    change.undo()
    assert_same(before, llama)
    with pytest.raises(InputError, match="apply Deploy first"):
        drift(llama, 1)


def test_a_time_at_which_nothing_is_known_changes_nothing(llama: nn.Module) -> None:
    Deploy(chip="reram-wan").apply(llama)
    held = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    with pytest.raises(InputError, match="ReramWan is known up to 172800 s after programming, got 1e\\+06 s"):
        drift(llama, 1e6)
    with pytest.raises(InputError, match="seconds since programming must be"):
        drift(llama, -1)
    assert all(torch.equal(held[name], tensor) for name, tensor in llama.state_dict().items())
    clean = build("llama")
    before = snapshot(clean)
    with pytest.raises(InputError, match="known up to"):
        Deploy(chip="reram-wan", seconds=1e6).apply(clean)
    assert_same(before, clean)


def test_read_noise_is_active_in_evaluation_mode_and_reproducible(llama: nn.Module, ids: torch.Tensor) -> None:
    """aihwkit-lightning adds noise only while training."""
    llama.eval()
    copies = [copy.deepcopy(llama) for _ in range(2)]
    for model in copies:
        Deploy(chip="reram-wan", seed=5).apply(model)
    first = [logits(copies[0], ids) for _ in range(3)]
    second = [logits(copies[1], ids) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    twin = copy.deepcopy(copies[0])
    assert torch.equal(logits(twin, ids), logits(copies[0], ids)), "a copy goes on where the original stands"


def test_calibrated_ranges(llama: nn.Module, ids: torch.Tensor) -> None:
    chip = dataclasses.replace(EIGHT_BITS, dac_range="calibrated", adc_range="calibrated")
    clean = logits(llama, ids)
    before = snapshot(llama)
    with Deploy(chip=chip).apply(llama):  # without data the first inputs calibrate
        first = logits(llama, ids)
        torch.testing.assert_close(first, clean, rtol=0.02, atol=0.02)
        assert torch.equal(first, logits(llama, ids))
    with Deploy(chip=chip).apply(llama, [ids]):
        torch.testing.assert_close(logits(llama, ids), clean, rtol=0.02, atol=0.02)
        array = llama.model.layers[0].self_attn.q_proj.arrays[0]
        assert array.periphery.dac_range == pytest.approx(_largest_input(llama, ids), rel=1e-6)
        assert 0 < array.periphery.adc_range < 16
        ranges = array.periphery
        drift(llama, 0)
        assert llama.model.layers[0].self_attn.q_proj.arrays[0].periphery == ranges
    assert_same(before, llama)
    with Deploy(chip="pcm-foundation").apply(llama, iter([ids])):
        assert torch.isfinite(logits(llama, ids)).all()
    with pytest.raises(InputError, match="calibration was given no batches"):
        Deploy(chip="pcm-foundation").apply(llama, [])
    small = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(InputError, match="saw no input other than zero"):
        Deploy(chip="pcm-foundation", select="linear").apply(small, [torch.zeros(4, 3)])
    assert_same(before, llama)


def _largest_input(model: nn.Module, ids: torch.Tensor) -> float:
    inner = model.model
    with torch.no_grad():
        return inner.layers[0].input_layernorm(inner.embed_tokens(ids)).abs().max().item()


def test_gradients_reach_weights_inputs_and_biases() -> None:
    layer = nn.Linear(6, 4)
    model = nn.Sequential(layer)
    Deploy(chip=PCM, select="linear").apply(model)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    model(x).sum().backward()
    assert model[0].weight is layer.weight
    torch.testing.assert_close(layer.weight.grad, x.detach().sum(0).expand(4, 6))
    assert model[0].bias is layer.bias
    assert layer.bias.grad is not None
    torch.testing.assert_close(x.grad, model[0].stored_weight().detach().sum(0).expand(5, 6))


def test_a_module_in_two_places_is_one_set_of_arrays() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with Deploy(chip=PCM, select="linear").apply(model):
        assert model[0] is model[2]
        assert type(model[0]) is AnalogLinear
    assert model[0] is shared
    assert model[2] is shared


def test_a_tied_head_on_a_chip_leaves_the_embedding(ids: torch.Tensor) -> None:
    model = build("llama", tied=True)
    before = snapshot(model)
    with Deploy(chip=WEIGHTS_ONLY, select="head").apply(model):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert not torch.equal(model.lm_head.stored_weight(), model.model.embed_tokens.weight)
        assert same_bytes(model.model.embed_tokens.weight, before["model.embed_tokens.weight"][1])
    assert_same(before, model)


def test_with_other_methods(llama: nn.Module) -> None:
    before = snapshot(llama)
    both = chain(AdditiveNoise(strength=0.1), Deploy(chip=WEIGHTS_ONLY, select="mlp"))
    with both.apply(llama), AdditiveNoise(strength=0.1, select="mlp").apply(llama):
        pass
    assert_same(before, llama)
    with both.apply(llama) as change:
        drift(llama, 60)
        assert change.method == chain(
            AdditiveNoise(strength=0.1), Deploy(chip=WEIGHTS_ONLY, select="mlp", seconds=60.0)
        )
    assert_same(before, llama)
    first = Deploy(chip=PCM, select="mlp").apply(llama)
    with pytest.raises(InputError, match="mlp.gate_proj is on a chip already"):
        Deploy(chip=PCM).apply(llama)
    second = Deploy(chip=PCM, select="attention").apply(llama)
    first.undo()
    second.undo()
    assert_same(before, llama)


def test_what_no_chip_takes() -> None:
    model = build("mamba")
    with pytest.raises(InputError, match="is a Bilinear; a chip takes"):
        Deploy(chip=PCM, select="0").apply(nn.Sequential(nn.Bilinear(2, 2, 3)))
    with pytest.raises(InputError, match="is a Embedding; a chip takes|is an Embedding; a chip takes"):
        Deploy(chip=PCM, select="embedding").apply(model)
    model.backbone.layers[0].mixer.in_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        Deploy(chip=PCM).apply(model)


def test_a_chip_by_name_file_object_or_record(tmp_path: Path) -> None:
    PCM.save(tmp_path / "chip.json")
    for chip in ("pcm", PCM, PCM.to_dict(), str(tmp_path / "chip.json")):
        assert Deploy(chip=chip) == Deploy(chip=PCM)
    (tmp_path / "cells.csv").write_text("level,mean,std\n0,0.2,0.1\n20,20,0.4\n")
    measured = Deploy(chip=str(tmp_path / "cells.csv")).chip
    assert measured.device == TableDevice.from_csv(tmp_path / "cells.csv")
    assert dataclasses.replace(measured, device=Chip.preset("reram-wan").device) == Chip.preset("reram-wan")
    with pytest.raises(InputError, match="cannot be read"):
        Deploy(chip=str(tmp_path / "nowhere.csv"))


def test_moved_and_cast_models_go_on(llama: nn.Module, ids: torch.Tensor) -> None:
    Deploy(chip=dataclasses.replace(PCM, read_noise=0.0)).apply(llama)
    expected = logits(llama, ids)
    llama.to("cpu").double()
    assert torch.isfinite(logits(llama, ids)).all()
    assert llama.model.layers[0].mlp.up_proj.arrays[0].state.scale.dtype == torch.float32
    assert logits(llama, ids).dtype == torch.float64
    torch.testing.assert_close(logits(llama, ids).float(), expected, rtol=0.05, atol=0.05)


def test_additive_cells_are_the_additive_noise_of_the_hardware_room() -> None:
    """One output channel's range, two cells to a weight: the noise of a weight is sqrt(2) times a cell's."""
    model = nn.Sequential(nn.Linear(1000, 300))
    clean = model[0].weight.detach().clone()
    Deploy(chip=Chip(device=AdditiveDevice(program=0.05)), select="linear").apply(model)
    noise = (stored(model, "0") - clean) / clean.abs().amax(1, keepdim=True)
    assert noise.std().item() == pytest.approx(0.05 * 2**0.5, rel=0.01)


def test_the_trained_model_survives_a_good_chip_and_not_a_bad_one() -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    ids = hardy.evaluate.encode(tokenizer, hardy.zoo.held_out_text("calibration"))[:512]

    def loss() -> float:
        return hardy.evaluate.token_losses(model, ids, window=512).mean().item()

    clean = loss()
    with Deploy(chip="reram-cmo-0.2").apply(model):
        good = loss()
    with Deploy(chip="reram-wan", seconds=86400.0).apply(model):
        bad = loss()
    assert abs(good - clean) < 0.1
    assert bad > good
